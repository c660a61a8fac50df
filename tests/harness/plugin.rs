//! Calls CNI plugins as a container runtime does: a conflist on the node, one process for each
//! verb, JSON in and out.

use std::io::Write;
use std::net::IpAddr;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::binaries;
use crate::machine::Machine;

/// One attachment, as the runtime names it.
#[derive(Clone, Debug)]
pub struct Attachment {
    /// The value of `CNI_CONTAINERID`.
    pub container: String,
    /// `CNI_NETNS`; empty: the namespace is gone.
    pub netns: String,
    /// The value of `CNI_IFNAME`.
    pub interface: String,
    /// Name of the pod, for `CNI_ARGS`.
    pub pod: String,
}

/// The output of a plugin.
#[derive(Debug)]
pub struct Answer {
    /// Exit status; 0 is success.
    pub status: i32,
    /// Standard output; null if there was none.
    pub output: Value,
    /// Standard error as text.
    pub log: String,
}

/// The part of a result that a runtime uses.
#[derive(Clone, Debug, Deserialize)]
pub struct AddResult {
    /// The addresses of the result.
    pub ips: Vec<IpConfig>,
}

/// An address of a result.
#[derive(Clone, Debug, Deserialize)]
pub struct IpConfig {
    /// The address with its prefix length.
    pub address: String,
}

impl AddResult {
    /// Returns the addresses without prefix lengths.
    ///
    /// # Errors
    /// When one is unreadable.
    pub fn addresses(&self) -> Result<Vec<IpAddr>> {
        let one = |ip: &IpConfig| {
            let (address, _) = ip.address.split_once('/').with_context(|| format!("`{}` has no prefix", ip.address))?;
            address.parse().with_context(|| format!("`{}` is not an IP address with a prefix", ip.address))
        };
        self.ips.iter().map(one).collect()
    }
}

/// Returns the default conflist: the agent provides ranges and MTU.
#[must_use]
pub fn conflist() -> Value {
    json!({"cniVersion": "1.1.0", "name": "ropeway", "plugins": [{"type": "ropeway-cni"}]})
}

/// Returns [`conflist`] with a `runtimeConfig`, a runtime's requests for one pod.
#[must_use]
pub fn conflist_with(runtime: &Value) -> Value {
    let mut list = conflist();
    list["plugins"][0]["runtimeConfig"] = runtime.clone();
    list
}

/// Returns the configuration that a runtime builds for the first plugin of a conflist.
///
/// # Errors
/// When the list has no plugin.
pub fn network_config(conflist: &Value, previous: Option<&Value>) -> Result<Value> {
    let mut config = conflist["plugins"][0].clone();
    let fields = config.as_object_mut().context("the conflist has no plugin")?;
    fields.insert("cniVersion".into(), conflist["cniVersion"].clone());
    fields.insert("name".into(), conflist["name"].clone());
    if let Some(previous) = previous {
        fields.insert("prevResult".into(), previous.clone());
    }
    Ok(config)
}

/// Runs the plugin of a configuration once.
///
/// # Errors
/// When it can't be started or prints something that is not JSON; a failure of the plugin is part
/// of the answer.
pub fn call(node: &Machine, verb: &str, attachment: &Attachment, config: &Value) -> Result<Answer> {
    let name = config["type"].as_str().context("the configuration has no `type`")?;
    let plugin = binaries::find(name)?;
    let mut command = node.command_in("runtime", None, &plugin)?;
    command.env("CNI_COMMAND", verb).env("CNI_CONTAINERID", &attachment.container).env("CNI_NETNS", &attachment.netns);
    command
        .env("CNI_IFNAME", &attachment.interface)
        .env("CNI_PATH", plugin.parent().context("the path of the plugin has no directory")?);
    command.env("CNI_ARGS", format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={}", attachment.pod));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
    child
        .stdin
        .take()
        .context("standard input of the plugin is not a pipe")?
        .write_all(config.to_string().as_bytes())?;
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let answer = if text.trim().is_empty() { Ok(Value::Null) } else { serde_json::from_str(&text) };
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    let answer = answer.with_context(|| format!("{name} {verb} printed something that is not JSON: {text} {log}"))?;
    Ok(Answer { status: output.status.code().unwrap_or(-1), output: answer, log })
}

/// Runs ADD; a failure is an error.
///
/// # Errors
/// When the plugin fails.
pub fn add(node: &Machine, attachment: &Attachment, conflist: &Value) -> Result<(AddResult, Value)> {
    let answer = call(node, "ADD", attachment, &network_config(conflist, None)?)?;
    if answer.status != 0 {
        bail!("ADD of {} on {}: {} {}", attachment.pod, node.name(), answer.output, answer.log.trim());
    }
    let result = serde_json::from_value(answer.output.clone())
        .with_context(|| format!("cannot parse the result of ADD: {}", answer.output))?;
    Ok((result, answer.output))
}

/// Runs DEL; a failure is an error.
///
/// # Errors
/// When the plugin fails.
pub fn delete(node: &Machine, attachment: &Attachment, conflist: &Value, previous: Option<&Value>) -> Result<()> {
    let answer = call(node, "DEL", attachment, &network_config(conflist, previous)?)?;
    if answer.status != 0 {
        bail!("DEL of {} on {}: {} {}", attachment.pod, node.name(), answer.output, answer.log.trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_config_matches_what_runtimes_pass() {
        let config = network_config(&conflist(), Some(&json!({"ips": []}))).unwrap();
        assert_eq!(
            config,
            json!({"cniVersion": "1.1.0", "name": "ropeway", "type": "ropeway-cni", "prevResult": {"ips": []}})
        );
        assert!(network_config(&json!({"plugins": []}), None).is_err());
    }

    #[test]
    fn addresses_of_cni_result_are_parsed() {
        let result: AddResult = serde_json::from_value(json!({"ips": [{"address": "10.0.0.1/32"}]})).unwrap();
        assert_eq!(result.addresses().unwrap(), ["10.0.0.1".parse::<IpAddr>().unwrap()]);
    }
}
