//! Decodes an ipBlock. An unreadable exception makes the block unusable: without the exception it
//! would allow more.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

use super::Fault;
use super::field::Field;
use crate::policy::object::Block;

/// Decodes an `ipBlock`.
pub(super) fn of(field: &Field<'_>, faults: &mut Vec<Fault>) -> Result<Block, Fault> {
    field.object()?;
    field.known(&["cidr", "except"])?;
    let text = field.text("cidr")?;
    let cidr = range(text).map_err(|reason| field.fault(format!("cidr {text:?} {reason}")))?;
    let mut excepts = Vec::new();
    let items = match field.get("except") {
        None => Vec::new(),
        Some(list) => list.items().ok_or_else(|| list.fault("is not a list"))?,
    };
    for item in items {
        let Some(text) = item.value.as_str() else { return Err(item.fault("is not a string")) };
        let except = range(text).map_err(|reason| item.fault(format!("{text:?} {reason}")))?;
        if !(cidr.contains(except.network()) && except.prefix() > cidr.prefix()) {
            faults.push(item.fault(format!("{text:?} is not a part of {cidr}: it excepts only what it covers")));
        }
        excepts.push(except);
    }
    Ok(Block { cidr, excepts })
}

/// Parses a CIDR as the API server does for stored objects, and clears its host bits.
///
/// Octets of IPv4 may have leading zeros and are decimal. IPv4-mapped IPv6 is refused.
pub(super) fn range(text: &str) -> Result<IpNetwork, &'static str> {
    let (address, prefix) = text.split_once('/').ok_or("is not a CIDR")?;
    let prefix = decimal(prefix).ok_or("is not a CIDR")?;
    let address = match ipv4(address) {
        Some(address) => IpAddr::V4(address),
        None => IpAddr::V6(address.parse::<Ipv6Addr>().map_err(|_| "is not a CIDR")?),
    };
    if matches!(address, IpAddr::V6(address) if address.to_ipv4_mapped().is_some()) {
        return Err("is an IPv4 range written as IPv6");
    }
    let range = IpNetwork::new(address, prefix).map_err(|_| "is not a CIDR")?;
    IpNetwork::new(range.network(), prefix).map_err(|_| "is not a CIDR")
}

fn ipv4(text: &str) -> Option<Ipv4Addr> {
    let octets: Vec<u8> = text.split('.').map(decimal).collect::<Option<_>>()?;
    <[u8; 4]>::try_from(octets).ok().map(Ipv4Addr::from)
}

/// Parses digits, of which the first may be zeros; `parse` alone would also take a sign.
fn decimal(text: &str) -> Option<u8> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}
