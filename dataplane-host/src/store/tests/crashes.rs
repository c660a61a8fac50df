//! Tests of each state that a kill, a power cut or a person with a shell can leave, and of which
//! process may work on which attachment meanwhile.

use super::*;

/// Returns the IPv6 address of an unfinished reservation.
fn reservation_address(scratch: &Scratch, container: &str) -> String {
    let bytes = fs::read(scratch.path("temporary").join(id(container).file_name())).unwrap();
    AttachmentRecord::from_bytes(&bytes).unwrap().addresses[1].to_string()
}

/// Returns the names of a reservation in the order of their creation.
fn order(scratch: &Scratch, addresses: &[&str]) -> Vec<PathBuf> {
    let attachment = scratch.names("records").into_iter().find(|n| n.starts_with("attachment-")).unwrap();
    addresses
        .iter()
        .map(|a| scratch.path("records").join(a))
        .chain([scratch.path("records").join(attachment)])
        .collect()
}

#[test]
fn killed_reservation_is_undone_from_any_step() {
    for steps in 0..=3 {
        for boot in ["a", "b"] {
            let (scratch, both) = (Scratch::new(), ranges(&["10.1.0.0/24", "fd00:1::/64"]));
            reserve(&scratch.store("a"), "c1", &both).unwrap();
            let names = order(&scratch, &["10.1.0.1", "fd00:1::1"]);
            fs::hard_link(&names[2], scratch.path("temporary").join(id("c1").file_name())).unwrap();
            for name in &names[steps..] {
                fs::remove_file(name).unwrap();
            }
            let store = scratch.store(boot);
            let mut locked = store.lock(SOON).unwrap();
            assert_eq!(scratch.names("temporary"), [""; 0]);
            let found = claim(&mut locked, "c1");
            assert_eq!(found.is_some(), steps == 3, "killed after {steps} names, boot {boot}");
            assert_eq!(scratch.names("records").len(), if steps == 3 { 3 } else { 0 });
        }
    }
}

#[test]
fn unsynced_record_is_removed_after_a_power_cut() {
    for content in [&b""[..], b"{\"version\":1"] {
        let (scratch, range) = (Scratch::new(), ranges(&["10.1.0.0/24"]));
        let store = scratch.store("a");
        fs::write(scratch.path("temporary").join(id("c1").file_name()), content).unwrap();
        assert_eq!(reserve(&store, "c1", &range).unwrap(), ["10.1.0.1"]);
        assert_eq!(scratch.names("temporary"), [""; 0]);
    }
}

#[test]
fn names_without_content_are_removed_after_a_power_cut() {
    for (kept, content) in [(7, &b""[..]), (7, &[0; 300]), (1, b""), (4, b""), (6, &[0; 17])] {
        let (scratch, both) = (Scratch::new(), ranges(&["10.1.0.0/24", "fd00:1::/64"]));
        reserve(&scratch.store("a"), "c1", &both).unwrap();
        for (i, name) in order(&scratch, &["10.1.0.1", "fd00:1::1"]).iter().enumerate() {
            if kept & 1 << i == 0 { fs::remove_file(name).unwrap() } else { fs::write(name, content).unwrap() }
        }
        drop(scratch.store("b").lock(SOON).unwrap());
        assert_eq!((scratch.names("records"), scratch.names("damaged")), (vec![], vec![]), "kept {kept:03b}");
    }
    let (scratch, range) = (Scratch::new(), ranges(&["10.1.0.0/30"]));
    reserve(&scratch.store("a"), "c1", &range).unwrap();
    fs::write(scratch.path("records/10.1.0.1"), "half a rec").unwrap();
    drop(scratch.store("b").lock(SOON).unwrap());
    assert_eq!(scratch.names("damaged").len(), 2, "a file with content is kept for inspection");
    assert!(scratch.names("damaged").contains(&"before-10.1.0.1".to_owned()));
    let b = scratch.store("b");
    assert_eq!(reserve(&b, "c2", &range).unwrap(), ["10.1.0.2"]);
    assert_eq!(reserve(&b, "c3", &range).unwrap(), ["10.1.0.1"], "and does not block the address");
}

