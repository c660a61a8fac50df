//! The network configuration on standard input.
//!
//! Parses and checks it before any verb runs; fields of other plugins are ignored. Ranges and MTU
//! that it lacks come from `node.json`, see [`crate::ranges`].

use std::path::PathBuf;

use dataplane_host::contract::{self, NodeFile, ReservedPort};
use dataplane_host::pins;
use dataplane_host::store::{AttachmentId, Range};
use ipnetwork::IpNetwork;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::env::is_plain;
use crate::error::CniError;
use crate::spec::VERSIONS;

/// Names of GC's list. The second one was in the specification by mistake, and old runtimes use it.
const VALID: [&str; 2] = ["cni.dev/valid-attachments", "cni.dev/attachments"];

/// The configuration after all checks that do not depend on the verb.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NetworkConfig {
    pub(crate) version: &'static str,
    pub(crate) name: String,
    pub(crate) pin_root: PathBuf,
    pub(crate) state_dir: PathBuf,
    /// Configured ranges; empty: those of `node.json` apply.
    pub(crate) ranges: Vec<Range>,
    /// Configured MTU in bytes; 0: that of `node.json` applies.
    pub(crate) mtu: u32,
    /// Default DNS settings of the configuration, unchecked.
    pub(crate) dns: Option<Value>,
    pub(crate) prev_result: Option<Value>,
    /// `runtimeConfig`: the runtime's requests for this attachment. Only the verbs that use it
    /// check it, so that DEL succeeds with an invalid one.
    pub(crate) runtime: Option<Value>,
    /// The attachments that GC must keep, if the runtime lists them.
    pub(crate) valid: Option<Vec<AttachmentId>>,
}

/// An attachment in the form of GC's list.
#[derive(Deserialize)]
struct ValidAttachment {
    #[serde(rename = "containerID")]
    container: String,
    ifname: String,
}

impl NetworkConfig {
    /// Reads the configuration. Sets `version` as soon as it is known, so that also errors are
    /// printed in it.
    pub(crate) fn parse(input: &[u8], version: &mut String) -> Result<Self, CniError> {
        let mut input = object(input)?;
        let found = take::<String>(&mut input, "cniVersion")?.unwrap_or_else(|| "none".into());
        let known = VERSIONS.iter().find(|v| **v == found).ok_or(CniError::Version { found })?;
        (*known).clone_into(version);
        let bad = |field, reason: &str| Err(CniError::Config { field, reason: reason.into() });
        let name = match take::<String>(&mut input, "name")? {
            None => return bad("name", "is missing"),
            Some(name) if !is_plain(&name) || name.len() > 255 => {
                return bad(
                    "name",
                    "is not a valid network name: letters, digits, '.', '_' and '-', at most 255 bytes",
                );
            }
            Some(name) => name,
        };
        if take::<String>(&mut input, "type")?.is_none_or(|name| name.is_empty()) {
            return bad("type", "is missing");
        }
        let mut absolute = |field, default: &str| match take::<PathBuf>(&mut input, field)? {
            None => Ok(PathBuf::from(default)),
            Some(path) if path.is_absolute() && !path.as_os_str().as_encoded_bytes().contains(&0) => Ok(path),
            Some(path) => {
                Err(CniError::Config { field, reason: format!("{} is not an absolute path", path.display()) })
            }
        };
        let pin_root = absolute("pinRoot", pins::DEFAULT_ROOT)?;
        let state_dir = absolute("stateDir", contract::DEFAULT_STATE_DIR)?;
        let ranges: Vec<String> = take(&mut input, "ranges")?.unwrap_or_default();
        let mut valid = None;
        for field in VALID.into_iter().filter(|f| input.contains_key(*f)).collect::<Vec<_>>() {
            // libcni says "none" by null.
            valid = valid.or(Some(take::<Vec<ValidAttachment>>(&mut input, field)?.unwrap_or_default()));
        }
        Ok(Self {
            version: known,
            name,
            pin_root,
            state_dir,
            ranges: parse_ranges(&ranges).map_err(|reason| CniError::Config { field: "ranges", reason })?,
            mtu: take(&mut input, "mtu")?.unwrap_or(0),
            dns: take(&mut input, "dns")?,
            prev_result: take(&mut input, "prevResult")?,
            runtime: take(&mut input, "runtimeConfig")?,
            valid: valid.map(|list| list.into_iter().map(ValidAttachment::into_id).collect()),
        })
    }

