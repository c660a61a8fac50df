//! Expectations on what a client observes. They return errors with the full report instead of
//! panicking, so that one failed cell does not end the test of a section.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use ropeway_tests::load::{self, TrafficEndpoint};
use ropeway_tests::peer::{Protocol, Report};

use super::fixture::{Client, Target};

/// Time without an answer that counts as silence.
const SILENCE: &str = "--timeout=300";

/// Returns the protocols to test a target with: TCP, UDP, and UDP over a connected socket.
pub(super) fn every_protocol(target: Target) -> [(SocketAddr, Protocol); 3] {
    [(target.tcp, Protocol::Tcp), (target.udp, Protocol::Udp), (target.udp, Protocol::UdpConnected)]
}

/// Expects that all requests are answered, by exactly these servers.
pub(super) fn expect_answers(
    from: &dyn TrafficEndpoint,
    target: SocketAddr,
    protocol: Protocol,
    count: u64,
    servers: &[&str],
) -> Result<Report> {
    let report = load::send_requests(from, target, protocol, count)?;
    let context = || format!("{} to {target} {protocol:?}, to be answered by {servers:?}: {report:?}", from.label());
    ensure!((report.ok, report.failed) == (count, 0), "{}", context());
    ensure!(report.by_server.keys().map(String::as_str).eq(servers.iter().copied()), "{}", context());
    Ok(report)
}

/// Expects answers with every protocol, like [`expect_answers`].
pub(super) fn expect_answers_on_all(
    from: &dyn TrafficEndpoint,
    targets: &[Target],
    count: u64,
    servers: &[&str],
) -> Result<()> {
    for (target, protocol) in targets.iter().flat_map(|target| every_protocol(*target)) {
        expect_answers(from, target, protocol, count, servers)?;
    }
    Ok(())
}

/// Expects that two endpoints in turn get half of the connections each.
pub(super) fn expect_equal_halves(from: &dyn TrafficEndpoint, target: SocketAddr, servers: [&str; 2]) -> Result<()> {
    let report = expect_answers(from, target, Protocol::Tcp, 20, &servers)?;
    ensure!(
        report.by_server.values().all(|count| *count == 10),
        "{} to {target}: equal halves are expected: {report:?}",
        from.label()
    );
    Ok(())
}

/// Expects an immediate refusal. Unconnected UDP sockets get no ICMP errors, so they are left out.
pub(super) fn expect_refusal(from: &dyn TrafficEndpoint, targets: &[Target]) -> Result<()> {
    for target in targets {
        expect_error(from, target.tcp, Protocol::Tcp, "ECONNREFUSED")?;
        expect_error(from, target.udp, Protocol::UdpConnected, "ECONNREFUSED")?;
    }
    Ok(())
}

/// Expects a timeout with every protocol.
pub(super) fn expect_silence(from: &dyn TrafficEndpoint, targets: &[Target]) -> Result<()> {
    let mut cases = targets.iter().flat_map(|target| every_protocol(*target));
    cases.try_for_each(|(target, protocol)| expect_error(from, target, protocol, "timeout"))
}

/// Expects that one request fails with this error.
pub(crate) fn expect_error(
    from: &dyn TrafficEndpoint,
    target: SocketAddr,
    protocol: Protocol,
    how: &str,
) -> Result<()> {
    let report = load::send_requests_with(from, target, protocol, 1, &[SILENCE])?;
    let all = report.ok == 0 && report.errors.get(how) == Some(&1);
    ensure!(all, "{} to {target} {protocol:?}, {how} is expected: {report:?}", from.label());
    Ok(())
}

/// Expects that no server answers, with any error.
pub(super) fn expect_no_answer(from: &dyn TrafficEndpoint, targets: &[Target]) -> Result<()> {
    for target in targets {
        for (target, protocol) in [(target.tcp, Protocol::Tcp), (target.udp, Protocol::Udp)] {
            let report = load::send_requests_with(from, target, protocol, 1, &[SILENCE])?;
            ensure!(report.ok == 0, "{} to {target} {protocol:?}, no server may answer: {report:?}", from.label());
        }
    }
    Ok(())
}

/// Applies a check to each client of a path, and names the client in its error.
pub(super) fn for_each_client(clients: &[Client<'_>], check: impl Fn(&Client<'_>) -> Result<()>) -> Result<()> {
    clients.iter().try_for_each(|client| check(client).with_context(|| client.label()))
}
