//! Tests of frontends: the addresses that a Service gets, and those that are rejected.
//!
//! Endpoints matter only where a test says so.

use super::*;

#[test]
fn rule_2_1_4_a_service_has_all_its_addresses() {
    let desired = derive(&exposed(Policy::Cluster), &[]);
    let wanted = [
        "10.96.0.1:80",
        "[fd00:96::1]:80",
        "203.0.113.1:80",
        "203.0.113.2:80",
        "192.0.2.1:30080",
        "[2001:db8::1]:30080",
    ];
    assert_eq!(addresses(&desired), wanted);
    assert_eq!(desired.rejections, []);
}

#[test]
fn rule_2_1_4_addresses_of_an_unserved_family_are_ignored() {
    let mut context = context();
    context.node.ipv6 = false;
    let slices = [slice(&[("fd00:1::5", READY)]), slice(&[("10.1.0.5", READY)])];
    let key = ObjectKey::new("shop", "web");
    let desired = service(&key, &exposed(Policy::Cluster), slices.iter(), &context, |_| false);
    assert_eq!(addresses(&desired), ["10.96.0.1:80", "203.0.113.1:80", "203.0.113.2:80", "192.0.2.1:30080"]);
    assert_eq!(desired.ports[0].backends.len(), 1);
    assert_eq!(desired.rejections, []);
}

#[test]
fn rule_2_3_12_service_without_node_port_gets_none() {
    let mut s = exposed(Policy::Cluster);
    s.ports[0].node_port = 0;
    assert!(addresses(&derive(&s, &[])).iter().all(|a| a.ends_with(":80")));
}

#[test]
fn rule_2_3_13_node_ports_are_served_at_configured_addresses() {
    let mut context = context();
    context.node.nodeport_addresses = vec![addr("192.0.2.1")];
    let key = ObjectKey::new("shop", "web");
    let desired = service(&key, &exposed(Policy::Cluster), [].iter(), &context, |_| false);
    let node_ports = desired.ports[0].frontends.iter().filter(|f| f.flags & frontend_flags::NODE_PORT != 0);
    assert_eq!(node_ports.map(|f| f.key.addr).collect::<Vec<_>>(), [addr("192.0.2.1")]);
}

#[test]
fn rule_2_3_2_service_without_endpoints_drops_external_clients_under_local_policy() {
    let port = one_port(&exposed(Policy::Local), &[]);
    let local = frontend_flags::EXTERNAL_DROP | frontend_flags::KEEP_CLIENT;
    assert_eq!(frontend_flags_at(&port, "203.0.113.1"), local | frontend_flags::EXTERNAL);
    assert_eq!(frontend_flags_at(&port, "203.0.113.2"), local | frontend_flags::EXTERNAL);
    assert_eq!(frontend_flags_at(&port, "192.0.2.1"), local | frontend_flags::NODE_PORT);
    assert_eq!(frontend_flags_at(&port, "10.96.0.1"), 0, "its cluster IP follows the internal policy");
}

#[test]
fn rule_2_3_3_service_without_endpoints_drops_all_clients_under_internal_local_policy() {
    let s = ServiceObject { internal: Policy::Local, ..exposed(Policy::Cluster) };
    let port = one_port(&s, &[]);
    let both = frontend_flags::INTERNAL_DROP | frontend_flags::EXTERNAL_DROP;
    assert_eq!(frontend_flags_at(&port, "10.96.0.1"), both);
    assert_eq!(frontend_flags_at(&port, "203.0.113.1"), frontend_flags::EXTERNAL);
}

#[test]
fn rule_2_3_1_service_without_endpoints_rejects_under_cluster_policy() {
    let port = one_port(&exposed(Policy::Cluster), &[]);
    assert!(port.frontends.iter().all(|f| f.flags & !(frontend_flags::NODE_PORT | frontend_flags::EXTERNAL) == 0));
}

