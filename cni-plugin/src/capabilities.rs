//! What the runtime asks for one attachment: `runtimeConfig` and `CNI_ARGS`, by the conventions of CNI.

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
    /// Limits of its traffic.
    pub(crate) bandwidth: Bandwidth,
    /// The ranges that its addresses are to be of: at most one set of each family.
    pub(crate) ranges: Vec<Vec<Span>>,
    /// The addresses that it is to have, at most one of each family.
    pub(crate) ips: Vec<IpAddr>,
    /// The MAC that it is to have.
    pub(crate) mac: Option<[u8; 6]>,
    /// For the result, in its form.
    pub(crate) dns: Option<Value>,
}

impl Capabilities {
    /// Reads `runtimeConfig` and `CNI_ARGS`. Capabilities that nobody has offered are not looked at.
    pub(crate) fn parse(runtime: Option<&Value>, arguments: &Arguments) -> Result<Self, CniError> {
        let mut fields = match runtime.cloned().map(lower_keys) {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(fields)) => fields,
            Some(_) => return Err(CniError::config("runtimeConfig", "is no object")),
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

/// Some runtimes write `HostPort` where the convention has `hostPort`: the reference plugins don't look at the case.
fn lower_keys(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            fields.into_iter().map(|(key, value)| (key.to_ascii_lowercase(), lower_keys(value))).collect()
        }
        Value::Array(items) => items.into_iter().map(lower_keys).collect(),
        other => other,
    }
}
