//! Section 2.6: state of connections. Flows end with their endpoint, survive a restart of the
//! agent, and packets that conntrack would call invalid are translated as well.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use ropeway_tests::contracts::{Path, Rule};
use ropeway_tests::load::{self, PersistentLoad, TrafficEndpoint, Watch};
use ropeway_tests::peer::{self, Protocol, Report};
use ropeway_tests::pod::{IpFamily, Pod};
use ropeway_tests::process;
use serde_json::Value;

use super::expect::for_each_client;
use super::fixture::{Client, ContractFixture, FLAGS, TARGET, first_target, ready, service, with_endpoints};
use super::observations::Observations;
use crate::anti_spoofing::frames::{self, FromTo};

/// Source port of the datagrams that belong to one flow.
const SOURCE: u16 = 20_000;

#[test]
#[ignore = "needs root"]
fn section_2_6_connection_state() {
    let mut fixture = ContractFixture::new();
    datagrams(&fixture);
    restart(&mut fixture);
    out_of_the_window(&fixture);
    fixture.end();
}

/// Sends each request from a new socket, all from one port.
fn send_requests(
    from: &dyn TrafficEndpoint,
    target: SocketAddr,
    protocol: Protocol,
    port: u16,
    count: u64,
) -> Result<Report> {
    load::send_requests_with(from, target, protocol, count, &[&format!("--source-port={port}"), "--timeout=300"])
}

fn is_answered_by(fixture: &ContractFixture, number: u16, server: &str) -> impl Fn(Path, IpFamily) -> Result<()> {
    move |path, family| {
        for_each_client(&fixture.clients(path), |from| {
            for (protocol, port) in [(Protocol::Udp, SOURCE), (Protocol::UdpConnected, SOURCE + 1)] {
                let report = send_requests(from, first_target(path, number, family).udp, protocol, port, 3)?;
                ensure!(
                    report.by_server.get(server) == Some(&3),
                    "not all {protocol:?} answers came from {server}: {report:?}"
                );
            }
            Ok(())
        })
    }
}

fn is_refused(fixture: &ContractFixture, number: u16) -> impl Fn(Path, IpFamily) -> Result<()> {
    move |path, family| {
        for_each_client(&fixture.clients(path), |from| {
            let target = first_target(path, number, family).udp;
            // an unconnected socket gets no error for rejected packets
            let report = send_requests(from, target, Protocol::Udp, SOURCE, 1)?;
            ensure!(report.ok == 0, "{target} answered: {report:?}");
            let report = send_requests(from, target, Protocol::UdpConnected, SOURCE + 1, 1)?;
            ensure!(report.errors.get("ECONNREFUSED") == Some(&1), "{target} did not refuse: {report:?}");
            Ok(())
        })
    }
}

fn datagrams(fixture: &ContractFixture) {
    let [first, second, _] = &fixture.web;
    let apply = |number: u16, endpoints: &[(&Pod, Value)]| {
        let name = format!("dns-{number}");
        fixture.apply(&name, &with_endpoints(service(&name, number), endpoints));
    };
    let mut gone = Observations::new("2.6.1");
    apply(60, &[(first, ready())]);
    gone.observe(is_answered_by(fixture, 60, "web-1"));
    // its server keeps running, so an old flow would still get answers
    apply(60, &[(second, ready())]);
    gone.observe(is_answered_by(fixture, 60, "web-2"));
    apply(60, &[]);
    gone.observe(is_refused(fixture, 60));
    apply(60, &[(first, ready())]);
    gone.observe(is_answered_by(fixture, 60, "web-1"));
    fixture.cluster.withdraw("dns-60").unwrap();
    fixture.settle();
    gone.observe(|path, family| {
        for_each_client(&fixture.clients(path), |from| {
            for (protocol, port) in [(Protocol::Udp, SOURCE), (Protocol::UdpConnected, SOURCE + 1)] {
                let report = send_requests(from, first_target(path, 60, family).udp, protocol, port, 1)?;
                ensure!(report.ok == 0, "a deleted Service answered: {report:?}");
            }
            Ok(())
        })
    });
    gone.record(fixture, "2.6.1");

    let mut first_one = Observations::new("2.6.2");
    apply(61, &[]);
    first_one.observe(is_refused(fixture, 61));
    apply(61, &[(first, ready())]);
    first_one.observe(is_answered_by(fixture, 61, "web-1"));
    first_one.record(fixture, "2.6.2");
}

/// Returns the servers that answer datagrams from each of some ports, for one cell. The socket
/// hooks choose a backend for each socket, so only clients that use the packet path count.
fn flows(fixture: &ContractFixture, path: Path, family: IpFamily) -> Result<Vec<Vec<String>>> {
    let by_packets =
        |from: &Client<'_>| path == Path::OtherNode || path == Path::Outside || from.label().contains("packets");
    let clients = fixture.clients(path).into_iter().filter(by_packets);
    // sockets of the other node reach this node's node port on the packet path
    let mut target = first_target(path, 62, family).udp;
    if path == Path::OtherNode {
        target = super::fixture::target(super::fixture::Vip::NodePort, 62, family).udp;
    }
    let answers = |from: Client<'_>| {
        (0..8)
            .map(|i| {
                let report = send_requests(&from, target, Protocol::Udp, SOURCE + 10 + i, 1)?;
                report.by_server.into_keys().next().with_context(|| format!("{}: no answer", from.label()))
            })
            .collect()
    };
    clients.map(answers).collect()
}

