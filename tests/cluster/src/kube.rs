//! Runs kubectl from outside the cluster: in the fabric's namespace, as the administrator.
//!
//! All other modules use it to apply manifests and to wait for workloads.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::layout::Layout;
use super::network::{FABRIC, namespace_path};
use super::pki::ADMIN;
use super::step::wait_for;
use toolbox::shell;

/// Returns a kubectl command without arguments.
pub(super) fn command(layout: &Layout) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", namespace_path(FABRIC).display())).arg("--");
    command.arg(layout.bin("kubectl")).arg("--kubeconfig").arg(layout.kubeconfig(ADMIN));
    command
}

/// Runs kubectl and returns its output.
pub(super) fn kubectl(layout: &Layout, arguments: &[&str]) -> Result<String> {
    shell::output(command(layout).args(arguments))
}

/// Deletes a namespace that an earlier command left, and waits for the end of it: objects that are
/// created in a terminating namespace are deleted as well.
pub(super) fn gone(layout: &Layout, namespace: &str) -> Result<()> {
    kubectl(layout, &["delete", "namespace", namespace, "--ignore-not-found", "--timeout=120s"]).map(drop)
}

/// Applies a manifest with `kubectl apply`.
pub(super) fn apply(layout: &Layout, manifest: &str) -> Result<()> {
    let mut command = command(layout);
    command.args(["apply", "--server-side", "--force-conflicts", "-f", "-"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    child.stdin.take().context("kubectl has no input")?.write_all(manifest.as_bytes())?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("kubectl apply: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Waits until a workload (`deployment/NAME`, `daemonset/NAME`) has rolled out.
pub(super) fn rolled_out(layout: &Layout, namespace: &str, workload: &str, seconds: u64) -> Result<()> {
    let timeout = format!("--timeout={seconds}s");
    kubectl(layout, &["-n", namespace, "rollout", "status", workload, &timeout]).map(|_| ())
}

/// Waits until this many nodes are Ready.
pub(super) fn nodes_ready(layout: &Layout, count: usize, seconds: u64) -> Result<()> {
    let path = "jsonpath={range .items[*]}{.status.conditions[?(@.type=='Ready')].status} {end}";
    wait_for(&format!("{count} nodes Ready"), seconds, || {
        let states = kubectl(layout, &["get", "nodes", "-o", path])?;
        let ready = states.split_whitespace().filter(|state| *state == "True").count();
        if ready == count { Ok(()) } else { bail!("{ready} of {count} nodes are Ready") }
    })
}

/// Returns the pod ranges of a node, IPv4 first; an error until it has both.
pub(super) fn pod_ranges(layout: &Layout, node: &str) -> Result<[String; 2]> {
    let text = kubectl(layout, &["get", "node", node, "-o", "jsonpath={.spec.podCIDRs[*]}"])?;
    let mut ranges: Vec<_> = text.split_whitespace().map(String::from).collect();
    ranges.sort_by_key(|range| range.contains(':'));
    ranges.try_into().map_err(|_| anyhow::anyhow!("node {node} does not have two pod ranges yet: {text:?}"))
}
