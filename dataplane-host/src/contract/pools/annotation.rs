//! Annotations by which a pod or a namespace asks for pools, and a pod for an address.
//!
//! The agent parses those of namespaces, the plugin those of pods. Their values are untrusted:
//! every user who may create pods can set them. A value must be a JSON list of object names or of
//! addresses; anything else is rejected, never guessed.

use std::net::IpAddr;

use dataplane_common::types::ip_family::IpFamily;
use serde::{Deserialize, Serialize};

/// Names of pools for the IPv4 address, as in `["web", "spare"]`; used up in this order.
pub const IPV4_POOLS: &str = "ropeway.dev/ipv4pools";
/// The same for the IPv6 address.
pub const IPV6_POOLS: &str = "ropeway.dev/ipv6pools";
/// Addresses, at most one of each family, as in `["10.1.2.3"]`; pods only.
pub const IP_ADDRS: &str = "ropeway.dev/ipAddrs";

/// Largest number of names in one annotation.
const MOST_NAMES: usize = 16;
/// Longest name of a Kubernetes object (RFC 1123 subdomain).
const MOST_NAME_BYTES: usize = 253;
/// Largest length of an annotation's value in bytes.
const MOST_BYTES: usize = MOST_NAMES * (MOST_NAME_BYTES + 4);

/// The pools and addresses that a pod or a namespace asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolRequest {
    /// Pools for the IPv4 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4_pools: Option<Vec<String>>,
    /// Pools for the IPv6 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6_pools: Option<Vec<String>>,
    /// Addresses, at most one of each family.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
}

/// The reason why an annotation was rejected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("annotation {annotation}: {reason}")]
pub struct AnnotationError {
    /// Name of the annotation, one of the constants above.
    pub annotation: &'static str,
    /// The reason why its value is invalid.
    pub reason: String,
}

impl PoolRequest {
    /// Parses the annotations that `get` returns.
    ///
    /// # Errors
    /// The first invalid annotation.
    pub fn from_annotations<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Result<Self, AnnotationError> {
        Ok(Self {
            ipv4_pools: get(IPV4_POOLS).map(|v| pools(IPV4_POOLS, v)).transpose()?,
            ipv6_pools: get(IPV6_POOLS).map(|v| pools(IPV6_POOLS, v)).transpose()?,
            addresses: get(IP_ADDRS).map(addresses).transpose()?.unwrap_or_default(),
        })
    }

    /// Returns whether there is no request.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.ipv4_pools.is_none() && self.ipv6_pools.is_none() && self.addresses.is_empty()
    }

    /// Returns the pools requested for one family.
    #[must_use]
    pub fn pools(&self, family: IpFamily) -> Option<&[String]> {
        match family {
            IpFamily::V4 => self.ipv4_pools.as_deref(),
            IpFamily::V6 => self.ipv6_pools.as_deref(),
        }
    }

    /// Returns the address requested for one family.
    #[must_use]
    pub fn address(&self, family: IpFamily) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|a| family.has(*a))
    }
}

fn pools(annotation: &'static str, value: &str) -> Result<Vec<String>, AnnotationError> {
    let names = list(annotation, value)?;
    let bad = |reason| Err(AnnotationError { annotation, reason });
    if names.is_empty() {
        return bad("names no pool".into());
    }
    for name in &names {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let inside = |c: char| plain(c) || matches!(c, '-' | '.');
        if name.len() > MOST_NAME_BYTES
            || !name.chars().all(inside)
            || !name.starts_with(plain)
            || !name.ends_with(plain)
        {
            return bad(format!("{name:?} cannot be the name of a pool"));
        }
    }
    Ok(names)
}

fn addresses(value: &str) -> Result<Vec<IpAddr>, AnnotationError> {
    let bad = |reason| AnnotationError { annotation: IP_ADDRS, reason };
    let parse = |text: &String| text.parse().map_err(|_| bad(format!("{text:?} is not an IP address")));
    let addresses: Vec<IpAddr> = list(IP_ADDRS, value)?.iter().map(parse).collect::<Result<_, _>>()?;
    let sixes = addresses.iter().filter(|a| a.is_ipv6()).count();
    match (addresses.len() - sixes, sixes) {
        (0, 0) => Err(bad("names no address".into())),
        (0 | 1, 0 | 1) => Ok(addresses),
        _ => Err(bad("names more than one address of a family".into())),
    }
}

fn list(annotation: &'static str, value: &str) -> Result<Vec<String>, AnnotationError> {
    let bad = |reason| AnnotationError { annotation, reason };
    if value.len() > MOST_BYTES {
        return Err(bad(format!("has {} bytes, {MOST_BYTES} are allowed", value.len())));
    }
    let list: Vec<String> =
        serde_json::from_str(value).map_err(|e| bad(format!("is not a JSON list of strings: {e}")))?;
    if list.len() > MOST_NAMES {
        return Err(bad(format!("has {} entries, {MOST_NAMES} are allowed", list.len())));
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(annotation: &str, value: &str) -> Result<PoolRequest, String> {
        PoolRequest::from_annotations(|name| (name == annotation).then_some(value)).map_err(|e| e.to_string())
    }

    #[test]
    fn valid_annotations_are_parsed() {
        assert!(request("example.com/other", "x").unwrap().is_empty());
        let names = request(IPV4_POOLS, r#"["web", "spare.v4"]"#).unwrap();
        assert_eq!(
            (names.pools(IpFamily::V4), names.pools(IpFamily::V6)),
            (Some(&["web".to_owned(), "spare.v4".into()][..]), None)
        );
        let both = request(IP_ADDRS, r#"["fd00::7","10.1.2.3"]"#).unwrap();
        assert_eq!(
            (both.address(IpFamily::V4), both.address(IpFamily::V6)),
            ("10.1.2.3".parse().ok(), "fd00::7".parse().ok())
        );
    }

    #[test]
    fn invalid_annotations_are_rejected() {
        let many = format!("[{}]", vec![r#""a""#; 17].join(","));
        let long = format!(r#"["{}"]"#, "a".repeat(254));
        let longest = format!("[{}]", " ".repeat(10_000));
        for (annotation, value, reason) in [
            (IPV4_POOLS, "web", "is not a JSON list of strings"),
            (IPV4_POOLS, "[]", "names no pool"),
            (IPV4_POOLS, r"[1]", "is not a JSON list of strings"),
            (IPV6_POOLS, r#"["../../etc"]"#, r#""../../etc" cannot be the name of a pool"#),
            (IPV6_POOLS, r#"["a/b"]"#, "cannot be the name"),
            (IPV6_POOLS, r#"["-a"]"#, "cannot be the name"),
            (IPV6_POOLS, r#"["A"]"#, "cannot be the name"),
            (IPV6_POOLS, r#"[""]"#, "cannot be the name"),
            (IPV4_POOLS, &many, "has 17 entries, 16 are allowed"),
            (IPV4_POOLS, &long, "cannot be the name"),
            (IPV4_POOLS, &longest, "bytes"),
            (IP_ADDRS, "[]", "names no address"),
            (IP_ADDRS, r#"["10.1.2.3/32"]"#, r#""10.1.2.3/32" is not an IP address"#),
            (IP_ADDRS, r#"["10.1.2.3","10.1.2.4"]"#, "more than one address of a family"),
            (IP_ADDRS, r#"["$(reboot)"]"#, "is not an IP address"),
        ] {
            let error = request(annotation, value).unwrap_err();
            assert!(error.starts_with(&format!("annotation {annotation}: ")) && error.contains(reason), "{error}");
        }
    }
}
