//! Tests of Services that claim the same address, port and protocol: who owns the frontend, and
//! that it never disappears.

use std::net::Ipv4Addr;
use std::sync::Arc;

use super::view::view;
use super::*;
use crate::proxy::apply::memory::{MemoryMaps, Operation};
use crate::proxy::source::object::ServiceExtra;

fn claimant(cluster_ip: &str, created: u32) -> ServiceObject {
    let extra = ServiceExtra { external_ips: [ip("203.0.113.1")].into(), ..ServiceExtra::default() };
    ServiceObject { created, extra: Some(Box::new(extra)), ..service(&[cluster_ip], &[("http", 80)]) }
}

#[test]
fn older_claimant_gets_address_in_any_order() {
    let memory = memory();
    let mut core = serving(&memory);
    core.handle(SourceEvent::Service(key("young"), Some(claimant("10.96.0.20", 200))));
    core.reconcile(NOW);
    let address = (ip("203.0.113.1"), 80, 6);
    core.handle(SourceEvent::Service(key("old"), Some(claimant("10.96.0.21", 100))));
    core.reconcile(NOW);
    assert_eq!(view(&memory).frontends[&address].service, "shop/old:http");
    assert_eq!(
        core.snapshot().rejections[0].to_string(),
        "Service shop/young, spec.ports: 203.0.113.1 port 80 is taken by Service shop/old"
    );
    // created again, it is the younger one
    core.handle(SourceEvent::Service(key("old"), Some(claimant("10.96.0.21", 300))));
    core.reconcile(NOW);
    assert_eq!(view(&memory).frontends[&address].service, "shop/young:http");
    assert!(core.snapshot().rejections[0].to_string().starts_with("Service shop/old, "));
}

#[test]
fn name_breaks_ties_of_equally_old_claimants() {
    for order in [["a", "b", "c"], ["c", "b", "a"], ["b", "c", "a"]] {
        let memory = memory();
        let mut core = serving(&memory);
        for name in order {
            let cluster_ip = format!("10.96.0.{}", name.as_bytes()[0]);
            core.handle(SourceEvent::Service(key(name), Some(claimant(&cluster_ip, 7))));
            if order[0] != "b" {
                core.reconcile(NOW);
            }
        }
        core.reconcile(NOW);
        let owner = || view(&memory).frontends[&(ip("203.0.113.1"), 80, 6)].service.clone();
        assert_eq!(owner(), "shop/a:http");
        assert_eq!(core.snapshot().rejected, 2);
        core.handle(SourceEvent::Service(key("a"), None));
        core.reconcile(NOW);
        assert_eq!((owner(), core.snapshot().rejected), ("shop/b:http".into(), 1));
    }
}

#[test]
fn restarted_agent_assigns_address_to_oldest_claimant() {
    let memory = memory();
    let mut before = serving(&memory);
    before.handle(SourceEvent::Service(key("young"), Some(claimant("10.96.0.20", 200))));
    before.reconcile(NOW);
    let mut core = core(&memory, NOW);
    core.handle(SourceEvent::Service(key("young"), Some(claimant("10.96.0.20", 200))));
    core.handle(SourceEvent::Service(key("old"), Some(claimant("10.96.0.21", 100))));
    in_sync(&mut core);
    core.reconcile(NOW);
    assert_eq!(view(&memory).frontends[&(ip("203.0.113.1"), 80, 6)].service, "shop/old:http");
}

const ADDRESS: (IpAddr, u16, u8) = (IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)), 80, 6);

/// Returns a core with two Services that claim one address and have one endpoint each.
fn contested(memory: &MemoryMaps, created: [(&str, u32); 2]) -> Core {
    let mut core = serving(memory);
    for (i, (name, created)) in created.into_iter().enumerate() {
        let slice = slice(name, &[("http", 8080)], &[&format!("10.1.1.{i}")]);
        core.handle(SourceEvent::Service(key(name), Some(claimant(&format!("10.96.0.2{i}"), created))));
        core.handle(SourceEvent::Slice(key(&format!("{name}-1")), Some(slice)));
        core.reconcile(NOW);
    }
    core
}

