//! Tests of `loadBalancerSourceRanges`: the client ranges are in the maps whenever their frontend
//! is.

use std::sync::Arc;

use dataplane_common::types::service::{Frontend, FrontendKey, frontend_flags};

use super::view::{View, view};
use super::*;
use crate::proxy::source::object::ServiceExtra;

/// Returns a Service with a node port, an external IP, load-balancer IPs of both families, and
/// these client ranges.
fn guarded(ranges: &[&str]) -> ServiceObject {
    let ranges: Vec<ipnetwork::IpNetwork> = ranges.iter().map(|r| r.parse().unwrap()).collect();
    let mut s = service(&["10.96.0.10", "fd00:96::10"], &[("http", 80)]);
    s.ports[0].node_port = 30_080;
    s.extra = Some(Box::new(ServiceExtra {
        external_ips: [ip("203.0.113.1"), ip("203.0.113.3")].into(),
        load_balancer_ips: [ip("203.0.113.2"), ip("203.0.113.3"), ip("2001:db8:1::2")].into(),
        restricted: IpFamily::BOTH.map(|family| ranges.iter().any(|r| family.has(r.ip()))),
        source_ranges: ranges.into(),
        ..ServiceExtra::default()
    }));
    s
}

fn set(core: &mut Core, ranges: &[&str]) {
    core.handle(SourceEvent::Service(key("web"), Some(guarded(ranges))));
    core.reconcile(NOW);
}

fn guarded_addresses(view: &View) -> Vec<String> {
    let guarded = view.frontends.iter().filter(|(_, f)| f.flags & frontend_flags::SOURCE_RANGES != 0);
    guarded.map(|((addr, ..), _)| addr.to_string()).collect()
}

fn ranges(view: &View) -> Vec<String> {
    let text = |(_, addr, len): &(String, IpAddr, u32)| format!("{addr}/{len}");
    view.sources.iter().map(text).collect()
}

#[test]
fn rule_2_3_11_source_ranges_guard_only_load_balancer_addresses() {
    let memory = memory();
    let mut core = serving(&memory);
    set(&mut core, &["198.51.100.0/24", "2001:db8:7::/48"]);
    let seen = view(&memory);
    assert_eq!(guarded_addresses(&seen), ["203.0.113.2", "203.0.113.3", "2001:db8:1::2"]);
    assert_eq!(ranges(&seen), ["198.51.100.0/24", "2001:db8:7::/48"]);
}

#[test]
fn rule_2_3_11_ranges_of_one_family_leave_the_other_open() {
    let memory = memory();
    let mut core = serving(&memory);
    set(&mut core, &["198.51.100.0/24"]);
    assert_eq!(guarded_addresses(&view(&memory)), ["203.0.113.2", "203.0.113.3"]);
}

#[test]
fn rule_2_3_11_range_with_the_primary_address_allows_all_addresses_of_the_node() {
    let memory = memory();
    let mut core = serving(&memory);
    let mut more = context();
    more.addresses.push(ip("10.9.9.9"));
    core.set_node_context(more);
    set(&mut core, &["192.0.2.0/24"]);
    assert_eq!(ranges(&view(&memory)), ["10.9.9.9/32", "192.0.2.0/24", "192.0.2.1/32"]);
    set(&mut core, &["10.9.9.0/24"]);
    assert_eq!(ranges(&view(&memory)), ["10.9.9.0/24"], "not its primary address");
}

#[test]
fn restricted_frontend_is_never_open_during_updates() {
    let memory = memory();
    let mut core = serving(&memory);
    let watched = memory.clone();
    let steps: [&[&str]; 6] = [
        &["198.51.100.0/24"],
        &["198.51.100.0/24", "10.0.0.0/8"],
        &["10.0.0.0/8"],
        &[],
        &["192.0.2.0/24"],
        &["10.0.0.0/8"],
    ];
    let mut before: &[&str] = &[];
    for now in steps {
        let (was, will) = (before.to_vec(), now.to_vec());
        let watched = watched.clone();
        memory.observe(Some(Arc::new(move || {
            let seen = view(&watched);
            let flags = |f: &(FrontendKey<dataplane_common::types::address::V4>, Frontend)| {
                f.1.flags & frontend_flags::SOURCE_RANGES != 0
            };
            let found = ranges(&seen);
            let has = |wanted: &[&str]| !wanted.is_empty() && wanted.iter().all(|r| found.iter().any(|f| f == r));
            let guarded = watched.frontends4.typed().iter().any(flags);
            assert!(!guarded || has(&was) || has(&will), "{was:?} -> {will:?}: {found:?}");
            let open = watched.frontends4.typed::<FrontendKey<dataplane_common::types::address::V4>, Frontend>();
            let open = open.iter().any(|f| f.0.addr.octets == [203, 0, 113, 2] && !flags(f));
            assert!(!open || was.is_empty() || will.is_empty(), "{was:?} -> {will:?}: open");
        })));
        set(&mut core, now);
        before = now;
    }
    memory.observe(None);
    core.handle(SourceEvent::Service(key("web"), None));
    core.reconcile(NOW);
    assert!(view(&memory).sources.is_empty());
}

#[test]
fn restart_keeps_known_ranges_and_removes_stale_ones() {
    use dataplane_common::types::address::{Prefix, V4};
    use dataplane_common::types::service::SourceRange;
    let memory = memory();
    let mut before = serving(&memory);
    set(&mut before, &["192.0.2.0/24", "2001:db8:7::/48"]);
    let start = |memory: &MemoryMaps| {
        let mut core = core(memory, NOW);
        core.handle(SourceEvent::Service(key("web"), Some(guarded(&["192.0.2.0/24", "2001:db8:7::/48"]))));
        core.handle(SourceEvent::Slice(key("web-1"), Some(slice("web", &[("http", 8080)], &["10.1.0.5", "10.1.0.6"]))));
        in_sync(&mut core);
        core.reconcile(NOW);
        core
    };
    assert_eq!(start(&memory).operations().total(), 0);
    let wanted = ranges(&view(&memory));
    let tables = memory.tables();
    for (service_port, len) in [(77, 40), (1, 20), (1, 64)] {
        let data = SourceRange { service_port, client: V4 { octets: [8, 8, 8, 8] } };
        tables.v4.sources.set(&[Prefix { len, data }], &[1]).unwrap();
    }
    let core = start(&memory);
    assert_eq!(ranges(&view(&memory)), wanted);
    assert_eq!(core.operations().sources, 3);
}

#[test]
fn ranges_that_do_not_fit_fail_only_their_service() {
    let memory = MemoryMaps::new(4, 1000);
    let mut core = serving(&memory);
    let many: Vec<String> = (0..5).map(|i| format!("10.{i}.0.0/16")).collect();
    let mut s = service(&["10.96.0.20"], &[("http", 80)]);
    s.extra = Some(Box::new(ServiceExtra {
        load_balancer_ips: [ip("203.0.113.2")].into(),
        restricted: [true, false],
        source_ranges: many.iter().map(|r| r.parse().unwrap()).collect(),
        ..ServiceExtra::default()
    }));
    core.handle(SourceEvent::Service(key("api"), Some(s)));
    core.reconcile(NOW);
    let seen = view(&memory);
    assert_eq!((seen.frontends.len(), seen.sources.len()), (1, 0), "not even its cluster IP");
    assert_eq!(
        core.snapshot().rejections[0].to_string(),
        "Service shop/api: map source_ranges4 is full: it holds 4 entries, and the Service needs 5 more"
    );
}
