//! Tests of the controller with maps that reject a write or are full.

use std::time::Duration;

use super::view::view;
use super::*;
use crate::proxy::apply::memory::{MemoryMaps, Operation};
use crate::proxy::source::object::ServiceExtra;

fn two(core: &mut Core) {
    core.handle(SourceEvent::Service(
        key("api"),
        Some(service(&["10.96.0.12", "fd00:96::12"], &[("http", 80), ("more", 81)])),
    ));
    core.handle(SourceEvent::Slice(key("api-1"), Some(slice("api", &[("http", 8080), ("more", 81)], &["10.1.0.8"]))));
    core.handle(SourceEvent::Service(key("zoo"), Some(service(&["10.96.0.13"], &[("http", 80)]))));
}

#[test]
fn failed_write_affects_one_service_and_is_retried() {
    for map in ["backends", "slots", "services", "addresses4", "addresses6", "frontends4", "frontends6"] {
        let memory = memory();
        let mut core = serving(&memory);
        two(&mut core);
        memory.fail_next(map);
        core.reconcile(NOW);
        let seen = view(&memory);
        let names: Vec<_> = seen.names.iter().map(String::as_str).collect();
        assert_eq!(
            names,
            ["shop/web:http", "shop/zoo:http"],
            "{map}: the other Services are served, this one not by half"
        );
        assert_eq!(core.snapshot().failing, 1, "{map}");
        assert!(core.snapshot().rejections[0].to_string().starts_with("Service shop/api: map "), "{map}");
        let retry = core.next_retry().unwrap();
        core.reconcile(retry);
        assert_eq!(view(&memory).frontends.len(), 2 + 4, "{map}");
        assert_eq!((core.snapshot().failing, core.snapshot().rejected), (0, 0), "{map}");
    }
}

#[test]
fn failed_change_is_rolled_back() {
    let memory = memory();
    let mut core = serving(&memory);
    let before = view(&memory);
    memory.fail_next("frontends4");
    core.handle(SourceEvent::Slice(key("web-1"), Some(slice("web", &[("http", 8080)], &["10.1.0.7"]))));
    core.reconcile(NOW);
    assert_eq!(view(&memory), before);
    core.reconcile(core.next_retry().unwrap());
    assert_eq!(view(&memory).backends.len(), 1);
}

#[test]
fn failed_rollback_rewrites_all_entries() {
    let memory = memory();
    let mut core = serving(&memory);
    memory.fail_next("frontends4");
    memory.fail_next("frontends4");
    core.handle(SourceEvent::Slice(key("web-1"), Some(slice("web", &[("http", 8080)], &["10.1.0.7"]))));
    core.reconcile(NOW);
    core.reconcile(core.next_retry().unwrap());
    let seen = view(&memory);
    assert_eq!(seen.frontends.values().next().unwrap().internal.len(), 1);
}

/// The rollback of the second failure wrote entries that the first one had not written: an address
/// of a Service, before the Service had its endpoints there.
#[test]
fn second_failure_publishes_nothing_that_the_first_one_did_not() {
    let memory = memory();
    let mut core = core(&memory, NOW);
    core.handle(SourceEvent::Service(key("web"), Some(service(&["10.96.0.10"], &[("http", 80)]))));
    in_sync(&mut core);
    core.reconcile(NOW);
    let before = view(&memory);
    let extra = ServiceExtra { external_ips: [ip("203.0.113.1")].into(), ..ServiceExtra::default() };
    let more = ServiceObject { extra: Some(Box::new(extra)), ..service(&["10.96.0.10"], &[("http", 80)]) };
    core.handle(SourceEvent::Service(key("web"), Some(more)));
    core.handle(SourceEvent::Slice(key("web-1"), Some(slice("web", &[("http", 8080)], &["10.1.0.5"]))));
    // The change fails, then its rollback, then the change again.
    ["backends", "services", "frontends4"].into_iter().for_each(|map| memory.fail_next(map));
    core.reconcile(NOW);
    let retry = core.next_retry().unwrap();
    core.reconcile(retry);
    assert_eq!(view(&memory), before);
    core.reconcile(core.next_retry().unwrap());
    assert_eq!(view(&memory).frontends[&(ip("203.0.113.1"), 80, 6)].internal.len(), 1);
}

/// The Service is gone as soon as the rollback of its removal has led to the state before it, and
/// nobody cleared the report.
#[test]
fn service_deleted_after_failed_writes_leaves_no_report() {
    let memory = memory();
    let mut core = serving(&memory);
    core.handle(SourceEvent::Service(key("api"), Some(service(&["10.96.0.12"], &[("http", 80)]))));
    memory.fail_next("services");
    memory.fail("frontends4", Operation::Remove, 0);
    core.reconcile(NOW);
    core.handle(SourceEvent::Service(key("api"), None));
    memory.fail("addresses4", Operation::Remove, 0);
    core.reconcile(NOW);
    assert_eq!(memory.failed(), 3);
    while let Some(at) = core.next_retry() {
        core.reconcile(at);
    }
    assert_eq!(core.services().count(), 1);
    assert_eq!((core.snapshot().rejected, core.snapshot().failing), (0, 0), "{:?}", core.snapshot().rejections);
}

#[test]
fn service_that_does_not_fit_is_refused_whole_until_there_is_room() {
    let memory = MemoryMaps::new(8, 8);
    let mut core = serving(&memory);
    let many: Vec<String> = (1..=6).map(|i| format!("10.1.2.{i}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    core.handle(SourceEvent::Service(key("big"), Some(service(&["10.96.0.12"], &[("http", 80)]))));
    core.handle(SourceEvent::Slice(key("big-1"), Some(slice("big", &[("http", 8080)], &many))));
    core.reconcile(NOW);
    assert_eq!(view(&memory).frontends.len(), 1);
    assert_eq!(
        core.snapshot().rejections[0].to_string(),
        "Service shop/big: map backends is full: it holds 8 entries, and the Service needs 2 more"
    );
    let mut now = NOW;
    core.handle(SourceEvent::Service(key("web"), None));
    core.reconcile(now);
    while let Some(at) = core.next_retry() {
        now = at;
        core.reconcile(now);
        assert!(now < NOW + Duration::from_mins(2), "{:?}", core.snapshot());
    }
    assert_eq!(view(&memory).frontends.values().next().unwrap().internal.len(), 6);
    assert_eq!(core.snapshot().rejected, 0);
}

#[test]
fn maps_are_never_filled_beyond_their_size() {
    let memory = MemoryMaps::new(4, 1000);
    let mut core = serving(&memory);
    for i in 0..6_u8 {
        let addr = format!("10.96.1.{i}");
        core.handle(SourceEvent::Service(key(&format!("s{i}")), Some(service(&[&addr], &[("http", 80)]))));
    }
    core.reconcile(NOW);
    let seen = view(&memory);
    assert_eq!(seen.frontends.len(), seen.names.len(), "each one whole or not at all: {seen:?}");
    assert!(core.snapshot().rejected >= 3);
}
