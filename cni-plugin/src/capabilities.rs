//! The runtime's requests for one attachment: `runtimeConfig` and `CNI_ARGS`, by the CNI
//! conventions.
//!
//! ADD and CHECK parse them; each capability has a module. Written by hand, because there is no
//! maintained Rust crate of the CNI types, and because every value is untrusted and each error must
//! name its field.

mod addresses;
mod bandwidth;
mod dns;
mod ports;
mod ranges;

use std::net::IpAddr;

use dataplane_host::store::PortMapping;
use serde_json::{Map, Value};

pub(crate) use bandwidth::Bandwidth;
pub(crate) use ranges::Span;

use crate::env::Arguments;
use crate::error::CniError;

/// The checked arguments of the capabilities that the configuration offers.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Capabilities {
    /// Host ports, sorted, each once.
    pub(crate) ports: Vec<PortMapping>,
    /// Rate limits in bytes a second, both directions.
    pub(crate) bandwidth: Bandwidth,
    /// Ranges that the addresses must come from, at most one set per family.
    pub(crate) ranges: Vec<Vec<Span>>,
    /// Requested addresses, at most one per family.
    pub(crate) ips: Vec<IpAddr>,
    /// Requested MAC of the pod's end.
    pub(crate) mac: Option<[u8; 6]>,
    /// DNS settings, in the form of a result.
    pub(crate) dns: Option<Value>,
}

impl Capabilities {
    /// Reads `runtimeConfig` and `CNI_ARGS`. Unknown capabilities are ignored.
    pub(crate) fn parse(runtime: Option<&Value>, arguments: &Arguments) -> Result<Self, CniError> {
        let mut fields = match runtime.cloned().map(lower_keys) {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(fields)) => fields,
            Some(_) => return Err(CniError::config("runtimeConfig", "is not a JSON object")),
        };
        Ok(Self {
            ports: ports::parse(fields.remove("portmappings"))?,
            bandwidth: bandwidth::parse(fields.remove("bandwidth"))?,
            ranges: ranges::parse(fields.remove("ipranges"))?,
            ips: addresses::ips(fields.remove("ips"), arguments.ip.as_deref())?,
            mac: addresses::mac(fields.remove("mac"), arguments.mac.as_deref())?,
            dns: dns::parse(fields.remove("dns"))?,
        })
    }
}

/// Lowers all keys. Some runtimes write `HostPort` for `hostPort`, and the reference plugins ignore
/// the case as well.
fn lower_keys(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            fields.into_iter().map(|(key, value)| (key.to_ascii_lowercase(), lower_keys(value))).collect()
        }
        Value::Array(items) => items.into_iter().map(lower_keys).collect(),
        other => other,
    }
}