#[test]
fn every_subset_of_names_is_repaired_after_a_power_cut() {
    for kept in 0..8_u8 {
        let (scratch, both) = (Scratch::new(), ranges(&["10.1.0.0/24", "fd00:1::/64"]));
        reserve(&scratch.store("a"), "c1", &both).unwrap();
        for (i, name) in order(&scratch, &["10.1.0.1", "fd00:1::1"]).iter().enumerate() {
            if kept & 1 << i == 0 {
                fs::remove_file(name).unwrap();
            }
        }
        let store = scratch.store("b");
        drop(store.lock(SOON).unwrap());
        assert_eq!(scratch.names("records").len(), if kept == 7 { 3 } else { 0 }, "kept {kept:03b}");
        assert_eq!(scratch.names("damaged"), [""; 0]);
    }
}

#[test]
fn killed_release_is_finished_from_any_step() {
    for steps in 0..=3 {
        let (scratch, both) = (Scratch::new(), ranges(&["10.1.0.0/24", "fd00:1::/64"]));
        let store = scratch.store("a");
        reserve(&store, "c1", &both).unwrap();
        let names = order(&scratch, &["10.1.0.1", "fd00:1::1"]);
        drop(mark(&store, "c1"));
        for name in &names[..steps] {
            fs::remove_file(name).unwrap();
        }
        let mut locked = store.lock(SOON).unwrap();
        let abandoned = locked.abandoned_releases().unwrap();
        assert_eq!(abandoned.len(), 1, "after {steps} names");
        assert_eq!(abandoned[0].record.id, id("c1"));
        drop(locked);
        store.finish_release(&abandoned[0]).unwrap();
        store.finish_release(&abandoned[0]).unwrap();
        assert_eq!((scratch.names("records"), scratch.names("releasing")), (vec![], vec![]));
    }
}

#[test]
fn attachment_is_claimed_by_one_process_at_a_time() {
    let (scratch, range) = (Scratch::new(), ranges(&["10.1.0.0/24"]));
    let (store, other) = (scratch.store("a"), scratch.store("a"));
    let claim = |store: &AddressStore| store.lock(SOON).unwrap().claim(&id("c1")).unwrap();
    let reservation = store.lock(SOON).unwrap().reserve(&facts("c1"), &range).unwrap();
    assert!(matches!(claim(&other), AttachmentClaim::Busy { releasing: false }), "reserved, not yet written");
    let attachment = reservation.commit(&store).unwrap();
    assert!(matches!(claim(&other), AttachmentClaim::Busy { releasing: false }), "its writer is at work");
    drop(attachment);
    let going = mark(&store, "c1");
    assert!(matches!(claim(&other), AttachmentClaim::Busy { releasing: true }));
    assert!(other.lock(SOON).unwrap().abandoned_releases().unwrap().is_empty());
    drop(going);
    assert_eq!(other.lock(SOON).unwrap().abandoned_releases().unwrap().len(), 1);
    assert!(matches!(claim(&other), AttachmentClaim::Owned(a) if a.releasing));
}

#[test]
fn unfinished_reservation_survives_repairs_of_other_processes() {
    let (scratch, both) = (Scratch::new(), ranges(&["10.1.0.0/24", "fd00:1::/64"]));
    let (store, other) = (scratch.store("a"), scratch.store("a"));
    let reservation = store.lock(SOON).unwrap().reserve(&facts("c1"), &both).unwrap();
    let temporary = scratch.path("temporary").join(id("c1").file_name());
    fs::hard_link(&temporary, scratch.path("records/10.1.0.1")).unwrap();
    for index in ["index-10.1.0.0_24", "index-fd00:1::_64"] {
        fs::remove_file(scratch.path(index)).unwrap();
    }
    assert_eq!(reserve(&other, "c2", &both).unwrap(), ["10.1.0.2", "fd00:1::2"]);
    fs::remove_file(scratch.path("records/10.1.0.1")).unwrap();
    let record = reservation.commit(&store).unwrap().record;
    assert_eq!(record.addresses[0].to_string(), "10.1.0.1");
    assert_eq!(scratch.names("records").len(), 6);
}

