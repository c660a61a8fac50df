//! Schedulers and weights chosen by annotation, for the socket hooks and for the packet path. The
//! packet tests check the algorithms in detail.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use ropeway_tests::cluster::Shape;
use ropeway_tests::load::{self, TrafficEndpoint};
use ropeway_tests::peer::Protocol;
use ropeway_tests::pod::IpFamily;
use ropeway_tests::{view, wait};
use serde_json::{Value, json};

use crate::fixture::{Access, ClientPath, Fixture};

/// Annotates the Service, and waits until all nodes have this scheduler and these weights.
fn annotate(fixture: &Fixture, annotations: &Value, scheduler: &str, weights: &[u64]) {
    fixture.apply_annotated(&fixture.backends.iter().map(|pod| (pod, true)).collect::<Vec<_>>(), annotations);
    for node in &fixture.cluster.nodes {
        let what = format!("{scheduler} with {weights:?} on {}", node.name());
        wait::until_true(&what, Duration::from_secs(10), || {
            let all = view::json(&node.machine, &["service", "list", "default/web"]).unwrap_or_default();
            let frontends = all["frontends"].as_array().map(Vec::as_slice).unwrap_or_default();
            let is_done = |f: &Value| {
                let backends = f["backends"].as_array().map(Vec::as_slice).unwrap_or_default();
                f["scheduler"] == scheduler
                    && backends.iter().map(|b| b["weight"].as_u64()).eq(weights.iter().map(|w| Some(*w)))
            };
            !frontends.is_empty() && frontends.iter().all(is_done)
        })
        .unwrap();
    }
}

/// Opens `count` connections and returns how many each server got.
fn got(from: &dyn TrafficEndpoint, target: SocketAddr, count: u64) -> BTreeMap<String, u64> {
    let report = load::send_requests(from, target, Protocol::Tcp, count).unwrap();
    assert_eq!((report.ok, report.failed), (count, 0), "{} to {target}: {report:?}", from.label());
    report.by_server.into_iter().collect()
}

fn counts<const N: usize>(wanted: [(&str, u64); N]) -> BTreeMap<String, u64> {
    wanted.into_iter().map(|(name, count)| (name.to_owned(), count)).collect()
}

#[test]
#[ignore = "needs root"]
fn annotation_selects_scheduler_and_weights() {
    let fixture = Fixture::new(Shape { nodes: 2, mtu: 1500 }, &[0, 1]);
    let n2 = fixture.cluster.nodes[1].name();

    annotate(&fixture, &json!({"ropeway.dev/scheduler": "rr"}), "rr", &[1, 1]);
    for family in IpFamily::BOTH {
        for Access { from, tcp, .. } in fixture.paths(family) {
            let counts = got(from, tcp, 20);
            assert_eq!(counts, self::counts([("web-1", 10), ("web-2", 10)]), "{} to {tcp}", from.label());
        }
    }

    let weights = format!("*=1 {n2}=3");
    annotate(&fixture, &json!({"ropeway.dev/scheduler": "wrr", "ropeway.dev/weights": weights}), "wrr", &[1, 3]);
    for family in IpFamily::BOTH {
        for Access { from, tcp, .. } in fixture.paths(family) {
            let counts = got(from, tcp, 20);
            assert_eq!(counts, self::counts([("web-1", 5), ("web-2", 15)]), "{} to {tcp}", from.label());
        }
    }

    annotate(&fixture, &json!({"ropeway.dev/scheduler": "mh"}), "mh", &[1, 1]);
    for family in IpFamily::BOTH {
        // a pod by its socket, at two addresses; a client outside by its packets, at two nodes
        for paths in [
            [ClientPath::PodToClusterIp, ClientPath::PodToLastNodePort],
            [ClientPath::NodePortFromOutside, ClientPath::LastNodePortFromOutside],
        ] {
            let [one, other] = paths.map(|path| {
                let Access { from, tcp, .. } = fixture.path(path, family);
                got(from, tcp, 10)
            });
            assert_eq!((one.len(), &one), (1, &other), "one client, one backend");
        }
    }

    annotate(&fixture, &json!({"ropeway.dev/weights": format!("{n2}=0")}), "random", &[1]);
    for family in IpFamily::BOTH {
        for Access { from, tcp, .. } in fixture.paths(family) {
            assert_eq!(got(from, tcp, 10), counts([("web-1", 10)]), "the other one drains");
        }
    }
}
