//! Tests of the event recorder: which faults are reported, how often, and under which name.
//!
//! The recorder has no API server here; the tests read its queue.

use super::object::event;
use super::*;
use crate::proxy::source::Cause;

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("shop", name)
}

fn rejections(list: &[(&str, &str, Cause)]) -> Arc<[Rejection]> {
    let of = |(name, reason, cause): &(&str, &str, Cause)| {
        Rejection::of(ObjectKind::Service, &key(name), "spec.externalIPs", *reason).because(*cause)
    };
    list.iter().map(of).collect()
}

fn queued(recorder: &mut EventRecorder) -> Vec<String> {
    recorder.queue.drain(..).map(|n| format!("{} {} {}", n.key, n.reason, n.note)).collect()
}

#[test]
fn equal_faults_are_one_notice_repeated_every_hour() {
    let mut recorder = EventRecorder::default();
    let start = Instant::now();
    let faults = rejections(&[
        ("web", "192.0.2.1 is the address of a node", Cause::AddressRefused),
        ("web", "10.1.0.5 is in the range of pod addresses", Cause::AddressRefused),
        ("web", "203.0.113.1 port 80 is taken by Service shop/api", Cause::AddressConflict),
    ]);
    recorder.observe(&faults, start);
    assert_eq!(
        queued(&mut recorder),
        [
            "shop/web AddressConflict spec.externalIPs: 203.0.113.1 port 80 is taken by Service shop/api",
            "shop/web AddressRefused spec.externalIPs: 192.0.2.1 is the address of a node; \
             spec.externalIPs: 10.1.0.5 is in the range of pod addresses",
        ]
    );
    recorder.observe(&faults, start + AGAIN / 2);
    recorder.observe(&faults.iter().cloned().collect(), start + AGAIN / 2);
    assert_eq!(queued(&mut recorder), [""; 0], "no new fault");
    recorder.observe(&faults, start + AGAIN);
    assert_eq!(queued(&mut recorder).len(), 2, "the fault lasts");
    recorder.observe(&rejections(&[]), start + AGAIN);
    recorder.observe(&faults, start + AGAIN);
    assert_eq!(queued(&mut recorder).len(), 2, "the fault is back");
}

#[test]
fn rate_limit_of_one_object_does_not_affect_others() {
    let mut recorder = EventRecorder::default();
    let now = Instant::now();
    for i in 0..100 {
        let text = format!("fault {i}");
        recorder.observe(&rejections(&[("web", &text, Cause::Invalid)]), now);
    }
    recorder.observe(&rejections(&[("api", "fault", Cause::Invalid)]), now);
    let all = queued(&mut recorder);
    assert_eq!((all.len(), all[10].as_str()), (11, "shop/api InvalidField spec.externalIPs: fault"));
    recorder.observe(&rejections(&[("web", "later", Cause::Invalid)]), now + Duration::from_secs(360));
    assert_eq!(queued(&mut recorder).len(), 1);
}

#[test]
fn cluster_wide_faults_share_a_name_and_local_faults_do_not() {
    let notice = |local| Notice {
        kind: ObjectKind::Service,
        key: key("web"),
        reason: "TableFull",
        note: "é".repeat(900),
        local,
    };
    let now = Timestamp::from_second(1_800_000_000).unwrap();
    let name = |local, node: &str, now| event(&notice(local), "uid-1".into(), node, now).metadata.name.unwrap();
    assert_eq!(name(false, "n1", now), name(false, "n2", now));
    assert_ne!(name(true, "n1", now), name(true, "n2", now));
    assert_ne!(name(false, "n1", now), name(false, "n1", Timestamp::from_second(1_800_003_600).unwrap()));
    let event = event(&notice(true), "uid-1".into(), "n1", now);
    let note = event.note.unwrap();
    assert!(note.starts_with("node n1: é") && note.len() <= 1024, "{}", note.len());
    let regarding = event.regarding.unwrap();
    assert_eq!((regarding.kind.as_deref(), regarding.uid.as_deref()), (Some("Service"), Some("uid-1")));
}
