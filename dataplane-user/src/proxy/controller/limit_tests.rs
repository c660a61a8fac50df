//! Tests of the core with Services beyond the limits of `desired::limits`.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use dataplane_common::types::clock::Clock;
use dataplane_common::types::service::proto;

use super::Core;
use crate::proxy::apply::memory::MemoryMaps;
use crate::proxy::desired::NodeContext;
use crate::proxy::desired::limits::MAX_FRONTENDS;
use crate::proxy::source::object::{DualAddr, ServiceExtra, ServicePort};
use crate::proxy::source::{Cause, ObjectKey, ObjectKind, ServiceObject, SourceEvent};

const NOW: Duration = Duration::from_secs(1000);

/// Returns a Service with one cluster IP and these numbers of ports and external addresses.
fn service(ports: u16, external: u32) -> ServiceObject {
    let port = |n: u16| ServicePort { name: format!("p{n}").into(), port: n, node_port: 0, proto: proto::TCP };
    let external_ips = (0..external).map(|n| IpAddr::from(Ipv4Addr::from_bits(0xcb00_7100 + n))).collect();
    ServiceObject {
        cluster_ips: DualAddr { v4: Some(Ipv4Addr::new(10, 96, 0, 10)), v6: None },
        ports: (1..=ports).map(port).collect(),
        extra: Some(Box::new(ServiceExtra { external_ips, ..ServiceExtra::default() })),
        ..ServiceObject::default()
    }
}

#[test]
fn service_beyond_a_limit_keeps_what_it_has_and_says_so() {
    let memory = MemoryMaps::new(10_000, 1000);
    let mut core = Core::new(memory.tables(), Clock { jiffies_per_second: 250 }, NOW).unwrap();
    core.set_node_context(NodeContext { name: "n1".into(), ipv4: true, ..NodeContext::default() });
    let key = ObjectKey::new("shop", "web");
    core.handle(SourceEvent::Service(key.clone(), Some(service(1, 1))));
    for kind in ObjectKind::ALL {
        core.handle(SourceEvent::InSync(kind));
    }
    core.reconcile(NOW);
    assert_eq!(core.snapshot().frontends.0, 2);

    core.handle(SourceEvent::Service(key.clone(), Some(service(40, 1 + MAX_FRONTENDS as u32 / 40))));
    core.reconcile(NOW);
    let snapshot = core.snapshot();
    assert_eq!((snapshot.frontends.0, snapshot.failing), (2, 0), "nothing to try again");
    assert_eq!((snapshot.rejected, snapshot.rejections[0].cause), (1, Cause::LimitExceeded));
    let text = snapshot.rejections[0].to_string();
    assert!(text.starts_with("Service shop/web: the Service has 4160 frontends (ports times addresses); at"), "{text}");

    core.handle(SourceEvent::Service(key.clone(), Some(service(40, 1))));
    core.reconcile(NOW);
    assert_eq!((core.snapshot().frontends.0, core.snapshot().rejected), (80, 0));
    core.handle(SourceEvent::Service(key.clone(), Some(service(40, 4000))));
    core.reconcile(NOW);
    core.handle(SourceEvent::Service(key, None));
    core.reconcile(NOW);
    assert_eq!((core.snapshot().frontends.0, core.snapshot().rejected), (0, 0));
}
