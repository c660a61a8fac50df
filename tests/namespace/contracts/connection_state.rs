//! Section 2.6: state of connections. Flows end with their endpoint, survive a restart of the
//! agent, and packets that conntrack would call invalid are translated as well.

mod remembered;

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use ropeway_tests::contracts::Path;
use ropeway_tests::expect;
use ropeway_tests::load::{self, PersistentLoad, Watch};
use ropeway_tests::peer;
use ropeway_tests::pod::{IpFamily, Pod};
use ropeway_tests::process;

use super::fixture::{ContractFixture, TARGET, first_target, ready, service, with_endpoints};
use crate::anti_spoofing::frames::{self, FromTo};

#[test]
#[ignore = "needs root"]
fn section_2_6_connection_state() {
    let mut fixture = ContractFixture::new();
    remembered::removed_endpoint(&fixture);
    remembered::rejected_requests(&fixture);
    remembered::restart(&mut fixture);
    out_of_the_window(&fixture);
    fixture.end();
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
        expect!(report.lost.is_empty(), "the connection was lost: {report:?}");
        let seen = watch.stop()?;
        let first = seen.first.get(MARKER).with_context(|| format!("the segment was not seen: {seen:?}"))?;
        let source = source(first, family)?;
        expect!(source == target.ip(), "the client sent to {target}, but a segment came from {source}");
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
    expect!(peers.len() == 1, "one connection is expected: {text}");
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
