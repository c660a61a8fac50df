//! From the wire to compact objects, one fault at a time: what can't be used of an object is left out and reported by field,
//! and the rest counts.

mod address;
mod node;
mod scheduling;
mod service;
mod slice;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::intern::Interner;
use super::{ObjectKey, ObjectKind, Rejection};

/// Label of Services and slices that another service proxy takes care of.
pub const SERVICE_PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// Label of slices of headless Services.
pub const HEADLESS: &str = "service.kubernetes.io/headless";
/// Label of slices: the Service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// An object after decoding.
#[derive(Debug)]
pub struct Decoded<T> {
    /// Its name.
    pub key: ObjectKey,
    /// `None`: not for us.
    pub object: Option<T>,
    /// What could not be used of it.
    pub rejections: Vec<Rejection>,
}

/// Decodes objects for one node.
#[derive(Debug)]
pub struct Decoder {
    node: Box<str>,
    interner: Interner,
}

impl Decoder {
    /// For the node of this name.
    #[must_use]
    pub fn new(node: &str) -> Self {
        Self { node: node.into(), interner: Interner::default() }
    }

    fn key(&mut self, meta: &ObjectMeta, default_namespace: &str) -> ObjectKey {
        ObjectKey {
            namespace: self.interner.string(meta.namespace.as_deref().unwrap_or(default_namespace)),
            name: meta.name.as_deref().unwrap_or_default().into(),
        }
    }
}

fn label<'a>(meta: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    meta.labels.as_ref()?.get(name).map(String::as_str)
}

fn annotation<'a>(meta: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(name).map(String::as_str)
}

/// Gathers what is wrong with one object.
struct FieldErrors<'a> {
    kind: ObjectKind,
    key: &'a ObjectKey,
    found: Vec<Rejection>,
}

impl<'a> FieldErrors<'a> {
    const fn new(kind: ObjectKind, key: &'a ObjectKey) -> Self {
        Self { kind, key, found: Vec::new() }
    }

    fn add(&mut self, field: impl Into<String>, reason: impl Into<String>) {
        self.found.push(Rejection::of(self.kind, self.key, field, reason));
    }

    /// A port number from 1 to 65535.
    fn port(&mut self, field: impl FnOnce() -> String, value: i64) -> Option<u16> {
        let port = u16::try_from(value).ok().filter(|p| *p != 0);
        if port.is_none() {
            self.add(field(), format!("{value} is not a port from 1 to 65535"));
        }
        port
    }

    fn protocol(&mut self, field: impl FnOnce() -> String, value: Option<&str>) -> Option<u8> {
        use dataplane_common::types::service::proto;
        match value.unwrap_or("TCP") {
            "TCP" => Some(proto::TCP),
            "UDP" => Some(proto::UDP),
            "SCTP" => Some(proto::SCTP),
            other => {
                self.add(field(), format!("{other:?} is not TCP, UDP or SCTP"));
                None
            }
        }
    }

    /// A range, without bits beyond its prefix.
    fn range(&mut self, field: impl FnOnce() -> String, value: &str) -> Option<IpNetwork> {
        let parsed = value.parse::<IpNetwork>().ok().and_then(|r| IpNetwork::new(r.network(), r.prefix()).ok());
        match parsed {
            Some(IpNetwork::V6(range)) if range.network().to_ipv4_mapped().is_some() => {
                self.add(field(), format!("{value:?} is an IPv4 range written as IPv6"));
                None
            }
            None => {
                self.add(field(), format!("{value:?} is not a CIDR"));
                None
            }
            range => range,
        }
    }

    fn address(&mut self, field: impl FnOnce() -> String, value: &str) -> Option<IpAddr> {
        let parsed = value.parse().ok();
        if parsed.is_none() {
            self.add(field(), format!("{value:?} is not an IP address"));
        }
        parsed
    }
}
