//! Tests of kube-proxy's rules, by the numbers that docs/service-matrix.md uses (`rule_x_y_z`).
//!
//! All tests derive the Service `shop/web` on node `n1` in zone `z1`.
#![allow(clippy::type_complexity, reason = "tables of cases")]

mod addresses;
mod endpoints;
mod scheduling;

use std::net::IpAddr;
use std::sync::Arc;

use dataplane_common::types::ip_family::IpFamily;
use dataplane_common::types::service::{backend_state as state, frontend_flags, proto};
use ipnetwork::IpNetwork;

use super::{ClusterContext, Context, Desired, DesiredPort, NodeContext, service, sets};
use crate::proxy::source::ObjectKey;
use crate::proxy::source::object::{
    DualAddr, Endpoint, NodeObject, Policy, ServiceExtra, ServiceObject, ServicePort, SliceObject, SlicePort,
    endpoint_flags as flags,
};

const READY: u8 = flags::READY | flags::SERVING;
const LEAVING: u8 = flags::SERVING | flags::TERMINATING;
const LOCAL: u8 = flags::LOCAL;

fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn context() -> Context {
    let node = NodeContext {
        name: "n1".into(),
        zone: Some("z1".into()),
        addresses: vec![addr("192.0.2.1"), addr("2001:db8::1")],
        primary: vec![addr("192.0.2.1"), addr("2001:db8::1")],
        nodeport_addresses: vec![addr("192.0.2.1"), addr("2001:db8::1")],
        ipv4: true,
        ipv6: true,
        ..NodeContext::default()
    };
    let range = |text: &str| text.parse::<IpNetwork>().unwrap();
    let nodes = [
        NodeObject {
            addresses: [addr("192.0.2.1"), addr("2001:db8::1")].into(),
            pod_cidrs: [range("10.1.0.0/24"), range("fd00:1::/64")].into(),
            ..NodeObject::default()
        },
        NodeObject {
            addresses: [addr("192.0.2.2")].into(),
            pod_cidrs: [range("10.1.1.0/24")].into(),
            ..NodeObject::default()
        },
    ];
    Context { node, cluster: ClusterContext::new(nodes.iter(), &[]) }
}

fn web() -> ServiceObject {
    let port = ServicePort { name: "http".into(), port: 80, node_port: 0, proto: proto::TCP };
    let cluster_ips = DualAddr { v4: Some("10.96.0.1".parse().unwrap()), v6: Some("fd00:96::1".parse().unwrap()) };
    ServiceObject { cluster_ips, ports: [port].into(), ..ServiceObject::default() }
}

/// Returns the Service with a node port, an external IP and a load-balancer IP.
fn exposed(external: Policy) -> ServiceObject {
    let mut s = ServiceObject { external, ..web() };
    s.ports[0].node_port = 30_080;
    s.extra = Some(Box::new(ServiceExtra {
        external_ips: [addr("203.0.113.1")].into(),
        load_balancer_ips: [addr("203.0.113.2")].into(),
        ..ServiceExtra::default()
    }));
    s
}

fn slice(endpoints: &[(&str, u8)]) -> SliceObject {
    zoned(&endpoints.iter().map(|(a, f)| (*a, *f, &[][..])).collect::<Vec<_>>())
}

fn zoned(endpoints: &[(&str, u8, &[&str])]) -> SliceObject {
    let mut list: Vec<Endpoint> = endpoints
        .iter()
        .map(|(a, f, zones)| {
            let zones: Box<[Box<str>]> = zones.iter().map(|z| Box::from(*z)).collect();
            let zones = (!zones.is_empty()).then(|| Arc::new(zones));
            Endpoint { addr: addr(a), zones, node: 0, flags: *f }
        })
        .collect();
    list.sort_by_key(|e| e.addr);
    SliceObject {
        service: "web".into(),
        ports: [SlicePort { name: "http".into(), port: 8080, proto: proto::TCP }].into(),
        family: list.first().map_or(IpFamily::V4, |e| IpFamily::of(e.addr)),
        endpoints: list.into(),
        triggered: 0,
    }
}

fn derive(s: &ServiceObject, slices: &[SliceObject]) -> Desired {
    service(&ObjectKey::new("shop", "web"), s, slices.iter(), &context(), |_| false)
}

fn one_port(s: &ServiceObject, slices: &[SliceObject]) -> DesiredPort {
    let desired = derive(s, slices);
    assert_eq!(desired.rejections, []);
    desired.ports.into_iter().next().unwrap()
}

/// Returns the members of a set as text.
fn members(port: &DesiredPort, set: u8) -> Vec<String> {
    port.backends.iter().filter(|b| b.sets & set != 0).map(|b| b.addr.to_string()).collect()
}

fn frontend_flags_at(port: &DesiredPort, at: &str) -> u16 {
    port.frontends.iter().find(|f| f.key.addr == addr(at)).unwrap().flags
}

fn addresses(desired: &Desired) -> Vec<String> {
    let all = desired.ports.iter().flat_map(|p| &p.frontends);
    all.map(|f| std::net::SocketAddr::new(f.key.addr, f.key.port).to_string()).collect()
}