/// Report 1: kube-proxy serves them, and so do the load balancers that assign them to nodes expect.
#[test]
fn addresses_of_nodes_are_external_addresses() {
    let mut s = exposed(Policy::Cluster);
    let nodes = ["192.0.2.1", "192.0.2.2"].map(addr);
    for (external, balancer) in [(nodes.to_vec(), Vec::new()), (Vec::new(), nodes.to_vec())] {
        let balanced = !balancer.is_empty();
        s.extra = Some(Box::new(ServiceExtra {
            external_ips: external.into(),
            load_balancer_ips: balancer.into(),
            ..ServiceExtra::default()
        }));
        let desired = derive(&s, &[]);
        assert_eq!(desired.rejections, []);
        let served = addresses(&desired);
        assert!(served.contains(&"192.0.2.1:80".into()) && served.contains(&"192.0.2.2:80".into()), "{served:?}");
        assert!(served.contains(&"192.0.2.1:30080".into()), "its node port stays: {served:?}, {balanced}");
    }
}

#[test]
fn port_of_an_external_address_and_equal_node_port_are_one_frontend() {
    let mut s = exposed(Policy::Cluster);
    s.ports[0].port = 30_080;
    let external_ips = [addr("192.0.2.1")].into();
    s.extra = Some(Box::new(ServiceExtra { external_ips, ..ServiceExtra::default() }));
    let served = addresses(&derive(&s, &[]));
    let wanted = ["10.96.0.1:30080", "[fd00:96::1]:30080", "192.0.2.1:30080", "[2001:db8::1]:30080"];
    assert_eq!(served, wanted);
}

#[test]
fn ports_that_nodes_need_are_not_taken_at_their_addresses() {
    let mut context = context();
    context.node.reserved_ports = vec![(proto::TCP, 80), (proto::UDP, 443)];
    context.cluster = context.cluster.with_api_servers([addr("192.0.2.2")].into_iter(), [443].into_iter());
    let mut s = web();
    let https = ServicePort { name: "https".into(), port: 443, node_port: 0, proto: proto::TCP };
    s.ports = [s.ports[0].clone(), https].into();
    let load_balancer_ips = ["192.0.2.1", "192.0.2.2", "203.0.113.1"].map(addr).into();
    s.extra = Some(Box::new(ServiceExtra { load_balancer_ips, ..ServiceExtra::default() }));
    let desired = service(&ObjectKey::new("shop", "web"), &s, [].iter(), &context, |_| false);
    let reasons: Vec<_> = desired.rejections.iter().map(ToString::to_string).collect();
    let expected = [
        "Service shop/web, spec.ports: 192.0.2.1 port 80 is a port that nodes need for themselves",
        "Service shop/web, spec.ports: 192.0.2.2 port 80 is a port that nodes need for themselves",
        "Service shop/web, spec.ports: 192.0.2.2 port 443 is the port of an API server",
    ];
    assert_eq!(reasons, expected);
    let served = addresses(&desired);
    let outside = served.iter().filter(|a| !a.contains("96:") && !a.starts_with("10.96"));
    assert_eq!(outside.collect::<Vec<_>>(), ["203.0.113.1:80", "192.0.2.1:443", "203.0.113.1:443"]);
}

/// Report 6, and report 37 for the address at which a process listens.
#[test]
fn cluster_ip_on_a_device_is_served_unless_a_process_listens_there() {
    let mut context = context();
    context.node.addresses.extend(["10.96.0.1", "fd00:96::1"].map(addr));
    let rejected = |context: &Context| {
        let desired = service(&ObjectKey::new("shop", "web"), &web(), [].iter(), context, |_| false);
        let reasons: Vec<_> = desired.rejections.iter().map(|r| r.reason.clone()).collect();
        (addresses(&desired), reasons)
    };
    let both = ["10.96.0.1:80", "[fd00:96::1]:80"].map(str::to_owned).to_vec();
    assert_eq!(rejected(&context), (both.clone(), Vec::new()));
    let ranges = ["10.96.0.0/16", "fd00:96::/112"].map(|r| r.parse::<IpNetwork>().unwrap());
    context.cluster = context.cluster.with_service_ranges(ranges.iter());
    assert_eq!(rejected(&context), (both, Vec::new()), "in a known range");
    context.node.listening = vec![addr("10.96.0.1")];
    let reason = "10.96.0.1 is on a device of this node, and a process listens there".to_owned();
    assert_eq!(rejected(&context), (vec!["[fd00:96::1]:80".into()], vec![reason]));
}

