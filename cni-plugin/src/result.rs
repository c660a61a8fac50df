//! The result of ADD, in the version of the configuration.
//!
//! Starts from `prevResult`, whose lists other plugins filled, and appends this attachment. Written
//! by hand: a typed result would lose the fields of other plugins that its type does not know, and
//! the versions differ in a few keys only.

use std::net::IpAddr;

use dataplane_host::store::AttachmentRecord;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::config::NetworkConfig;
use crate::error::CniError;
use crate::plan;

/// The lists of a result.
const LISTS: [&str; 3] = ["interfaces", "ips", "routes"];

/// The start of ADD's result: the objects that earlier plugins in the chain created, and the
/// configuration's `dns`. Both are checked, because later plugins must understand the result.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ResultBase {
    version: &'static str,
    previous: Map<String, Value>,
    dns: Option<Value>,
}

/// The fields of `dns` in the specification; each is optional.
#[derive(Deserialize)]
#[expect(dead_code, reason = "only the form is looked at")]
struct Dns {
    nameservers: Option<Vec<String>>,
    domain: Option<String>,
    search: Option<Vec<String>>,
    options: Option<Vec<String>>,
}

impl ResultBase {
    pub(crate) fn new(config: &NetworkConfig) -> Result<Self, CniError> {
        let bad = |reason| CniError::Config { field: "dns", reason };
        if let Some(dns) = &config.dns {
            let fields = dns.as_object().ok_or_else(|| bad("is not a JSON object".into()))?;
            Dns::deserialize(fields).map_err(|e| bad(e.to_string()))?;
        }
        let previous = previous(config)?.cloned().unwrap_or_default();
        Ok(Self { version: config.version, previous, dns: config.dns.clone() })
    }

    /// Returns the result in the version of the configuration. `dns` is the runtime's request,
    /// which overrides the configuration's.
    pub(crate) fn complete(self, record: &AttachmentRecord, mtu: u32, netns: &str, dns: Option<Value>) -> String {
        let Self { version, previous: mut result, dns: configured } = self;
        result.insert("cniVersion".into(), version.into());
        let before = result.get("interfaces").and_then(Value::as_array).map_or(0, Vec::len);
        let pod_interface = before + 1;
        append(&mut result, "interfaces", interfaces(version, record, mtu, netns));
        append(&mut result, "ips", ips(version, record, pod_interface));
        append(&mut result, "routes", routes(record));
        match dns.or(configured) {
            Some(dns) => drop(result.insert("dns".into(), dns)),
            None => drop(result.entry("dns").or_insert_with(|| json!({}))),
        }
        Value::Object(result).to_string()
    }
}

/// Returns `prevResult`, if present: an object whose lists are lists of objects.
pub(crate) fn previous(config: &NetworkConfig) -> Result<Option<&Map<String, Value>>, CniError> {
    let bad = |reason: String| Err(CniError::Config { field: "prevResult", reason });
    let previous = match &config.prev_result {
        None => return Ok(None),
        Some(Value::Object(previous)) => previous,
        Some(_) => return bad("is not a JSON object".into()),
    };
    let is_list = |value: &Value| value.as_array().is_some_and(|list| list.iter().all(Value::is_object));
    match LISTS.iter().find(|name| previous.get(**name).is_some_and(|value| !value.is_null() && !is_list(value))) {
        Some(name) => bad(format!("{name} is not a list of objects")),
        None => Ok(Some(previous)),
    }
}

fn append(result: &mut Map<String, Value>, key: &str, mut ours: Vec<Value>) {
    match result.get_mut(key) {
        Some(Value::Array(theirs)) => theirs.append(&mut ours),
        _ => drop(result.insert(key.into(), ours.into())),
    }
}

