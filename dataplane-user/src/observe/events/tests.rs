//! Tests of the event recorder: which faults are reported, how often, and under which name.
//!
//! The recorder has no API server here; the tests read its queue.

use super::object::event;
use super::*;
use crate::proxy::source::{Cause, NodeObject};

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
    recorder.queue.drain(..).map(|(_, n)| format!("{} {} {}", n.key, n.reason, n.note)).collect()
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

fn nodes(count: usize) -> Arc<Nodes> {
    Arc::new((0..count).map(|n| (format!("n{n}").into(), NodeObject::default())).collect())
}

/// 1,000 faulty Services in a cluster of 5,000 nodes were 10 million requests at once.
#[test]
fn fault_that_all_nodes_find_is_queued_by_three() {
    let now = Instant::now();
    let all = nodes(100);
    let faults = rejections(&[("web", "fault", Cause::Invalid)]);
    let mut delays: Vec<_> = all
        .keys()
        .flat_map(|node| {
            let mut recorder =
                EventRecorder { node: node.to_string(), nodes: Arc::clone(&all), ..EventRecorder::default() };
            recorder.observe(&faults, now);
            recorder.queue.into_iter().map(|(at, _)| at - now)
        })
        .collect();
    delays.sort_unstable();
    assert_eq!(delays, [Duration::ZERO, TURN, 2 * TURN]);
}

#[test]
fn faults_of_single_nodes_are_spread_in_a_large_cluster() {
    let now = Instant::now();
    let mut recorder = EventRecorder { node: "n1".into(), nodes: nodes(5000), ..EventRecorder::default() };
    let faults: Vec<_> = (0..100).map(|n| format!("web-{n}")).collect();
    let faults: Vec<_> = faults.iter().map(|name| (name.as_str(), "full", Cause::TableFull)).collect();
    recorder.observe(&rejections(&faults), now);
    let delays: Vec<_> = recorder.queue.iter().map(|(at, _)| *at - now).collect();
    assert_eq!(delays.len(), 100);
    let later = delays.iter().filter(|delay| **delay > PER_NODE * 2500).count();
    assert!((25..75).contains(&later) && delays.iter().all(|delay| *delay <= PER_NODE * 5000), "{delays:?}");
}

#[tokio::test]
async fn too_many_requests_stop_all_events() {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = async {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let answer = "HTTP/1.1 429 Too Many Requests\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 8\r\n\r\ntoo many";
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            drop(stream.read(&mut [0; 4096]).await);
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    };
    let mut recorder = EventRecorder { servers: vec![Config::new(url.parse().unwrap())], ..EventRecorder::default() };
    let faults = rejections(&[("web", "fault", Cause::Invalid), ("api", "fault", Cause::Invalid)]);
    recorder.observe(&faults, Instant::now());
    let stopped = async {
        for minutes in [1, 2, 4, 8, 16, 16] {
            let begin = Instant::now();
            recorder.send_next().await;
            let stop = recorder.due(begin) - begin;
            let exact = Duration::from_secs(60) * minutes;
            assert!(stop >= exact && stop < exact + Duration::from_secs(5), "{stop:?}");
        }
        assert_eq!(recorder.queue.len(), 2, "none is lost");
    };
    tokio::select! {
        () = stopped => {}
        () = server => {}
    }
}
