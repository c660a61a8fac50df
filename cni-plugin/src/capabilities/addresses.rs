//! Requested addresses and MAC: capabilities `ips` and `mac`, and `IP` and `MAC` of `CNI_ARGS`.
//!
//! Checks syntax only; whether an address is in the node's ranges is checked by [`crate::ranges`].

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde_json::Value;

use crate::error::CniError;
use crate::plan::HOST_MAC;

const IPS: &str = "runtimeConfig.ips";
const MAC: &str = "runtimeConfig.mac";

/// Builds the error for the place that a value comes from.
type MakeError = fn(String) -> CniError;

fn bad_argument(key: &str, reason: &str) -> CniError {
    CniError::environment("CNI_ARGS", format!("{key}: {reason}"))
}

/// Parses requested addresses, at most one per family. A prefix length is accepted and ignored:
/// pods have networks of one address.
pub(super) fn ips(value: Option<Value>, argument: Option<&str>) -> Result<Vec<IpAddr>, CniError> {
    let texts: Option<Vec<String>> =
        value.map_or(Ok(None), serde_json::from_value).map_err(|e| CniError::config(IPS, e.to_string()))?;
    let (texts, bad): (_, MakeError) = match (texts.unwrap_or_default(), argument) {
        (texts, None) => (texts, |reason| CniError::config(IPS, reason)),
        (texts, Some(list)) if texts.is_empty() => {
            (list.split(',').map(str::to_owned).collect(), |reason| bad_argument("IP", &reason))
        }
        _ => return Err(CniError::config(IPS, "and IP of CNI_ARGS both ask for addresses")),
    };
    let parse = |text: &String| {
        let network = text.parse::<IpNetwork>().map_err(|_| bad(format!("{text:?} is not an IP address")));
        network.map(|network| network.ip())
    };
    let ips: Vec<IpAddr> = texts.iter().map(parse).collect::<Result<_, _>>()?;
    let sixes = ips.iter().filter(|ip| ip.is_ipv6()).count();
    if sixes > 1 || ips.len() - sixes > 1 {
        Err(bad("names more than one address of a family".into()))
    } else {
        Ok(ips)
    }
}

/// Checks a requested MAC: unicast, and different from the host end's.
pub(super) fn mac(value: Option<Value>, argument: Option<&str>) -> Result<Option<[u8; 6]>, CniError> {
    let text: Option<String> =
        value.map_or(Ok(None), serde_json::from_value).map_err(|e| CniError::config(MAC, e.to_string()))?;
    let (text, bad): (_, MakeError) = match (text.filter(|text| !text.is_empty()), argument) {
        (Some(_), Some(_)) => return Err(CniError::config(MAC, "and MAC of CNI_ARGS both ask for one")),
        (Some(text), None) => (text, |reason| CniError::config(MAC, reason)),
        (None, Some(text)) => (text.to_owned(), |reason| bad_argument("MAC", &reason)),
        (None, None) => return Ok(None),
    };
    let mac = parse_mac(&text).ok_or_else(|| bad(format!("{text:?} is not a MAC address")))?;
    if mac[0] & 1 != 0 || mac == [0; 6] || mac == HOST_MAC {
        return Err(bad(format!("{text} cannot be a pod's MAC: it is a group MAC, zero, or the host end's")));
    }
    Ok(Some(mac))
}

/// Parses a MAC such as `02:00:00:00:00:01`; `-` as separator is accepted as well.
fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()))?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn addresses_have_one_source_and_one_per_family() {
        let ips = |value: Value, argument| ips(Some(value), argument).map_err(|e| e.to_string());
        let both: [IpAddr; 2] = ["10.1.0.5".parse().unwrap(), "fd00::5".parse().unwrap()];
        assert_eq!(ips(json!(["10.1.0.5/24", "fd00::5"]), None).unwrap(), both);
        assert_eq!(ips(json!([]), Some("10.1.0.5,fd00::5/64")).unwrap(), both);
        assert_eq!(ips(Value::Null, None).unwrap(), [] as [IpAddr; 0]);
        for (value, argument, words) in [
            (json!(["10.1.0.5", "10.1.0.6"]), None, "ips: names more than one"),
            (json!(["x"]), None, "ips: \"x\" is not an IP address"),
            (json!([]), Some("../x"), "CNI_ARGS: IP: \"../x\""),
            (json!(["10.1.0.5"]), Some("10.1.0.5"), "both ask"),
            (json!("10.1.0.5"), None, "ips: invalid type"),
        ] {
            assert!(ips(value.clone(), argument).unwrap_err().contains(words), "{value}");
        }
    }

    #[test]
    fn group_zero_and_host_macs_are_rejected() {
        let mac = |text: &str| mac(Some(text.into()), None).map_err(|e| e.to_string());
        assert_eq!(mac("02:00:00:00:00:0A").unwrap(), Some([2, 0, 0, 0, 0, 10]));
        assert_eq!(mac("").unwrap(), None);
        for text in ["01:00:00:00:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00", "ee:ee:ee:ee:ee:ee"] {
            assert!(mac(text).unwrap_err().contains("cannot be a pod's MAC"), "{text}");
        }
        for text in ["2:0:0:0:0:1", "02:00:00:00:00", "02:00:00:00:00:01:02", "02:00:00:00:00:+1", "x", "$(id)"] {
            assert!(mac(text).unwrap_err().contains("is not a MAC address"), "{text}");
        }
    }
}
