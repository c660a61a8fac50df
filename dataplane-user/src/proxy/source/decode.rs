//! Decodes wire objects into compact ones.
//!
//! Tolerant: each unusable field is left out and reported with its path, and the other fields are
//! used. Used by both sources. Reads only the object itself; conflicts between objects are the task
//! of `desired` and `reconcile`.

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
use super::{MAX_OF_OBJECT, ObjectKey, ObjectKind, Rejection};

/// Label of Services and slices that another service proxy serves.
pub const SERVICE_PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// Label of the slices of headless Services.
pub const HEADLESS: &str = "service.kubernetes.io/headless";
/// Label of a slice with the name of its Service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The result of decoding an object.
#[derive(Debug)]
pub struct Decoded<T> {
    /// Namespace and name of the object.
    pub key: ObjectKey,
    /// The decoded object; `None` if the dataplane has no use for it.
    pub object: Option<T>,
    /// The parts that can't be used.
    pub rejections: Vec<Rejection>,
}

/// Decodes objects from the point of view of one node.
#[derive(Debug)]
pub struct Decoder {
    node: Box<str>,
    interner: Interner,
}

impl Decoder {
    /// Creates a decoder for the node of this name.
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

/// Collects the unusable fields of one object.
struct FieldErrors<'a> {
    kind: ObjectKind,
    key: &'a ObjectKey,
    found: Vec<Rejection>,
}

impl<'a> FieldErrors<'a> {
    const fn new(kind: ObjectKind, key: &'a ObjectKey) -> Self {
        Self { kind, key, found: Vec::new() }
    }

    /// Adds a rejection unless there are [`MAX_OF_OBJECT`] already.
    fn add(&mut self, field: impl Into<String>, reason: impl Into<String>) {
        if self.found.len() >= MAX_OF_OBJECT {
            return;
        }
        self.found.push(Rejection::of(self.kind, self.key, field, reason));
    }

    /// Parses a port number from 1 to 65535.
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

    /// Parses a CIDR and clears the bits beyond its prefix.
    fn range(&mut self, field: impl FnOnce() -> String, value: &str) -> Option<IpNetwork> {
        let parsed = value.parse::<IpNetwork>().ok().and_then(|r| IpNetwork::new(r.network(), r.prefix()).ok());
        match parsed {
            // IPv4 clients are looked up in IPv4 tries, so an IPv4-mapped range would match none.
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
