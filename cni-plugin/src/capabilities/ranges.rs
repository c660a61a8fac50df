//! Ranges for a pod's addresses: capability `ipRanges`.
//!
//! Checks syntax only; [`crate::ranges`] restricts the configured ranges to them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use serde::Deserialize;
use serde_json::Value;

use crate::error::CniError;
use crate::plan::gateway;

const FIELD: &str = "runtimeConfig.ipRanges";
/// Longest accepted list. Each address of the node is compared with each range.
const MOST_RANGES: usize = 64;

/// A part of a subnet, both ends included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) subnet: IpNetwork,
    pub(crate) first: IpAddr,
    pub(crate) last: IpAddr,
}

/// A range as runtimes write it.
#[derive(Deserialize)]
struct RawRange {
    #[serde(default)]
    subnet: String,
    #[serde(rename = "rangestart", default)]
    start: Option<String>,
    #[serde(rename = "rangeend", default)]
    end: Option<String>,
    #[serde(default)]
    gateway: Option<String>,
}

/// Parses `ipRanges`: a set of ranges for each address. Two sets of one family are an error,
/// because a pod has one address of each.
pub(super) fn parse(value: Option<Value>) -> Result<Vec<Vec<Span>>, CniError> {
    let raw: Option<Vec<Vec<RawRange>>> =
        value.map_or(Ok(None), serde_json::from_value).map_err(|e| CniError::config(FIELD, e.to_string()))?;
    let raw = raw.unwrap_or_default();
    let all = raw.iter().map(Vec::len).sum::<usize>();
    if all > MOST_RANGES {
        return Err(CniError::config(FIELD, format!("has {all} ranges, {MOST_RANGES} are allowed")));
    }
    let numbered = raw.iter().enumerate();
    let parsed =
        numbered.map(|(i, set)| ranges(set).map_err(|reason| CniError::config(FIELD, format!("set {i}: {reason}"))));
    let sets = parsed.collect::<Result<Vec<_>, _>>()?;
    let sixes = sets.iter().filter(|set| set.iter().any(|span| span.subnet.is_ipv6())).count();
    if sixes > 1 || sets.len() - sixes > 1 {
        return Err(CniError::config(FIELD, "has more than one set of a family, and a pod has one address of each"));
    }
    Ok(sets)
}

/// Parses the ranges of one set, which must be of one family.
fn ranges(raw: &[RawRange]) -> Result<Vec<Span>, String> {
    let spans = raw.iter().map(span).collect::<Result<Vec<_>, _>>()?;
    let v6 = spans.first().ok_or("is empty")?.subnet.is_ipv6();
    if spans.iter().all(|span| span.subnet.is_ipv6() == v6) {
        Ok(spans)
    } else {
        Err("has ranges of both families".into())
    }
}

fn span(raw: &RawRange) -> Result<Span, String> {
    let text = raw.subnet.as_str();
    let subnet: IpNetwork = text.parse().map_err(|_| format!("subnet {text:?} is not a network"))?;
    if subnet.ip() != subnet.network() {
        return Err(format!("subnet {text} has bits set beyond its prefix"));
    }
    let (first, last) = bounds(subnet);
    let end = |name: &str, text: Option<&String>, default| {
        let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(default) };
        let ip: IpAddr = text.parse().map_err(|_| format!("{name} {text:?} is not an IP address"))?;
        if subnet.contains(ip) { Ok(ip) } else { Err(format!("{name} {text} is not in {subnet}")) }
    };
    let first = end("rangeStart", raw.start.as_ref(), first)?;
    let last = end("rangeEnd", raw.end.as_ref(), last)?;
    if first > last {
        return Err(format!("rangeStart {first} comes after rangeEnd {last}"));
    }
    if raw.gateway.as_ref().is_some_and(|text| !text.is_empty()) {
        return Err(format!("gateway cannot be chosen: every pod's gateway is {}", gateway(first)));
    }
    Ok(Span { subnet, first, last })
}

