//! Tests of the snapshot: the time that changes took, and Services without local endpoints.

use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use super::*;
use crate::proxy::source::object::Policy;

fn ms_ago(ms: u64) -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap() - ms
}

fn round(core: &mut Core, now: Duration) {
    core.reconcile(now);
    core.note_round(Duration::from_millis(1));
}

#[test]
fn programming_duration_is_recorded_once_maps_are_written() {
    let memory = memory();
    let mut core = serving(&memory);
    core.note_round(Duration::from_millis(1));
    let slice = |endpoint, triggered| SliceObject { triggered, ..slice("web", &[("http", 8080)], &[endpoint]) };
    core.handle(SourceEvent::Slice(key("web-1"), Some(slice("10.1.0.7", ms_ago(10_000)))));
    round(&mut core, NOW);
    let programming = core.snapshot().programming;
    assert_eq!(programming.count(), 1);
    let (bound, _) = programming.buckets().find(|(_, count)| *count > 0).unwrap();
    assert!(bound >= 10.0, "{bound}");
    // a change that could not be made is not over
    memory.fail_next("frontends4");
    core.handle(SourceEvent::Slice(key("web-1"), Some(slice("10.1.0.8", ms_ago(20_000)))));
    round(&mut core, NOW);
    assert_eq!(core.snapshot().programming.count(), 1);
    let retry = core.next_retry().unwrap();
    round(&mut core, retry);
    assert_eq!(core.snapshot().programming.count(), 2);
    // what is listed again has not changed, and a slice without the annotation says nothing
    let at = ms_ago(0);
    for object in [slice("10.1.0.9", at), slice("10.1.0.9", at), slice("10.1.0.9", 0)] {
        core.handle(SourceEvent::Slice(key("web-1"), Some(object)));
        round(&mut core, retry);
    }
    assert_eq!(core.snapshot().programming.count(), 3);
}

#[test]
fn local_policy_services_without_local_endpoints_are_counted() {
    let memory = memory();
    let mut core = serving(&memory);
    assert_eq!(core.snapshot().no_local, [[0, 0], [0, 0]]);
    let mut local = service(&["10.96.0.11", "fd00:96::11"], &[("http", 80), ("more", 81)]);
    (local.internal, local.external) = (Policy::Local, Policy::Local);
    local.ports[0].node_port = 30_001;
    core.handle(SourceEvent::Service(key("local"), Some(local.clone())));
    core.reconcile(NOW);
    assert_eq!(core.snapshot().no_local, [[0, 0], [0, 0]], "there are no endpoints anywhere");
    let with = |flags| slice_of("local", &[("http", 8080), ("more", 8081)], &[("10.1.0.9", flags)]);
    core.handle(SourceEvent::Slice(key("local-1"), Some(with(READY))));
    core.reconcile(NOW);
    assert_eq!(core.snapshot().no_local, [[1, 1], [0, 0]], "one Service, whatever the number of its ports");
    core.handle(SourceEvent::Slice(key("local-1"), Some(with(READY | endpoint_flags::LOCAL))));
    core.reconcile(NOW);
    assert_eq!(core.snapshot().no_local, [[0, 0], [0, 0]]);
    core.handle(SourceEvent::Slice(key("local-1"), Some(with(READY))));
    local.external = Policy::Cluster;
    core.handle(SourceEvent::Service(key("local"), Some(local)));
    core.reconcile(NOW);
    assert_eq!(core.snapshot().no_local, [[1, 0], [0, 0]]);
    core.handle(SourceEvent::Service(key("local"), None));
    core.reconcile(NOW);
    assert_eq!(core.snapshot().no_local, [[0, 0], [0, 0]]);
}

#[test]
fn health_checks_listen_on_node_port_addresses_but_not_loopback() {
    let memory = memory();
    let mut core = serving(&memory);
    assert_eq!(*core.snapshot().nodeport_addresses, ["192.0.2.1", "2001:db8::1"].map(ip));
    let nodeport_addresses = ["198.51.100.7", "2001:db8::1", "127.0.0.1", "::1"].map(ip).into();
    core.set_node_context(NodeContext { nodeport_addresses, ipv6: false, ..context() });
    core.reconcile(NOW);
    assert_eq!(*core.snapshot().nodeport_addresses, [ip("198.51.100.7")]);
}

#[test]
fn changes_are_pending_until_maps_are_written() {
    let memory = memory();
    let mut core = core(&memory, NOW);
    let counts = |core: &Core| (core.pending().services(), core.pending().endpoints());
    for (name, cluster_ip) in [("web", "10.96.0.10"), ("api", "10.96.0.11")] {
        core.handle(SourceEvent::Service(key(name), Some(service(&[cluster_ip], &[("http", 80)]))));
        let slice = slice(name, &[("http", 8080)], &["10.1.0.5"]);
        core.handle(SourceEvent::Slice(key(&format!("{name}-1")), Some(slice)));
    }
    core.reconcile(NOW);
    assert_eq!(counts(&core), (2, 2), "nothing is written before all is there");
    in_sync(&mut core);
    core.reconcile(NOW);
    assert_eq!(counts(&core), (0, 0));
    // two changes of one Service are one, and what is listed again is none
    let slice = |endpoint| Some(slice("web", &[("http", 8080)], &[endpoint]));
    for endpoint in ["10.1.0.5", "10.1.0.6", "10.1.0.7"] {
        core.handle(SourceEvent::Slice(key("web-1"), slice(endpoint)));
    }
    assert_eq!(counts(&core), (0, 1));
    // in the middle of a round
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (pending, noted) = (core.snapshot().pending, seen.clone());
    memory.observe(Some(Arc::new(move || noted.lock().unwrap().push(pending.endpoints()))));
    core.reconcile(NOW);
    memory.observe(None);
    assert!(!seen.lock().unwrap().is_empty() && seen.lock().unwrap().iter().all(|n| *n == 1), "{seen:?}");
    assert_eq!(counts(&core), (0, 0));
    // what could not be written waits, and what has gone does not
    memory.fail_next("frontends4");
    core.handle(SourceEvent::Slice(key("web-1"), slice("10.1.0.8")));
    core.handle(SourceEvent::Service(key("api"), None));
    core.reconcile(NOW);
    assert_eq!((counts(&core), core.snapshot().failing), ((0, 1), 1));
    core.reconcile(core.next_retry().unwrap());
    assert_eq!((counts(&core), core.snapshot().failing), ((0, 0), 0));
}
