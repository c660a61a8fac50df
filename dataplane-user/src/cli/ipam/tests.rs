//! Tests of `ropeway ipam`. No pod device exists on the test machine, so every attachment has state
//! `no-device`.

use dataplane_host::store::AttachmentId;

use super::*;

fn reserve(dir: &Path, container: &str, range: Range) -> IpAddr {
    let id = AttachmentId { container: container.into(), ifname: "eth0".into() };
    let json = serde_json::json!({"version": 1, "container": container, "ifname": "eth0", "network": "pods", "pod": "shop/web",
        "addresses": [], "host_ifname": id.host_ifname(), "boot": "b", "generation": 0});
    let facts: AttachmentRecord = serde_json::from_value(json).unwrap();
    let store = AddressStore::open(dir).unwrap();
    let reservation = store.lock(LOCK_DEADLINE).unwrap().reserve(&facts, &[range.into()]).unwrap();
    reservation.commit(&store).unwrap().record.addresses[0]
}

fn node() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("node.json"), r#"{"version":1,"node":"n1","podCIDRs":[],"mtu":1500,"pools":true}"#)
        .unwrap();
    let pool = r#"{"name":"a","cidr":"10.1.0.0/16","allowFixedAddresses":false,"reserved":["10.1.0.0/32"],"blocks":["10.1.0.0/29"]}"#;
    let pools = format!(r#"{{"version":1,"node":"n1","default":["a"],"pools":[{pool}]}}"#);
    std::fs::write(dir.path().join("pools.json"), pools).unwrap();
    dir
}

#[test]
fn show_lists_blocks_and_attachments() {
    let dir = node();
    let error = show(dir.path()).unwrap_err().to_string();
    assert!(error.contains("no address store"), "{error}");
    let block = Range::block("10.1.0.0/29".parse().unwrap()).unwrap();
    reserve(dir.path(), "c1", block);
    let shown = show(dir.path()).unwrap();
    let range = RangeView { range: block.network(), pool: Some("a".into()), allocated: 1, free: 7 };
    assert_eq!(shown.ranges, [range]);
    assert_eq!(shown.attachments[0].state, AttachmentState::NoDevice);
    let text = shown.text();
    assert!(text.contains("10.1.0.0/29  a     1          7") && text.contains("shop/web  c1"), "{text}");
    assert_eq!(serde_json::to_value(&shown).unwrap()["attachments"][0]["state"], "no-device");
}

#[test]
fn check_reports_missing_devices_damaged_files_and_missing_maps() {
    let dir = node();
    let block = Range::block("10.1.0.0/29".parse().unwrap()).unwrap();
    reserve(dir.path(), "c1", block);
    std::fs::write(dir.path().join("addresses/damaged/x-10.1.0.9"), "?").unwrap();
    let checked = check(&Pins::new(Path::new("/nonexistent")), dir.path()).unwrap();
    assert_eq!(checked.attachments, 1);
    for words in ["10.1.0.0: device rw", "damaged/x-10.1.0.9: damaged file, set aside", "maps: "] {
        assert!(checked.problems.iter().any(|p| p.contains(words)), "{words} is not in {:?}", checked.problems);
    }
    assert!(checked.text().ends_with("1 attachments, 3 problems\n"), "{}", checked.text());
}

#[test]
fn maps_and_records_are_compared_both_ways() {
    let address = |a: &str| -> IpAddr { a.parse().unwrap() };
    let attachment = AttachmentView {
        addresses: vec![address("10.1.0.1"), address("fd00::1")],
        pod: None,
        container: "c".into(),
        ifname: "eth0".into(),
        device: "rw1".into(),
        state: AttachmentState::Attached,
    };
    let known = attachment.addresses.iter().copied().collect();
    let entries = [(address("10.1.0.1"), 7), (address("10.1.0.2"), 8)].into();
    let problems = compare(&[attachment], &known, &entries);
    assert_eq!(
        problems,
        [
            "10.1.0.2: in the maps (device index 8), but not in the address store",
            "fd00::1: in the address store, but not in the maps",
        ]
    );
}

#[test]
fn release_marks_a_missing_device_once() {
    let dir = node();
    let address = reserve(dir.path(), "c1", Range::block("10.1.0.0/29".parse().unwrap()).unwrap());
    let other = release(dir.path(), "10.1.0.7".parse().unwrap()).unwrap_err().to_string();
    assert_eq!(other, "address 10.1.0.7 is not allocated on this node: `ropeway ipam show` lists allocated addresses");
    assert_eq!(release(dir.path(), address).unwrap().container, "c1");
    assert_eq!(show(dir.path()).unwrap().attachments[0].state, AttachmentState::Releasing);
    assert!(release(dir.path(), address).unwrap_err().to_string().contains("already being released"));
}