    /// Fails if the configuration's version of the specification does not have the verb.
    pub(crate) fn require(&self, verb: &'static str, since: &'static str) -> Result<(), CniError> {
        let age = |version| VERSIONS.iter().position(|v| *v == version);
        if age(self.version) >= age(since) {
            Ok(())
        } else {
            Err(CniError::TooOld { verb, since, found: self.version })
        }
    }

    /// Reads what the agent wrote about the node, if the configuration leaves ranges or MTU to it.
    pub(crate) fn node_defaults(&self) -> Result<Option<NodeFile>, CniError> {
        if self.ranges.is_empty() || self.mtu == 0 { Ok(contract::read(&self.state_dir)?) } else { Ok(None) }
    }

    /// Returns the ports that the agent reserves; none if it has written no file.
    pub(crate) fn reserved_ports(&self) -> Result<Vec<ReservedPort>, CniError> {
        Ok(contract::read::<NodeFile>(&self.state_dir)?.map_or_else(Vec::new, |node| node.reserved_ports))
    }

    /// Returns the MTU that the configuration sets; the node's MTU does not matter then.
    pub(crate) fn own_mtu(&self) -> Option<u32> {
        (self.mtu != 0).then_some(self.mtu)
    }

    /// Returns the MTU of the pods that follow the node's; `None`: the agent has not written it
    /// yet.
    pub(crate) fn node_mtu(&self) -> Result<Option<u32>, CniError> {
        Ok(contract::read::<NodeFile>(&self.state_dir)?.map(|node| node.mtu).filter(|mtu| *mtu != 0))
    }
}

impl ValidAttachment {
    fn into_id(self) -> AttachmentId {
        AttachmentId { container: self.container, ifname: self.ifname }
    }
}

/// Parses standard input, which must be a JSON object.
pub(crate) fn object(input: &[u8]) -> Result<Map<String, Value>, CniError> {
    const WHAT: &str = "standard input";
    let decoded = serde_json::from_slice(input);
    match decoded.map_err(|e| CniError::Decode { what: WHAT.into(), reason: e.to_string() })? {
        Value::Object(fields) => Ok(fields),
        _ => Err(CniError::Config { field: WHAT, reason: "is not a JSON object".into() }),
    }
}

/// Returns a field of the configuration, if present. Fields of other plugins are not looked at.
pub(crate) fn take<T: DeserializeOwned>(
    input: &mut Map<String, Value>,
    field: &'static str,
) -> Result<Option<T>, CniError> {
    let value = input.remove(field).unwrap_or(Value::Null);
    serde_json::from_value(value).map_err(|e| CniError::Config { field, reason: e.to_string() })
}

/// Returns the smallest MTU with which a device can have addresses of the family.
pub(crate) const fn least_mtu(ipv6: bool) -> u32 {
    if ipv6 { 1280 } else { 68 }
}