/// Returns the first and last address of a subnet that pods can have: without the network's own
/// address and the broadcast address.
fn bounds(subnet: IpNetwork) -> (IpAddr, IpAddr) {
    match (subnet.network(), subnet.broadcast()) {
        (IpAddr::V4(a), IpAddr::V4(b)) if subnet.prefix() < 31 => {
            (Ipv4Addr::from_bits(a.to_bits() + 1).into(), Ipv4Addr::from_bits(b.to_bits() - 1).into())
        }
        (IpAddr::V6(a), b) if subnet.prefix() < 127 => (Ipv6Addr::from_bits(a.to_bits() + 1).into(), b),
        whole => whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capabilities::Capabilities;
    use crate::env::Arguments;
    use serde_json::json;

    fn ranges(value: &Value) -> Result<Vec<Vec<String>>, String> {
        let capabilities = Capabilities::parse(Some(&json!({ "ipRanges": value })), &Arguments::default())
            .map_err(|e| e.to_string())?;
        let show = |span: &Span| format!("{}: {} to {}", span.subnet, span.first, span.last);
        Ok(capabilities.ranges.iter().map(|set| set.iter().map(show).collect()).collect())
    }

    #[test]
    fn range_sets_are_parsed() {
        let both = json!([
            [{ "subnet": "10.1.2.0/24", "rangeStart": "10.1.2.9", "rangeEnd": "10.1.2.17" }, { "subnet": "10.1.3.0/24" }],
            [{ "subnet": "fd00:1::/64", "rangeStart": "", "gateway": "" }],
        ]);
        let four = ["10.1.2.0/24: 10.1.2.9 to 10.1.2.17", "10.1.3.0/24: 10.1.3.1 to 10.1.3.254"];
        let six = ["fd00:1::/64: fd00:1::1 to fd00:1::ffff:ffff:ffff:ffff"];
        assert_eq!(ranges(&both).unwrap(), [&four[..], &six[..]]);
        let ends = |subnet| ranges(&json!([[{ "subnet": subnet }]])).unwrap()[0][0].clone();
        assert_eq!(ends("10.1.2.4/31"), "10.1.2.4/31: 10.1.2.4 to 10.1.2.5");
        assert_eq!(ends("10.1.2.4/32"), "10.1.2.4/32: 10.1.2.4 to 10.1.2.4");
        assert_eq!(ends("fd00::4/127"), "fd00::4/127: fd00::4 to fd00::5");
        for nothing in [Value::Null, json!([])] {
            assert!(ranges(&nothing).unwrap().is_empty());
        }
    }

    #[test]
    fn invalid_ranges_are_rejected() {
        for (value, words) in [
            (json!({}), "ipRanges: invalid type"),
            (json!([{ "subnet": "10.1.0.0/24" }]), "ipRanges: invalid type"),
            (json!([[]]), "set 0: is empty"),
            (json!([[{}]]), "set 0: subnet \"\" is not a network"),
            (json!([[{ "subnet": "10.1.0.0/33" }]]), "is not a network"),
            (json!([[{ "subnet": "10.1.0.1/24" }]]), "bits set beyond"),
            (
                json!([[{ "subnet": "10.1.0.0/24", "rangeStart": "10.1.1.1" }]]),
                "rangeStart 10.1.1.1 is not in 10.1.0.0/24",
            ),
            (json!([[{ "subnet": "10.1.0.0/24", "rangeEnd": "x" }]]), "rangeEnd \"x\" is not an IP address"),
            (
                json!([[{ "subnet": "10.1.0.0/24", "rangeStart": "10.1.0.9", "rangeEnd": "10.1.0.8" }]]),
                "10.1.0.9 comes after rangeEnd 10.1.0.8",
            ),
            (json!([[{ "subnet": "10.1.0.0/24", "gateway": "10.1.0.1" }]]), "every pod's gateway is 169.254.1.1"),
            (json!([[{ "subnet": "10.1.0.0/24" }, { "subnet": "fd00::/64" }]]), "set 0: has ranges of both families"),
            (json!([[{ "subnet": "10.1.0.0/24" }], [{ "subnet": "10.2.0.0/24" }]]), "more than one set of a family"),
            (json!([vec![json!({ "subnet": "10.1.0.0/24" }); MOST_RANGES + 1]]), "has 65 ranges, 64 are allowed"),
        ] {
            let message = ranges(&value).unwrap_err();
            assert!(message.contains(words) && message.contains("runtimeConfig.ipRanges"), "{value}: {message}");
        }
    }
}
