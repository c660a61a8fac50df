//! Reads the state of a node through the operator's command line (`ropeway -o json`) and the
//! agent's metrics. Waits until a change of manifests is in effect. Never reads maps directly.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::cluster::{Cluster, Node};
use crate::machine::Machine;
use crate::{binaries, process, wait};

/// Time within which a change of the manifests has to reach the kernel of every node.
const IN_EFFECT: Duration = Duration::from_secs(10);

/// Runs `ropeway` inside a node and returns what it prints.
///
/// # Errors
/// When it fails.
pub fn ropeway(machine: &Machine, words: &[&str]) -> Result<String> {
    let mut command = machine.command(binaries::find("ropeway")?)?;
    process::output(&format!("{}: ropeway {}", machine.name(), words.join(" ")), command.args(words))
}

/// Runs [`ropeway`] with `-o json` and parses the output.
///
/// # Errors
/// When it fails.
pub fn json(machine: &Machine, words: &[&str]) -> Result<Value> {
    let text = ropeway(machine, &[words, &["-o", "json"]].concat())?;
    serde_json::from_str(&text).with_context(|| format!("ropeway printed something that is not JSON: {text}"))
}

/// Returns the number of packets that a node has dropped for a reason.
///
/// # Errors
/// When it doesn't say.
pub fn drops(machine: &Machine, reason: &str) -> Result<u64> {
    let all = json(machine, &["drops"])?;
    all["drops"][reason].as_u64().with_context(|| format!("no count of {reason} in {all}"))
}

/// Returns how often the programs of a node have counted an event.
///
/// # Errors
/// When the node doesn't say.
pub fn events(machine: &Machine, event: &str) -> Result<u64> {
    let all = json(machine, &["drops"])?;
    all["events"][event].as_u64().with_context(|| format!("no count of {event} in {all}"))
}

/// Returns the number of backends for new connections of each frontend of a Service; empty without
/// frontends.
///
/// # Errors
/// When the node doesn't say.
pub fn backends(machine: &Machine, service: &str) -> Result<Vec<usize>> {
    let all = json(machine, &["service", "list", service])?;
    let frontends = all["frontends"].as_array().with_context(|| format!("no frontends in {all}"))?;
    let count = |frontend: &Value| {
        let backends = frontend["backends"].as_array().map(Vec::as_slice).unwrap_or_default();
        backends.iter().filter(|backend| backend["internal"] == true || backend["external"] == true).count()
    };
    Ok(frontends.iter().map(count).collect())
}

impl Cluster {
    /// Waits until every frontend of a Service has this many backends on every node.
    ///
    /// # Errors
    /// When it takes too long.
    pub fn await_backends(&self, service: &str, count: usize) -> Result<()> {
        for node in &self.nodes {
            wait::until(&format!("{service} has {count} backends on {}", node.name()), IN_EFFECT, || {
                let now = backends(&node.machine, service)?;
                if now.is_empty() || now.iter().any(|there| *there != count) {
                    bail!("number of backends of each frontend now: {now:?}");
                }
                Ok(Some(()))
            })?;
        }
        Ok(())
    }
}

impl Node {
    /// Returns a metric of the agent, summed over its labels.
    ///
    /// # Errors
    /// When the agent doesn't answer or has no such metric.
    pub fn metric(&self, name: &str) -> Result<f64> {
        let text = self.agent.as_ref().with_context(|| format!("{} has no agent", self.name()))?.metrics()?;
        sum(&text, name).with_context(|| format!("no {name} in the metrics of {}", self.name()))
    }
}

/// Returns the sum of a metric's samples; 0 for a metric that is declared and has none.
fn sum(text: &str, name: &str) -> Option<f64> {
    let declared = format!("# TYPE {} ", name.trim_end_matches("_total"));
    let sample = |line: &str| {
        let rest = line.strip_prefix(name)?;
        let rest = if rest.starts_with('{') { rest.split_once("} ")?.1 } else { rest.strip_prefix(' ')? };
        rest.parse::<f64>().ok()
    };
    text.contains(&declared).then(|| text.lines().filter_map(sample).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metric_is_summed_over_labels() {
        let text =
            "# TYPE a counter\na_total{map=\"x\"} 2\na_total{map=\"y z\"} 3\n# TYPE b counter\n# TYPE c gauge\nc 1.5\n";
        assert_eq!(sum(text, "a_total"), Some(5.0));
        assert_eq!(sum(text, "b_total"), Some(0.0));
        assert_eq!(sum(text, "c"), Some(1.5));
        assert_eq!(sum(text, "d"), None);
    }
}