fn parse_ranges(texts: &[String]) -> Result<Vec<Range>, String> {
    let parse = |text: &String| {
        let network: IpNetwork = text.parse().map_err(|e| format!("{text:?}: {e}"))?;
        Range::new(network).map_err(|e| e.to_string())
    };
    texts.iter().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::ranges::{self, PodRequest, Ranges};
    use crate::spec::NEWEST;

    fn resolve(config: &NetworkConfig) -> Result<Ranges, CniError> {
        ranges::resolve(config, None, PodRequest::default())
    }

    fn parse(text: &str) -> Result<NetworkConfig, (u32, String)> {
        NetworkConfig::parse(text.as_bytes(), &mut String::new()).map_err(|e| (e.code(), e.to_string()))
    }

    #[test]
    fn absent_fields_have_defaults_and_present_ones_are_used() {
        let config = parse(r#"{"cniVersion":"1.0.0","name":"pods","type":"ropeway-cni","unknown":[1]}"#).unwrap();
        assert_eq!(config.pin_root, Path::new("/sys/fs/bpf/ropeway"));
        assert_eq!(config.state_dir, Path::new("/var/lib/ropeway"));
        let config = parse(
            r#"{"cniVersion":"1.1.0","name":"p","type":"t","ranges":["10.1.0.0/24","fd00:1::/64","10.2.0.0/24"],"mtu":1400}"#,
        );
        let ranges = resolve(&config.unwrap()).unwrap();
        assert_eq!(ranges.mtu, 1400);
        assert_eq!(ranges.choices().unwrap().iter().map(|f| f.ranges.len()).collect::<Vec<_>>(), [2, 1]);
        let six_first =
            r#"{"cniVersion":"1.1.0","name":"p","type":"t","ranges":["fd00:1::/64","10.1.0.0/24"],"mtu":1400}"#;
        let families = resolve(&parse(six_first).unwrap()).unwrap().choices().unwrap();
        assert!(families[0].ranges[0].network().is_ipv6());
    }

    #[test]
    fn invalid_configuration_gets_spec_error_code() {
        for (text, code, words) in [
            ("", 6, "standard input"),
            ("{", 6, "standard input"),
            ("[]", 7, "standard input"),
            (r#"{"cniVersion":"1.0.0","name":"p","type":"t","mtu":"x"}"#, 7, "mtu: invalid type"),
            (r#"{"cniVersion":["1.0.0"],"name":"p"}"#, 7, "cniVersion: invalid type"),
            (r#"{"name":"p"}"#, 1, "cniVersion none"),
            (r#"{"cniVersion":"2.0.0","name":"p"}"#, 1, "cniVersion 2.0.0, this plugin supports 0.3.0"),
            (r#"{"cniVersion":"1.0.0"}"#, 7, "name: is missing"),
            (r#"{"cniVersion":"1.0.0","name":"../p"}"#, 7, "name"),
            (r#"{"cniVersion":"1.0.0","name":"p"}"#, 7, "type: is missing"),
            (r#"{"cniVersion":"1.0.0","name":"p","type":"t","pinRoot":"x"}"#, 7, "pinRoot: x is not an absolute path"),
            (r#"{"cniVersion":"1.0.0","name":"p","type":"t","ranges":["x"]}"#, 7, "ranges: \"x\""),
            (r#"{"cniVersion":"1.0.0","name":"p","type":"t","ranges":["10.1.0.1/24"]}"#, 7, "bits set beyond"),
        ] {
            let (got, message) = parse(text).unwrap_err();
            assert_eq!(got, code, "{text}: {message}");
            assert!(message.contains(words), "{text}: {message}");
        }
        let deep =
            format!(r#"{{"cniVersion":"1.0.0","name":"p","type":"t","x":{}1{}}}"#, "[".repeat(5000), "]".repeat(5000));
        assert_eq!(parse(&deep).unwrap_err().0, 6);
        let mtu = parse(r#"{"cniVersion":"1.0.0","name":"p","type":"t","ranges":["fd00::/64"],"mtu":1279}"#).unwrap();
        assert_eq!(resolve(&mtu).unwrap_err().to_string(), "configuration: mtu: 1279 is not between 1280 and 65535");
    }

    /// The inputs are valid ones with bytes cut, doubled or changed. Each must get an answer, a
    /// result or an error.
    #[test]
    fn malformed_input_never_panics() {
        let seeds = [
            r#"{"cniVersion":"1.1.0","name":"p","type":"t","ranges":["10.1.0.0/24","fd00:1::/64"],"mtu":1400,"dns":{"search":["x"]}}"#,
            r#"{"cniVersion":"0.4.0","name":"p","type":"t","prevResult":{"ips":[{"address":"10.1.0.1/32"}]},"pinRoot":"/x"}"#,
            r#"{"cniVersion":"1.1.0","name":"p","type":"t","cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"}]}"#,
        ];
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = |below: usize| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random % below.max(1) as u64) as usize
        };
        for _ in 0..20_000 {
            let mut bytes = seeds[next(seeds.len())].as_bytes().to_vec();
            for _ in 0..=next(4) {
                let at = next(bytes.len());
                match next(4) {
                    0 => bytes.truncate(at),
                    1 => bytes.extend_from_within(at..),
                    2 => bytes.insert(at, next(256) as u8),
                    _ => bytes.iter_mut().skip(at).take(1).for_each(|b| *b = next(256) as u8),
                }
            }
            let mut version = NEWEST.to_owned();
            if let Err(error) = NetworkConfig::parse(&bytes, &mut version) {
                let json: Value = serde_json::from_str(&error.to_json(&version)).unwrap();
                assert!(VERSIONS.contains(&json["cniVersion"].as_str().unwrap()));
            }
        }
    }
}