#[test]
fn external_ips_of_pods_and_cluster_ips_are_rejected() {
    for (bad, reason) in [
        ("10.1.1.7", "10.1.1.7 is in the range of pod addresses"),
        ("10.96.0.9", "10.96.0.9 is the cluster IP of another Service"),
        ("10.96.77.77", "10.96.77.77 is in the range of cluster IPs"),
    ] {
        let mut s = exposed(Policy::Cluster);
        s.extra = Some(Box::new(ServiceExtra { external_ips: [addr(bad)].into(), ..ServiceExtra::default() }));
        let key = ObjectKey::new("shop", "web");
        let other = addr("10.96.0.9");
        let mut context = context();
        context.cluster = context.cluster.with_service_ranges(["10.96.0.0/16".parse().unwrap()].iter());
        let desired = service(&key, &s, [].iter(), &context, |a| a == other);
        let rejected: Vec<_> = desired.rejections.iter().map(ToString::to_string).collect();
        assert_eq!(rejected, [format!("Service shop/web, spec.externalIPs: {reason}")]);
        assert_eq!(desired.ports[0].frontends.len(), 4, "{bad}");
    }
}

/// `status.loadBalancer` has no such limits: only controllers with a permission of their own write
/// it.
#[test]
fn external_ips_of_servers_and_outside_the_ranges_are_rejected() {
    let [api, gateway, resolver, other] = ["198.51.100.1", "192.0.2.254", "192.0.2.53", "203.0.113.9"].map(addr);
    let mut context = context();
    context.cluster = context.cluster.with_api_servers([api].into_iter(), std::iter::empty());
    (context.node.gateways, context.node.resolvers) = (vec![gateway], vec![resolver]);
    let reasons = |context: &Context| {
        let mut s = web();
        let external_ips = [api, gateway, resolver, other].into();
        s.extra = Some(Box::new(ServiceExtra { external_ips, ..ServiceExtra::default() }));
        let desired = service(&ObjectKey::new("shop", "web"), &s, [].iter(), context, |_| false);
        assert_eq!(desired.ports[0].frontends.len() + desired.rejections.len(), 6);
        s.extra = Some(Box::new(ServiceExtra { load_balancer_ips: [api, other].into(), ..ServiceExtra::default() }));
        let balanced = service(&ObjectKey::new("shop", "web"), &s, [].iter(), context, |_| false);
        assert_eq!((balanced.rejections, balanced.ports[0].frontends.len()), (Vec::new(), 4));
        desired.rejections.into_iter().map(|r| r.reason).collect::<Vec<_>>()
    };
    let servers = [
        "198.51.100.1 is the address of an API server",
        "192.0.2.254 is the address of a gateway",
        "192.0.2.53 is the address of a DNS server of the node",
    ];
    assert_eq!(reasons(&context), servers);
    context.node.external_ranges = Some(vec!["203.0.113.0/24".parse().unwrap(), "198.51.100.0/24".parse().unwrap()]);
    assert_eq!(reasons(&context), servers, "also within the ranges");
    context.node.external_ranges = Some(Vec::new());
    assert_eq!(reasons(&context)[3], "203.0.113.9 is outside the ranges of the agent's option --external-ips");
}