fn interfaces(version: &str, record: &AttachmentRecord, mtu: u32, netns: &str) -> Vec<Value> {
    let mut host = json!({ "name": record.host_ifname, "mac": mac(plan::HOST_MAC) });
    let mut pod = json!({ "name": record.id.ifname, "mac": mac(plan::pod_mac(record)), "sandbox": netns });
    if version == "1.1.0" {
        host["mtu"] = mtu.into();
        pod["mtu"] = mtu.into();
    }
    vec![host, pod]
}

fn ips(version: &str, record: &AttachmentRecord, interface: usize) -> Vec<Value> {
    let ip = |address: &IpAddr| {
        let mut ip = json!({
            "address": plan::host_network(*address).to_string(),
            "gateway": plan::gateway(*address).to_string(),
            "interface": interface,
        });
        if version.starts_with("0.") {
            ip["version"] = if address.is_ipv4() { "4" } else { "6" }.into();
        }
        ip
    };
    record.addresses.iter().map(ip).collect()
}

fn routes(record: &AttachmentRecord) -> Vec<Value> {
    let route = |address: &IpAddr| {
        let destination = plan::default_network(*address).to_string();
        json!({ "dst": destination, "gw": plan::gateway(*address).to_string() })
    };
    record.addresses.iter().map(route).collect()
}

fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|b| format!("{b:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;
    use dataplane_host::store::AttachmentId;

    fn result(version: &str, more: &str) -> Value {
        let text = format!(r#"{{"cniVersion":"{version}","name":"pods","type":"t"{more}}}"#);
        let config = NetworkConfig::parse(text.as_bytes(), &mut String::new()).unwrap();
        let id = AttachmentId { container: "c1".into(), ifname: "eth0".into() };
        let record = AttachmentRecord {
            version: 1,
            host_ifname: id.host_ifname(),
            id,
            network: "pods".into(),
            pod: None,
            mac: None,
            mtu: None,
            ports: Vec::new(),
            addresses: vec!["10.1.0.5".parse().unwrap(), "fd00:1::5".parse().unwrap()],
            boot: String::new(),
            generation: 0,
        };
        let base = ResultBase::new(&config).unwrap();
        serde_json::from_str(&base.complete(&record, 1400, "/run/netns/x", None)).unwrap()
    }

    #[test]
    fn newest_version_has_mtu_and_no_family() {
        let result = result("1.1.0", r#","dns":{"nameservers":["10.96.0.10"]}"#);
        assert_eq!(result["interfaces"][1]["mtu"], 1400);
        assert_eq!(result["interfaces"][1]["sandbox"], "/run/netns/x");
        assert_eq!(result["interfaces"][0]["mac"], "ee:ee:ee:ee:ee:ee");
        assert_eq!(
            result["ips"],
            json!([
                { "address": "10.1.0.5/32", "gateway": "169.254.1.1", "interface": 1 },
                { "address": "fd00:1::5/128", "gateway": "fe80::1", "interface": 1 },
            ])
        );
        assert_eq!(result["routes"][1], json!({ "dst": "::/0", "gw": "fe80::1" }));
        assert_eq!(result["dns"]["nameservers"][0], "10.96.0.10");
    }

    #[test]
    fn old_versions_have_the_family() {
        for version in ["0.3.0", "0.3.1", "0.4.0"] {
            let result = result(version, "");
            assert_eq!((&result["cniVersion"], &result["ips"][1]["version"]), (&json!(version), &json!("6")));
            assert_eq!(result["interfaces"][1].get("mtu"), None);
        }
        assert_eq!(result("1.0.0", "")["ips"][0].get("version"), None);
    }

    #[test]
    fn prev_result_is_kept() {
        let previous = r#","prevResult":{"interfaces":[{"name":"a"}],"ips":[{"address":"10.9.0.1/24","interface":0}]}"#;
        let result = result("1.0.0", previous);
        assert_eq!(result["interfaces"][0]["name"], "a");
        assert_eq!(result["ips"][0]["address"], "10.9.0.1/24");
        assert_eq!(result["ips"][1]["interface"], 2);
    }
}