fn restart(fixture: &mut ContractFixture) {
    let objects = with_endpoints(service("kept", 62), &[(&fixture.web[0], ready()), (&fixture.web[1], ready())]);
    fixture.apply("kept", &objects);
    let mut observations = Observations::new("2.6.3");
    let mut held = BTreeMap::new();
    let mut before = BTreeMap::new();
    for (path, family) in Rule::of("2.6.3").unwrap().cells() {
        let hold = |from: &Client<'_>| PersistentLoad::open(from, first_target(path, 62, family).tcp, 8);
        held.insert((path, family), fixture.clients(path).iter().map(hold).collect::<Result<Vec<_>>>());
        before.insert((path, family), flows(fixture, path, family));
    }
    for node in &mut fixture.cluster.nodes {
        node.kill_agent().unwrap();
    }
    fixture.cluster.start_agents_with(&FLAGS).unwrap();
    let mut reports = BTreeMap::new();
    for (cell, loads) in held {
        reports.insert(
            cell,
            loads.and_then(|loads| loads.into_iter().map(PersistentLoad::release).collect::<Result<Vec<_>>>()),
        );
    }
    let copy = |error: &anyhow::Error| anyhow::anyhow!("{error:#}");
    observations.observe(|path, family| {
        let before = before[&(path, family)].as_ref().map_err(copy)?;
        let after = flows(fixture, path, family)?;
        ensure!(*before == after, "flows have changed their server: {before:?} before the restart, {after:?} after it");
        for report in reports[&(path, family)].as_ref().map_err(copy)? {
            ensure!(
                report.lost.is_empty() && report.requests.ok > report.established,
                "connections were lost or not used: {report:?}"
            );
        }
        Ok(())
    });
    observations.record(fixture, "2.6.3");
}

/// Checks the translation of a segment outside every window, which the endpoint sends. Conntrack
/// would call it invalid and leave it untranslated.
fn out_of_the_window(fixture: &ContractFixture) {
    const MARKER: &str = "out of the window";
    fixture.apply("window", &with_endpoints(service("window", 63), &[(&fixture.web[0], ready())]));
    let server = &fixture.web[0];
    fixture.check_cells("2.6.4", |path, family| {
        let mut target = first_target(path, 63, family).tcp;
        if path == Path::OtherNode {
            target = super::fixture::target(super::fixture::Vip::NodePort, 63, family).tcp;
        }
        // the sockets of the first pod are connected to the endpoint itself
        let from = fixture.clients(path).pop().context("the path has no client")?;
        let held = PersistentLoad::open(&from, target, 1)?;
        let client = established(server, family)?;
        let watch = Watch::start(&from, "eth0", &[MARKER])?;
        let from_to = FromTo { from: server.address(family)?, to: client.ip() };
        let (kind, packet) = frames::segment(from_to, FromTo { from: TARGET, to: client.port() }, MARKER.as_bytes());
        let frame = frames::ethernet(mac(server, 0)?, mac(server, 1)?, kind, &packet);
        load::send_frames(server, "eth0", &[peer::hex(&frame)], 1)?;
        let report = held.release()?;
        ensure!(report.lost.is_empty(), "the connection was lost: {report:?}");
        let seen = watch.stop()?;
        let first = seen.first.get(MARKER).with_context(|| format!("the segment was not seen: {seen:?}"))?;
        let source = source(first, family)?;
        ensure!(source == target.ip(), "the client sent to {target}, but a segment came from {source}");
        Ok(())
    });
}

/// Returns the only client that is connected to a server.
fn established(server: &Pod, family: IpFamily) -> Result<SocketAddr> {
    let mut command = server.command("ss")?;
    let port = format!(":{TARGET}");
    let text = process::output("ss", command.args(["-Htn", "state", "established", "sport", "=", &port]))?;
    let peers = text.lines().filter_map(|line| line.split_whitespace().last()?.parse::<SocketAddr>().ok());
    let peers = peers.map(|peer| SocketAddr::new(peer.ip().to_canonical(), peer.port()));
    let peers: Vec<_> = peers.filter(|peer| family.has(peer.ip())).collect();
    ensure!(peers.len() == 1, "one connection is expected: {text}");
    Ok(peers[0])
}

/// Returns the MAC of an interface in the result of ADD: 0 is the host's end, 1 the pod's.
fn mac(pod: &Pod, interface: usize) -> Result<[u8; 6]> {
    let text = pod.result()["interfaces"][interface]["mac"]
        .as_str()
        .context("the result of ADD has no MAC for the interface")?;
    let bytes = text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<Vec<_>, _>>()?;
    bytes.try_into().ok().with_context(|| format!("{text} is not a MAC"))
}

/// Returns the source MAC of a frame in hexadecimal.
fn source(frame: &str, family: IpFamily) -> Result<IpAddr> {
    let digits = if family == IpFamily::V4 { 52..60 } else { 44..76 };
    let text = frame.get(digits).with_context(|| format!("frame {frame} is too short"))?;
    Ok(match family {
        IpFamily::V4 => IpAddr::V4(u32::from_str_radix(text, 16)?.into()),
        IpFamily::V6 => IpAddr::V6(u128::from_str_radix(text, 16)?.into()),
    })
}
