//! Tests of the scheduling annotations: valid values, and the reports of invalid ones.
//!
//! Each test decodes a Service with a single annotation.

use dataplane_common::types::service::scheduler;

use super::*;
use crate::proxy::source::object::{Scheduling, Weights, name_hash};

fn annotated(name: &str, value: &str) -> Decoded<ServiceObject> {
    service_of(web(|v| v["metadata"]["annotations"] = json!({ name: value })))
}

/// Decodes a valid annotation.
fn read(name: &str, value: &str) -> Scheduling {
    let decoded = annotated(name, value);
    assert_eq!(rejections(&decoded), [""; 0]);
    *decoded.object.unwrap().extra.unwrap().scheduling.unwrap()
}

/// Decodes an invalid annotation; returns the settings that are left, and the reasons reported.
fn faulty(name: &str, value: &str) -> (Option<Scheduling>, Vec<String>) {
    let decoded = annotated(name, value);
    let messages = rejections(&decoded);
    let field = format!("Service shop/web, metadata.annotations[{name}]: ");
    let reasons = messages.iter().map(|s| s.strip_prefix(&field).unwrap_or_else(|| panic!("{s}")).to_owned()).collect();
    (decoded.object.unwrap().scheduling().cloned(), reasons)
}

#[test]
fn schedulers_have_the_names_of_ipvs() {
    for (number, name) in scheduler::NAMES.iter().enumerate() {
        assert_eq!(read("ropeway.dev/scheduler", name).scheduler, Some(number as u8));
    }
    assert_eq!(read("ropeway.dev/scheduler", " mh\n").scheduler, Some(scheduler::MH));
    assert_eq!(annotated("example.com/scheduler", "mh").object.unwrap().scheduling(), None);
}

#[test]
fn unknown_scheduler_leaves_the_nodes_default() {
    let known = "random, rr, wrr, sh, dh, mh, lc, wlc, sed, nq; the node's scheduler is used";
    for name in ["least", "RR", "", "lblc"] {
        assert_eq!(faulty("ropeway.dev/scheduler", name), (None, vec![format!("{name:?} is not one of {known}")]));
    }
}

#[test]
fn scheduler_flags_and_maglev_sizes_are_decoded() {
    assert!(read("ropeway.dev/scheduler-flags", "hash-port").hash_port);
    let (left, reasons) = faulty("ropeway.dev/scheduler-flags", "sh-port, hash-port");
    assert!(left.unwrap().hash_port);
    assert_eq!(reasons, ["unknown flag \"sh-port\"; the only one is hash-port"]);

    assert_eq!(read("ropeway.dev/maglev-table-size", "65537").maglev_size, Some(65537));
    let sizes = "251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521, 65537, 131071";
    for size in ["0", "1000", "many", "-251"] {
        let reason = format!("{size:?} is not one of {sizes}; the node's table size is used");
        assert_eq!(faulty("ropeway.dev/maglev-table-size", size), (None, vec![reason]));
    }
}

#[test]
fn weights_apply_to_addresses_networks_nodes_and_others() {
    let text = "10.1.0.0/16=3 10.1.7.0/24=0, 10.1.7.9=65535\nn1=4,fd00:1::5=7,*=2";
    let network = |text: &str| text.parse().unwrap();
    let wanted = Weights {
        networks: [
            (network("10.1.7.9/32"), 65535),
            (network("fd00:1::5/128"), 7),
            (network("10.1.7.0/24"), 0),
            (network("10.1.0.0/16"), 3),
        ]
        .into(),
        nodes: [(name_hash("n1"), 4)].into(),
        others: Some(2),
    };
    assert_eq!(read("ropeway.dev/weights", text).weights, wanted);
}

#[test]
fn invalid_weight_affects_no_other() {
    for (word, reason) in [
        ("10.1.0.5", "is not KEY=WEIGHT"),
        ("10.1.0.5=", "has no weight between 0 and 65535"),
        ("10.1.0.5=65536", "has no weight between 0 and 65535"),
        ("10.1.0.5=-1", "has no weight between 0 and 65535"),
        ("10.1.0.5=1.5", "has no weight between 0 and 65535"),
        ("10.1.0.5/16=1", "has bits beyond its prefix: did you mean 10.1.0.0/16?"),
        ("::ffff:10.1.0.0/112=1", "has an IPv4 network written as IPv6"),
        ("10.1.0.0/33=1", "has a key that is not an address, a network, a node name or *"),
        ("N1=1", "has a key that is not an address, a network, a node name or *"),
        ("=1", "has a key that is not an address, a network, a node name or *"),
        ("n2=9", "repeats a key; its first weight is used"),
        ("*=9", "repeats a key; its first weight is used"),
        ("10.2.0.0/16=9", "repeats a key; its first weight is used"),
    ] {
        let (left, reasons) = faulty("ropeway.dev/weights", &format!("n2=5,*=6 10.2.0.0/16=7 {word}"));
        assert_eq!(reasons, [format!("{word:?} {reason}")]);
        let weights = left.unwrap().weights;
        assert_eq!(*weights.nodes, [(name_hash("n2"), 5)], "{word}");
        assert_eq!((weights.networks.len(), weights.networks[0].1, weights.others), (1, 7, Some(6)), "{word}");
    }
}
