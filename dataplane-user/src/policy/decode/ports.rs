//! Decodes a port of a rule: a number, a range, or the name of a container port. The
//! caller decides what a rule with an unreadable port does.

use serde_json::Value;

use super::Fault;
use super::field::Field;
use crate::policy::object::{PortMatch, PortRange, protocol};

/// Longest name of a container port (RFC 6335, section 5.1).
const LONGEST_NAME: usize = 15;

/// Decodes an entry of `ports`.
pub(super) fn of(field: &Field<'_>) -> Result<PortMatch, Fault> {
    field.object()?;
    field.known(&["protocol", "port", "endPort"])?;
    let protocol = match field.get("protocol") {
        None => protocol::TCP,
        Some(name) => {
            let number = name.value.as_str().and_then(protocol_number);
            number.ok_or_else(|| name.fault("is not TCP, UDP or SCTP"))?
        }
    };
    let end = field.get("endPort");
    let port = match (field.get("port"), &end) {
        (None, None) => PortRange::All,
        (None, Some(end)) => return Err(end.fault("needs a port")),
        (Some(port), _) => match port.value {
            Value::String(_) if end.is_some() => return Err(field.fault("has an endPort and a named port")),
            Value::String(name) if is_port_name(name) => PortRange::Named(name.as_str().into()),
            Value::String(name) => return Err(port.fault(format!("{name:?} is not the name of a port"))),
            _ => {
                let first = number(&port)?;
                let last = end.as_ref().map_or(Ok(first), number)?;
                if last < first {
                    return Err(field.fault("has an endPort below its port"));
                }
                PortRange::Numbers(first, last)
            }
        },
    };
    Ok(PortMatch { protocol, port })
}

/// Returns the IP protocol number of a protocol that rules and container ports can name.
pub(super) fn protocol_number(name: &str) -> Option<u8> {
    match name {
        "TCP" => Some(protocol::TCP),
        "UDP" => Some(protocol::UDP),
        "SCTP" => Some(protocol::SCTP),
        _ => None,
    }
}

/// Decodes a port number.
pub(super) fn number(field: &Field<'_>) -> Result<u16, Fault> {
    let number = field.value.as_u64().and_then(|number| u16::try_from(number).ok()).filter(|number| *number != 0);
    number.ok_or_else(|| field.fault(format!("{} is not a port from 1 to 65535", field.value)))
}

fn is_port_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    name.len() <= LONGEST_NAME
        && name.bytes().all(allowed)
        && name.bytes().any(|byte| byte.is_ascii_lowercase())
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--")
}
