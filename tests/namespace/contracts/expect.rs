//! Expectations on what a client observes. They return errors with the full report instead of
//! panicking, so that one failed cell does not end the test of a section, and count as assertions
//! of the cell.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context, Result, ensure};
use ropeway_tests::contracts::assertions;
use ropeway_tests::expect;
use ropeway_tests::load::{self, TrafficEndpoint};
use ropeway_tests::peer::{Protocol, Reply, Report};
use ropeway_tests::pod::{IpFamily, Pod};

use super::fixture::{Client, TARGET, Target};

/// Time without an answer that counts as silence.
const SILENCE: &str = "--timeout=300";

/// Source ports of datagrams that must open new flows: above the local port range, and outside the
/// pool for masquerading, because clients on a node share its addresses with masqueraded flows.
const PORTS: std::ops::Range<u16> = 61_000..65_000;

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
    expect_answers_with(from, target, protocol, count, servers, &[])
}

fn expect_answers_with(
    from: &dyn TrafficEndpoint,
    target: SocketAddr,
    protocol: Protocol,
    count: u64,
    servers: &[&str],
    flags: &[&str],
) -> Result<Report> {
    let report = load::send_requests_with(from, target, protocol, count, flags)?;
    let context = || format!("{} to {target} {protocol:?}, to be answered by {servers:?}: {report:?}", from.label());
    expect!((report.ok, report.failed) == (count, 0), "{}", context());
    expect!(report.by_server.keys().map(String::as_str).eq(servers.iter().copied()), "{}", context());
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

/// Expects that a server answers at its own address, so that it would answer as an endpoint too.
pub(super) fn expect_direct_answers(from: &dyn TrafficEndpoint, pod: &Pod, family: IpFamily) -> Result<()> {
    let own = pod.port(family, TARGET)?;
    expect_answers_on_all(from, &[Target { tcp: own, udp: own }], 2, &[pod.name()])
}

/// Expects with every protocol that two endpoints in turn get half of the connections each.
pub(super) fn expect_equal_halves(from: &dyn TrafficEndpoint, target: Target, servers: [&str; 2]) -> Result<()> {
    const COUNT: u16 = 20;
    for (address, protocol) in every_protocol(target) {
        // A packet from a port that was used before could belong to an older flow, or need another
        // port than that, which costs the scheduler a turn.
        let ports = format!("--first-port={}", new_ports(COUNT));
        let report = expect_answers_with(from, address, protocol, COUNT.into(), &servers, &[&ports])?;
        expect!(
            report.by_server.values().all(|count| *count == u64::from(COUNT) / 2),
            "{} to {address} {protocol:?}: equal halves are expected: {report:?}",
            from.label()
        );
    }
    Ok(())
}

/// Returns the first of this many source ports that no other request of this run has.
fn new_ports(count: u16) -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(PORTS.start);
    let step = |port: u16| Some(if port + count < PORTS.end { port + count } else { PORTS.start });
    NEXT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step).unwrap_or(PORTS.start)
}

/// Expects one of these errors for each request. All are sent at the same time, because silence
/// takes time.
pub(super) fn expect_errors(from: &dyn TrafficEndpoint, cases: &[(SocketAddr, Protocol, &[&str])]) -> Result<()> {
    let ask = |target, protocol| load::send_requests_with(from, target, protocol, 1, &[SILENCE]);
    let reports: Vec<Result<Report>> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            cases.iter().map(|(target, protocol, _)| scope.spawn(|| ask(*target, *protocol))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("panic")))).collect()
    });
    for ((target, protocol, errors), report) in cases.iter().zip(reports) {
        let report = report?;
        let one = report.ok == 0 && errors.iter().any(|error| report.errors.get(*error) == Some(&1));
        expect!(one, "{} to {target} {protocol:?}, one of {errors:?} is expected: {report:?}", from.label());
    }
    Ok(())
}

/// Expects that one request fails with this error.
pub(crate) fn expect_error(
    from: &dyn TrafficEndpoint,
    target: SocketAddr,
    protocol: Protocol,
    error: &str,
) -> Result<()> {
    expect_errors(from, &[(target, protocol, &[error])])
}

/// Expects that every socket of a session was answered by this server.
pub(super) fn expect_replies(replies: &[Reply], server: &str) -> Result<()> {
    let is_expected = |reply: &Reply| *reply == Reply::Server(server.to_owned());
    expect!(!replies.is_empty() && replies.iter().all(is_expected), "answers by {server} are expected: {replies:?}");
    Ok(())
}

/// Expects that every socket of a session got one of these errors.
pub(super) fn expect_error_replies(replies: &[Reply], errors: &[&str]) -> Result<()> {
    let is_expected = |reply: &Reply| matches!(reply, Reply::Error(error) if errors.contains(&error.as_str()));
    expect!(!replies.is_empty() && replies.iter().all(is_expected), "{errors:?} are expected: {replies:?}");
    Ok(())
}

/// Applies a check to each client of a path, and names the client in its error. Fails if a check
/// asserts nothing.
pub(super) fn for_each_client(clients: &[Client<'_>], check: impl Fn(&Client<'_>) -> Result<()>) -> Result<()> {
    ensure!(!clients.is_empty(), "the path has no client");
    for client in clients {
        let before = assertions();
        check(client).with_context(|| client.label())?;
        ensure!(assertions() > before, "{}: the check has asserted nothing", client.label());
    }
    Ok(())
}
