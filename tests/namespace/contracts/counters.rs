//! Silence and refusals with proof: the programs count what they drop and reject, so a packet that
//! got lost, and an address that the node's stack refuses, are told apart from them.

use anyhow::{Context, Result};
use ropeway_tests::expect;
use ropeway_tests::load::TrafficEndpoint;
use ropeway_tests::peer::Protocol;
use ropeway_tests::view;

use super::expect::{every_protocol, expect_errors};
use super::fixture::{ContractFixture, Target};

/// Events that the programs count for each rejected request.
const REJECTED: [&str; 2] = ["packet_rejected", "socket_rejected"];

/// Returns the sum of counters over all nodes; `kind` is `drops` or `events`.
fn sum(fixture: &ContractFixture, kind: &str, labels: &[&str]) -> Result<u64> {
    let mut sum = 0;
    for node in &fixture.cluster.nodes {
        let all = view::json(&node.machine, &["drops"])?;
        for label in labels {
            sum += all[kind][*label].as_u64().with_context(|| format!("no count of {label} in {all}"))?;
        }
    }
    Ok(sum)
}

/// Returns the connections that socket hooks have translated on any node so far, and those that the
/// packet path has opened.
pub(super) fn translations(fixture: &ContractFixture) -> Result<[u64; 2]> {
    Ok([sum(fixture, "events", &["socket_translated"])?, sum(fixture, "events", &["packet_new_flow"])?])
}

fn expect_counted(
    fixture: &ContractFixture,
    kind: &str,
    labels: &[&str],
    least: usize,
    probe: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let before = sum(fixture, kind, labels)?;
    probe()?;
    let counted = sum(fixture, kind, labels)? - before;
    expect!(counted >= least as u64, "only {counted} of {least} packets were counted as {labels:?}");
    Ok(())
}

/// Expects a timeout with every protocol, and that the programs have dropped the packets for this
/// reason.
pub(super) fn expect_dropped(
    fixture: &ContractFixture,
    from: &dyn TrafficEndpoint,
    reason: &str,
    targets: &[Target],
) -> Result<()> {
    let cases: Vec<_> = targets.iter().flat_map(|target| every_protocol(*target)).collect();
    let cases: Vec<_> = cases.into_iter().map(|(target, protocol)| (target, protocol, &["timeout"][..])).collect();
    expect_counted(fixture, "drops", &[reason], cases.len(), || expect_errors(from, &cases))
}

/// Expects that a rejection reaches the client with every protocol that can receive it, and that
/// the programs have sent it.
pub(super) fn expect_rejected(fixture: &ContractFixture, from: &dyn TrafficEndpoint, targets: &[Target]) -> Result<()> {
    let case = |(target, protocol)| {
        // An unconnected socket gets the error of a hook, but not an ICMP error.
        let errors: &[&str] = if protocol == Protocol::Udp { &["ECONNREFUSED", "timeout"] } else { &["ECONNREFUSED"] };
        (target, protocol, errors)
    };
    let cases: Vec<_> = targets.iter().flat_map(|target| every_protocol(*target)).map(case).collect();
    expect_counted(fixture, "events", &REJECTED, cases.len(), || expect_errors(from, &cases))
}