#[test]
fn dropped_or_colliding_reservation_leaves_no_files() {
    let (scratch, both) = (Scratch::new(), ranges(&["10.1.0.0/24", "fd00:1::/64"]));
    let store = scratch.store("a");
    drop(store.lock(SOON).unwrap().reserve(&facts("c1"), &both).unwrap());
    let reservation = store.lock(SOON).unwrap().reserve(&facts("c2"), &both).unwrap();
    assert_eq!(scratch.names("temporary").len(), 1);
    let name = reservation_address(&scratch, "c2");
    fs::write(scratch.path("records").join(&name), "foreign").unwrap();
    let error = reservation.commit(&store).unwrap_err().to_string();
    assert!(error.contains("link") && error.contains(&name), "{error}");
    assert_eq!((scratch.names("temporary"), scratch.names("records")), (vec![], vec![name]));
}

#[test]
fn mark_of_an_earlier_attachment_releases_no_living_pod() {
    let (scratch, range) = (Scratch::new(), ranges(&["10.1.0.0/24"]));
    let store = scratch.store("a");
    reserve(&store, "c1", &range).unwrap();
    let name = scratch.path("releasing").join(id("c1").file_name());
    drop(mark(&store, "c1"));
    let old = fs::read(&name).unwrap();
    release(&store, "c1");
    reserve(&store, "c1", &range).unwrap();
    fs::write(&name, &old).unwrap();
    let mut locked = store.lock(SOON).unwrap();
    assert!(!claim(&mut locked, "c1").unwrap().releasing);
    assert!(locked.abandoned_releases().unwrap().is_empty(), "the new attachment would lose its device");
    assert!(!name.exists());
    assert!(claim(&mut locked, "c1").is_some());
}

#[test]
fn damaged_and_foreign_files_are_set_aside_and_reported() {
    let (scratch, range) = (Scratch::new(), ranges(&["10.1.0.0/30"]));
    let store = scratch.store("a");
    reserve(&store, "c1", &range).unwrap();
    let record = scratch.path("records").join("10.1.0.1");
    let mut bytes = fs::read(&record).unwrap();
    bytes[20] ^= 1;
    fs::write(&record, &bytes).unwrap();
    fs::write(scratch.path("records").join("notes.txt"), "mine").unwrap();
    let mut locked = store.lock(SOON).unwrap();
    assert!(claim(&mut locked, "c1").is_none());
    assert!(locked.findings()[0].contains("checksum is wrong"), "{:?}", locked.findings());
    drop(locked);
    // The pod of the damaged record may still use its address in this boot.
    assert_eq!(reserve(&store, "c2", &range).unwrap(), ["10.1.0.2"]);
    assert!(matches!(reserve(&store, "c3", &range), Err(StoreError::Exhausted { .. })));
    assert!(scratch.names("damaged").contains(&"a-notes.txt".to_owned()), "{:?}", scratch.names("damaged"));
    // After a reboot the address is free.
    assert_eq!(reserve(&scratch.store("b"), "c3", &range).unwrap(), ["10.1.0.1"]);
    assert_eq!(fs::read_to_string(scratch.path("damaged").join("a-notes.txt")).unwrap(), "mine");
}

#[test]
fn missing_name_of_a_living_pod_is_restored() {
    let (scratch, range) = (Scratch::new(), ranges(&["10.1.0.0/29"]));
    let store = scratch.store("a");
    reserve(&store, "c1", &range).unwrap();
    fs::remove_file(scratch.path("records").join("10.1.0.1")).unwrap();
    fs::remove_file(scratch.path("index-10.1.0.0_29")).unwrap();
    assert_eq!(reserve(&store, "c2", &range).unwrap(), ["10.1.0.2"]);
    assert!(scratch.path("records").join("10.1.0.1").exists());
}

#[test]
fn records_survive_a_reboot_until_released() {
    let (scratch, range) = (Scratch::new(), ranges(&["10.1.0.0/24"]));
    for n in 1..=3 {
        reserve(&scratch.store("a"), &format!("c{n}"), &range).unwrap();
    }
    let store = scratch.store("b");
    assert_eq!(reserve(&store, "c4", &range).unwrap(), ["10.1.0.4"], "the cursor is kept");
    assert_eq!(store.lock(SOON).unwrap().attachments().unwrap().len(), 4);
    for n in 1..=4 {
        release(&store, &format!("c{n}"));
    }
    assert_eq!(scratch.names("records"), [""; 0]);
}