/// Checks after each write that the address leads to one of these Services and has an endpoint.
fn watch(memory: &MemoryMaps, allowed: &'static [&'static str]) {
    let watched = memory.clone();
    memory.observe(Some(Arc::new(move || {
        let seen = view(&watched);
        let frontend = seen.frontends.get(&ADDRESS).expect("the address is always served");
        assert!(allowed.contains(&&*frontend.service), "{frontend:?}");
        assert_eq!(frontend.internal.len(), 1, "{frontend:?}");
    })));
}

#[test]
fn waiting_service_gets_released_address_without_gap() {
    let drops_it = |created| Some(ServiceObject { extra: None, ..claimant("10.96.0.20", created) });
    let refuses_it: [(&str, Option<ServiceObject>); 3] =
        [("deleted", None), ("gives it up", drops_it(100)), ("created again", Some(claimant("10.96.0.20", 300)))];
    for (what, object) in refuses_it {
        let memory = memory();
        let mut core = contested(&memory, [("old", 100), ("young", 200)]);
        assert_eq!(view(&memory).frontends[&ADDRESS].service, "shop/old:http", "{what}");
        watch(&memory, &["shop/old:http", "shop/young:http"]);
        core.handle(SourceEvent::Service(key("old"), object.clone()));
        core.reconcile(NOW);
        assert_eq!(view(&memory).frontends[&ADDRESS].service, "shop/young:http", "{what}");
        assert_eq!(core.snapshot().rejected, usize::from(what == "created again"), "{what}");
        assert_eq!(view(&memory).frontends.len(), if object.is_some() { 4 } else { 3 }, "{what}");
    }
}

#[test]
fn older_claimant_takes_over_address_without_gap() {
    let memory = memory();
    let mut core = contested(&memory, [("young", 200), ("gone", 300)]);
    watch(&memory, &["shop/young:http", "shop/old:http"]);
    core.handle(SourceEvent::Slice(key("old-1"), Some(slice("old", &[("http", 8080)], &["10.1.1.9"]))));
    core.handle(SourceEvent::Service(key("old"), Some(claimant("10.96.0.29", 100))));
    core.handle(SourceEvent::Slice(key("young-1"), Some(slice("young", &[("http", 8080)], &["10.1.1.8"]))));
    core.reconcile(NOW);
    assert_eq!(view(&memory).frontends[&ADDRESS].service, "shop/old:http");
}

/// The taker removed the name of the service port to which the address still led, because the
/// owner was to write its entry again and could not.
#[test]
fn address_of_a_failed_takeover_never_loses_its_name() {
    let memory = memory();
    let mut core = contested(&memory, [("young", 200), ("gone", 300)]);
    let old = |ports: &[(&str, u16)]| ServiceObject { created: 100, ..service(&["10.96.0.29"], ports) };
    core.handle(SourceEvent::Slice(key("old-1"), Some(slice("old", &[("more", 8080)], &["10.1.1.9"]))));
    core.handle(SourceEvent::Service(key("old"), Some(old(&[("http", 80), ("rest", 81)]))));
    core.reconcile(NOW);
    watch(&memory, &["shop/young:http", "shop/old:more"]);
    let extra = claimant("10.96.0.29", 100).extra;
    core.handle(SourceEvent::Service(key("old"), Some(ServiceObject { extra, ..old(&[("more", 80)]) })));
    // It has taken the address, and can't give it back; the owner can't write it either.
    memory.fail("frontends4", Operation::Remove, 0);
    memory.fail("services", Operation::Set, 1);
    (0..2).for_each(|_| memory.fail_next("services"));
    core.reconcile(NOW);
    assert_eq!((memory.failed(), &*view(&memory).frontends[&ADDRESS].service), (4, "shop/old:more"));
    (0..2).for_each(|_| memory.fail_next("services"));
    core.handle(SourceEvent::Service(key("old"), None));
    core.reconcile(NOW);
    while let Some(at) = core.next_retry() {
        core.reconcile(at);
    }
    assert_eq!(view(&memory).frontends[&ADDRESS].service, "shop/young:http");
    assert!(!view(&memory).names.iter().any(|name| name.starts_with("shop/old")));
}