/// Root on one node could otherwise withdraw DNS and the API server's Service on all nodes.
#[test]
fn nodes_and_pod_ranges_do_not_withdraw_cluster_ips() {
    let range = |text: &str| text.parse::<IpNetwork>().unwrap();
    let node = NodeObject {
        addresses: [addr("10.96.0.1")].into(),
        pod_cidrs: [range("10.96.0.0/16"), range("fd00:96::/64")].into(),
        ..NodeObject::default()
    };
    let mut s = web();
    let extra = ServiceExtra { external_ips: [addr("10.96.0.77")].into(), ..ServiceExtra::default() };
    s.extra = Some(Box::new(extra));
    for known in [&[][..], &[range("10.96.0.0/12"), range("fd00:96::/108")]] {
        let mut context = context();
        context.cluster = ClusterContext::new(std::iter::once(&node), &[]).with_service_ranges(known.iter());
        let desired = service(&ObjectKey::new("shop", "web"), &s, [].iter(), &context, |_| false);
        assert_eq!(addresses(&desired), ["10.96.0.1:80", "[fd00:96::1]:80"], "{known:?}");
        assert_eq!(desired.rejections.len(), 1, "the external address stays refused");
        // Where the ranges are known, no API server assigns addresses outside of them.
        context.cluster =
            ClusterContext::new(std::iter::once(&node), &[]).with_service_ranges([range("10.7.0.0/16")].iter());
        let desired = service(&ObjectKey::new("shop", "web"), &s, [].iter(), &context, |_| false);
        assert_eq!(addresses(&desired), ["[fd00:96::1]:80"]);
    }
}

#[test]
fn cluster_ip_of_this_node_is_refused() {
    let mut s = web();
    s.cluster_ips.v4 = Some("192.0.2.1".parse().unwrap());
    let desired = derive(&s, &[]);
    assert_eq!(addresses(&desired), ["[fd00:96::1]:80"]);
    assert_eq!(desired.rejections.len(), 1);
}

#[test]
fn repeated_address_is_one_frontend() {
    let mut s = web();
    let again = [addr("10.96.0.1"), addr("203.0.113.1")];
    let extra = ServiceExtra { external_ips: again.into(), load_balancer_ips: again.into(), ..ServiceExtra::default() };
    s.extra = Some(Box::new(extra));
    assert_eq!(addresses(&derive(&s, &[])), ["10.96.0.1:80", "[fd00:96::1]:80", "203.0.113.1:80"]);
}

#[test]
fn one_port_number_on_two_protocols_is_two_service_ports() {
    let mut s = web();
    let udp = ServicePort { name: "dns".into(), port: 80, node_port: 0, proto: proto::UDP };
    s.ports = [s.ports[0].clone(), udp].into();
    let mut udp_slice = slice(&[("10.1.0.6", READY)]);
    udp_slice.ports = [SlicePort { name: "dns".into(), port: 53, proto: proto::UDP }].into();
    let desired = derive(&s, &[slice(&[("10.1.0.5", READY)]), udp_slice]);
    assert_eq!(members(&desired.ports[0], sets::CLUSTER), ["10.1.0.5"]);
    assert_eq!(members(&desired.ports[1], sets::CLUSTER), ["10.1.0.6"]);
}

#[test]
fn cluster_ip_in_a_service_cidr_is_valid() {
    let mut context = context();
    let ranges = ["10.96.1.0/24", "10.96.0.0/16", "10.96.0.0/16", "fd00:96::/112"].map(|r| r.parse().unwrap());
    context.cluster = context.cluster.with_service_ranges(ranges.iter());
    let shown: Vec<_> = context.cluster.service_ranges().iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["10.96.0.0/16", "fd00:96::/112"], "nested ranges are left out");
    let mut s = web();
    s.extra = Some(Box::new(ServiceExtra { load_balancer_ips: [addr("10.96.0.1")].into(), ..ServiceExtra::default() }));
    let desired = service(&ObjectKey::new("shop", "web"), &s, [].iter(), &context, |_| true);
    assert_eq!((desired.rejections, desired.ports[0].frontends.len()), (Vec::new(), 2));
}

#[test]
fn pod_ranges_are_merged_and_searched() {
    let cluster = context().cluster;
    for (text, is_pod) in
        [("10.1.0.0", true), ("10.1.1.255", true), ("10.1.2.0", false), ("10.0.255.255", false), ("fd00:1::9", true)]
    {
        assert_eq!(cluster.is_pod(addr(text)), is_pod, "{text}");
    }
    assert!(cluster.is_host(addr("192.0.2.2")));
    assert!(cluster.is_host(addr("198.51.100.1")), "outside the pod ranges");
    assert!(!ClusterContext::default().is_host(addr("198.51.100.1")), "unknown without pod ranges");
}
