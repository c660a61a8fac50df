//! A rolling update: backends are replaced one after the other under a thousand new connections a
//! second. No connection may fail.
//!
//! `ROPEWAY_REPLACEMENTS` sets the number of replacements (default: [`FEW`]).

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::ensure;
use ropeway_tests::cluster::Shape;
use ropeway_tests::load::{self, RequestLoad};
use ropeway_tests::peer::Protocol;
use ropeway_tests::pod::{IpFamily, Pod};
use ropeway_tests::{process, wait};

use crate::fixture::{Access, ClientPath, Fixture, TARGET};

/// Number of replacements without `ROPEWAY_REPLACEMENTS`.
const FEW: usize = 20;
/// New connections a second on each path.
const RATE: u32 = 125;

#[test]
#[ignore = "needs root"]
fn rolling_update_breaks_no_connection_under_load() {
    let count = std::env::var("ROPEWAY_REPLACEMENTS").map_or(FEW, |count| count.parse().unwrap());
    let mut fixture = Fixture::new(Shape { nodes: 2, mtu: 1500 }, &[0, 1]);
    let mut loads = Vec::new();
    for family in IpFamily::BOTH {
        for path in [
            ClientPath::PodToClusterIp,
            ClientPath::NodeToClusterIp,
            ClientPath::NodePortFromOutside,
            ClientPath::LastNodePortFromOutside,
        ] {
            let Access { from, tcp, .. } = fixture.path(path, family);
            loads.push((from.label(), RequestLoad::start(from, tcp, Protocol::Tcp, RATE).unwrap()));
        }
    }
    for number in 3..3 + count {
        let name = format!("web-{number}");
        let fresh = fixture.cluster.nodes[number % 2].pod(&name).unwrap();
        fixture.servers.push(load::serve(&fresh, &name, &[TARGET]).unwrap());
        fixture.backends.push(fresh);
        serve_by(&fixture, &fixture.backends.iter().map(|pod| (pod, true)).collect::<Vec<_>>());
        let gone = fixture.backends.remove(0);
        let mut pods: Vec<_> = fixture.backends.iter().map(|pod| (pod, true)).collect();
        pods.push((&gone, false));
        serve_by(&fixture, &pods);
        pods.pop();
        serve_by(&fixture, &pods);
        answered(&gone);
        drop(fixture.servers.remove(0));
        gone.delete().unwrap();
    }
    let (mut made, mut servers) = (0, BTreeSet::new());
    for (label, load) in loads {
        let report = load.stop().unwrap();
        assert_eq!(report.failed, 0, "{label}: {report:?}");
        made += report.ok;
        servers.extend(report.by_server.into_keys());
    }
    assert_eq!(servers.len(), count + 2, "each backend had some of {made} connections");
    println!("{count} backends replaced, {made} connections");
}

/// Waits until a backend without new connections has answered all of its requests, the grace period
/// of a pod in Kubernetes.
fn answered(pod: &Pod) {
    wait::until(&format!("{} has answered", pod.name()), Duration::from_secs(10), || {
        let mut command = pod.command("ss")?;
        let open = process::output("ss", command.args(["-Htno", "state", "established", "state", "syn-recv"]))?;
        ensure!(open.is_empty(), "{} still has open connections: {open}", pod.name());
        Ok(Some(()))
    })
    .unwrap();
}

/// Applies these backends, ready or terminating, and waits until the ready ones get the new
/// connections.
fn serve_by(fixture: &Fixture, pods: &[(&Pod, bool)]) {
    fixture.apply(pods);
    fixture.cluster.await_backends("default/web", pods.iter().filter(|(_, ready)| *ready).count()).unwrap();
}