#[test]
fn failed_takeover_leaves_address_with_its_owner() {
    for failures in 1..=2 {
        let memory = memory();
        let mut core = contested(&memory, [("young", 200), ("gone", 300)]);
        core.handle(SourceEvent::Service(key("gone"), None));
        core.reconcile(NOW);
        watch(&memory, &["shop/young:http", "shop/old:http"]);
        core.handle(SourceEvent::Slice(key("old-1"), Some(slice("old", &[("http", 8080)], &["10.1.1.9"]))));
        core.handle(SourceEvent::Service(key("old"), Some(claimant("10.96.0.29", 100))));
        (0..failures).for_each(|_| memory.fail_next("frontends4"));
        core.reconcile(NOW);
        assert_eq!(view(&memory).frontends[&ADDRESS].service, "shop/young:http", "{failures}");
        // and its owner may change meanwhile
        core.handle(SourceEvent::Slice(key("young-1"), Some(slice("young", &[("http", 8080)], &["10.1.1.8"]))));
        core.reconcile(NOW);
        core.reconcile(core.next_retry().unwrap());
        assert_eq!(view(&memory).frontends[&ADDRESS].service, "shop/old:http", "{failures}");
        assert_eq!((core.snapshot().failing, core.snapshot().rejected), (0, 1), "{failures}");
    }
}

#[test]
fn full_map_does_not_block_address_transfer() {
    // four at cluster IPs, and the address
    let memory = MemoryMaps::new(5, 100);
    let mut core = contested(&memory, [("old", 100), ("young", 200)]);
    core.handle(SourceEvent::Service(key("web"), Some(service(&["10.96.0.10"], &[("http", 80), ("more", 81)]))));
    core.reconcile(NOW);
    assert_eq!((view(&memory).frontends.len(), core.snapshot().failing), (5, 0));
    watch(&memory, &["shop/old:http", "shop/young:http"]);
    core.handle(SourceEvent::Service(key("old"), Some(claimant("10.96.0.20", 300))));
    core.reconcile(NOW);
    assert_eq!(view(&memory).frontends[&ADDRESS].service, "shop/young:http");
    assert_eq!(core.snapshot().failing, 0);
}

#[test]
fn rejection_names_the_new_owner() {
    let memory = memory();
    let mut core = contested(&memory, [("b", 200), ("c", 300)]);
    core.handle(SourceEvent::Service(key("a"), Some(claimant("10.96.0.29", 100))));
    core.reconcile(NOW);
    let mut told: Vec<_> = core.snapshot().rejections.iter().map(ToString::to_string).collect();
    told.sort_unstable();
    let taken = |by: &str| format!("Service shop/{by}, spec.ports: 203.0.113.1 port 80 is taken by Service shop/a");
    assert_eq!(told, [taken("b"), taken("c")]);
}

#[test]
fn rejection_names_the_owner_after_a_failed_takeover() {
    let memory = memory();
    let mut core = serving(&memory);
    core.handle(SourceEvent::Service(key("owner"), Some(claimant("10.96.0.20", 200))));
    core.reconcile(NOW);
    core.handle(SourceEvent::Service(key("older"), Some(claimant("10.96.0.21", 100))));
    core.handle(SourceEvent::Service(key("younger"), Some(claimant("10.96.0.22", 300))));
    memory.fail_next("services");
    core.reconcile(NOW);
    core.handle(SourceEvent::Service(key("older"), Some(service(&["10.96.0.21"], &[("http", 80)]))));
    core.reconcile(NOW + Duration::from_secs(60));
    let told: Vec<_> = core.snapshot().rejections.iter().map(ToString::to_string).collect();
    assert_eq!(told, ["Service shop/younger, spec.ports: 203.0.113.1 port 80 is taken by Service shop/owner"]);
}

#[test]
fn restart_transfers_address_of_deleted_owner_without_gap() {
    // with what is left of the owner, or without anything
    for slices_left in [true, false] {
        let memory = memory();
        drop(contested(&memory, [("old", 100), ("young", 200)]));
        assert_eq!(view(&memory).frontends[&ADDRESS].service, "shop/old:http");
        watch(&memory, &["shop/old:http", "shop/young:http"]);
        let mut core = core(&memory, NOW);
        core.handle(SourceEvent::Service(key("young"), Some(claimant("10.96.0.21", 200))));
        core.handle(SourceEvent::Slice(key("young-1"), Some(slice("young", &[("http", 8080)], &["10.1.1.1"]))));
        if slices_left {
            core.handle(SourceEvent::Slice(key("old-1"), Some(slice("old", &[("http", 8080)], &["10.1.1.0"]))));
        }
        in_sync(&mut core);
        core.reconcile(NOW);
        assert_eq!(view(&memory).frontends[&ADDRESS].service, "shop/young:http");
        assert_eq!(view(&memory).frontends.len(), 2, "the address and a cluster IP");
        assert_eq!((core.snapshot().failing, core.snapshot().rejected), (0, 0));
    }
}

/// The successor gives up an address itself, which a third Service takes first.
#[test]
fn chain_of_successors_leaves_no_gap() {
    let memory = memory();
    let mut core = contested(&memory, [("old", 100), ("young", 200)]);
    let two = |created| {
        let mut service = claimant("10.96.0.21", created);
        service.extra.as_mut().unwrap().external_ips = [ip("203.0.113.1"), ip("10.96.0.30")].into();
        service
    };
    core.handle(SourceEvent::Service(key("young"), Some(two(200))));
    core.reconcile(NOW);
    watch(&memory, &["shop/old:http", "shop/young:http"]);
    let gives_up = ServiceObject { extra: None, ..claimant("10.96.0.20", 100) };
    core.handle(SourceEvent::Service(key("old"), Some(gives_up)));
    core.handle(SourceEvent::Service(key("dns"), Some(service(&["10.96.0.30"], &[("http", 80)]))));
    core.reconcile(NOW);
    let seen = view(&memory);
    assert_eq!(seen.frontends[&ADDRESS].service, "shop/young:http");
    assert_eq!(seen.frontends[&(ip("10.96.0.30"), 80, 6)].service, "shop/dns:http");
}

#[test]
fn address_given_up_while_another_service_is_created_for_it_has_no_gap() {
    // in one agent, or while none runs
    for restarted in [false, true] {
        let memory = memory();
        let mut core = contested(&memory, [("old", 100), ("other", 200)]);
        core.handle(SourceEvent::Service(key("other"), None));
        core.reconcile(NOW);
        watch(&memory, &["shop/old:http", "shop/new:http"]);
        if restarted {
            core = super::core(&memory, NOW);
        }
        let gives_up = ServiceObject { extra: None, ..claimant("10.96.0.20", 100) };
        core.handle(SourceEvent::Service(key("old"), Some(gives_up)));
        core.handle(SourceEvent::Slice(key("old-1"), Some(slice("old", &[("http", 8080)], &["10.1.1.0"]))));
        core.handle(SourceEvent::Slice(key("new-1"), Some(slice("new", &[("http", 8080)], &["10.1.1.7"]))));
        core.handle(SourceEvent::Service(key("new"), Some(claimant("10.96.0.22", 300))));
        in_sync(&mut core);
        core.reconcile(NOW);
        assert_eq!(view(&memory).frontends[&ADDRESS].service, "shop/new:http", "{restarted}");
    }
}
