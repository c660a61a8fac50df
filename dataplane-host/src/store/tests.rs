//! Tests of the store's guarantees, and of each state that a kill or a power cut can leave.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

mod choices;
mod crashes;

const SOON: Duration = Duration::from_secs(5);

/// A state directory that is removed with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("rw-store-{}-{n}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn store(&self, boot: &str) -> AddressStore {
        AddressStore::open_in_boot(&self.0, boot).unwrap().with_cool_down(Duration::ZERO)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join("addresses").join(name)
    }

    /// Lists the names in a directory of the store.
    fn names(&self, directory: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(directory)).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn ranges(list: &[&str]) -> Vec<Choice> {
    list.iter().map(|r| Range::new(r.parse().unwrap()).unwrap().into()).collect()
}

fn id(container: &str) -> AttachmentId {
    AttachmentId { container: container.into(), ifname: "eth0".into() }
}

fn facts(container: &str) -> AttachmentRecord {
    let id = id(container);
    let host_ifname = id.host_ifname();
    AttachmentRecord {
        version: 1,
        id,
        network: "pods".into(),
        pod: None,
        addresses: vec![],
        mac: None,
        mtu: None,
        ports: vec![],
        host_ifname,
        boot: String::new(),
        generation: 0,
    }
}

fn reserve(store: &AddressStore, container: &str, ranges: &[Choice]) -> Result<Vec<String>, StoreError> {
    reserve_for(store, &facts(container), ranges)
}

fn reserve_for(store: &AddressStore, facts: &AttachmentRecord, ranges: &[Choice]) -> Result<Vec<String>, StoreError> {
    let reservation = store.lock(SOON)?.reserve(facts, ranges)?;
    let record = reservation.commit(store)?.record;
    Ok(record.addresses.iter().map(ToString::to_string).collect())
}

fn release(store: &AddressStore, container: &str) {
    let going = mark(store, container);
    store.finish_release(&going).unwrap();
}

/// Marks an attachment as being released.
fn mark(store: &AddressStore, container: &str) -> Attachment {
    let mut locked = store.lock(SOON).unwrap();
    let mut attachment = claim(&mut locked, container).unwrap();
    locked.mark(&mut attachment).unwrap();
    store.sync_marks().unwrap();
    attachment
}

fn claim(locked: &mut LockedStore<'_>, container: &str) -> Option<Attachment> {
    match locked.claim(&id(container)).unwrap() {
        AttachmentClaim::Owned(attachment) => Some(attachment),
        AttachmentClaim::Absent => None,
        AttachmentClaim::Busy { .. } => panic!("busy"),
    }
}

#[test]
fn addresses_are_given_out_one_after_the_other_and_held() {
    let (scratch, both) = (Scratch::new(), ranges(&["10.1.0.0/24", "fd00:1::/64"]));
    let store = scratch.store("a");
    assert_eq!(reserve(&store, "c1", &both).unwrap(), ["10.1.0.1", "fd00:1::1"]);
    assert_eq!(reserve(&store, "c2", &both).unwrap(), ["10.1.0.2", "fd00:1::2"]);
    let mut locked = store.lock(SOON).unwrap();
    let record = claim(&mut locked, "c1").unwrap().record;
    assert_eq!((record.addresses.len(), record.boot.as_str(), record.host_ifname.len()), (2, "a", 15));
    assert_eq!(locked.attachments().unwrap().len(), 2);
    assert!(claim(&mut locked, "c3").is_none());
    assert_eq!(scratch.names("temporary"), [""; 0]);
    assert_eq!(locked.findings(), [""; 0]);
}

#[test]
fn released_addresses_are_reused_last() {
    let (scratch, range) = (Scratch::new(), ranges(&["10.1.0.0/29"]));
    let store = scratch.store("a");
    for n in 1..=3 {
        assert_eq!(reserve(&store, &format!("c{n}"), &range).unwrap(), [format!("10.1.0.{n}")]);
    }
    release(&store, "c1");
    for n in 4..=6 {
        assert_eq!(reserve(&store, &format!("c{n}"), &range).unwrap(), [format!("10.1.0.{n}")]);
    }
    assert_eq!(reserve(&store, "c7", &range).unwrap(), ["10.1.0.1"]);
    let error = reserve(&store, "c8", &range).unwrap_err();
    assert_eq!(error.to_string(), "no free address in range 10.1.0.0/29: all 6 are held");
    assert_eq!(scratch.names("temporary"), [""; 0]);
}

#[test]
fn released_addresses_cool_down_unless_there_is_no_other() {
    let (scratch, range) = (Scratch::new(), ranges(&["10.1.0.0/29"]));
    let store = scratch.store("a").with_cool_down(Duration::from_secs(1000));
    for n in 1..=6 {
        reserve(&store, &format!("c{n}"), &range).unwrap();
    }
    release(&store, "c4");
    assert_eq!(reserve(&store, "c7", &range).unwrap(), ["10.1.0.4"], "nothing else is left");
    let wide = ranges(&["10.2.0.0/28"]);
    for n in 1..=13 {
        reserve(&store, &format!("d{n}"), &wide).unwrap();
    }
    release(&store, "d2");
    assert_eq!(reserve(&store, "d14", &wide).unwrap(), ["10.2.0.14"]);
}

#[test]
fn reservation_gets_both_families_or_none() {
    let (scratch, both) = (Scratch::new(), ranges(&["10.1.0.0/24", "fd00:1::8/127"]));
    let store = scratch.store("a");
    reserve(&store, "c1", &both).unwrap();
    reserve(&store, "c2", &both).unwrap();
    let before = scratch.names("records");
    let error = reserve(&store, "c3", &both).unwrap_err();
    assert_eq!(error.to_string(), "no free address in range fd00:1::8/127: all 2 are held");
    assert_eq!(scratch.names("records"), before);
    assert_eq!(reserve(&store, "c3", &both[..1]).unwrap(), ["10.1.0.3"], "no IPv4 address was lost");
}

#[test]
fn records_take_precedence_over_the_cache() {
    let (scratch, range) = (Scratch::new(), ranges(&["10.1.0.0/29"]));
    let store = scratch.store("a");
    for n in 1..=3 {
        reserve(&store, &format!("c{n}"), &range).unwrap();
    }
    // An empty cache, in the same boot.
    let index = scratch.path("index-10.1.0.0_29");
    let mut bytes = fs::read(&index).unwrap();
    bytes[20..].fill(0);
    fs::write(&index, &bytes).unwrap();
    assert_eq!(reserve(&store, "c4", &range).unwrap(), ["10.1.0.4"]);
    // A cache in which every slot is held.
    bytes[32] = 0xff;
    fs::write(&index, &bytes).unwrap();
    assert_eq!(reserve(&store, "c5", &range).unwrap(), ["10.1.0.5"]);
    // A missing cache, and one with invalid content.
    fs::remove_file(&index).unwrap();
    assert_eq!(reserve(&store, "c6", &range).unwrap(), ["10.1.0.6"]);
    fs::write(&index, b"rubbish").unwrap();
    assert!(matches!(reserve(&store, "c7", &range), Err(StoreError::Exhausted { .. })));
}

#[test]
fn lock_wait_ends_at_the_deadline() {
    let scratch = Scratch::new();
    let (store, other) = (scratch.store("a"), scratch.store("a"));
    let held = store.lock(SOON).unwrap();
    let error = other.lock(Duration::from_millis(20)).unwrap_err();
    assert!(error.to_string().ends_with("addresses/lock: not free within 0 s"), "{error}");
    drop(held);
    drop(scratch.store("a").lock(SOON).unwrap());
    std::thread::scope(|scope| {
        let held = store.lock(SOON).unwrap();
        let waiting = scope.spawn(|| scratch.store("a").lock(SOON).map(drop).unwrap());
        std::thread::yield_now();
        drop(held);
        waiting.join().unwrap();
    });
}

#[test]
fn concurrent_reservations_never_share_an_address() {
    let (scratch, both) = (Scratch::new(), ranges(&["10.1.0.0/24", "fd00:1::/120"]));
    let got: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|t| {
                let (scratch, both) = (&scratch, &both);
                scope.spawn(move || {
                    let store = scratch.store("a");
                    (0..20).flat_map(|n| reserve(&store, &format!("c{t}-{n}"), both).unwrap()).collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|t| t.join().unwrap()).collect()
    });
    let mut unique = got.clone();
    unique.sort();
    unique.dedup();
    assert_eq!((got.len(), unique.len()), (320, 320));
}

#[test]
fn files_are_private_and_links_are_not_followed() {
    use std::os::unix::fs::{MetadataExt, symlink};
    let (scratch, range) = (Scratch::new(), ranges(&["10.1.0.0/24"]));
    reserve(&scratch.store("a"), "c1", &range).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
    for directory in ["", "records", "temporary", "releasing", "damaged"] {
        assert_eq!(mode(&scratch.path(directory)), 0o700, "{directory}");
    }
    for file in ["lock", "records/10.1.0.1", "index-10.1.0.0_24"] {
        assert_eq!(mode(&scratch.path(file)), 0o600, "{file}");
    }
    let elsewhere = Scratch::new();
    let index = elsewhere.path("");
    fs::create_dir(&index).unwrap();
    fs::create_dir(scratch.0.join("target")).unwrap();
    symlink(scratch.0.join("target"), elsewhere.path("records")).unwrap();
    let error = AddressStore::open_in_boot(&elsewhere.0, "a").unwrap_err();
    assert!(error.to_string().contains("addresses/records: open"), "{error}");
}

/// Creates many files; the time of an allocation must not depend on their number.
#[test]
#[ignore = "takes seconds; needs no root"]
fn nearly_full_range_is_as_fast_as_an_empty_one() {
    let (scratch, range) = (Scratch::new(), ranges(&["10.1.0.0/16"]));
    let store = scratch.store("a");
    let one = |n: usize| {
        let start = std::time::Instant::now();
        let written =
            store.lock(SOON).unwrap().reserve(&facts(&format!("c{n}")), &range).unwrap().write(&store).unwrap();
        let time = start.elapsed();
        fs::remove_file(scratch.path("temporary").join(id(&format!("c{n}")).file_name())).unwrap();
        (time, written)
    };
    let quickest = |from: usize| (from..from + 100).map(|n| one(n).0).min().unwrap();
    let empty = quickest(0);
    for n in 100..60_000 {
        drop(one(n));
    }
    let full = quickest(60_000);
    assert!(full < empty * 4 + Duration::from_micros(100), "{empty:?} when empty, {full:?} when nearly full");
    for n in (0..200).map(|n| n * 300) {
        drop(mark(&store, &format!("c{n}")));
    }
    let abandoned = store.lock(SOON).unwrap().abandoned_releases().unwrap();
    assert_eq!(abandoned.len(), 200);
    for attachment in &abandoned {
        store.finish_release(attachment).unwrap();
    }
    // The cursor advances to the end of the range and wraps around; no held address is given out.
    for n in 70_000..71_000 {
        drop(one(n));
    }
}

#[test]
fn directory_of_the_system_is_neither_closed_nor_used() {
    let scratch = Scratch::new();
    let mode = || fs::metadata(&scratch.0).unwrap().permissions().mode() & 0o777;
    let open = || fs::set_permissions(&scratch.0, fs::Permissions::from_mode(0o755)).unwrap();
    open();
    fs::write(scratch.0.join("passwd"), "").unwrap();
    let error = AddressStore::open(&scratch.0).unwrap_err().to_string();
    assert!(error.contains("has files, and none of them is Ropeway's"), "{error}");
    assert_eq!((mode(), fs::read_dir(&scratch.0).unwrap().count()), (0o755, 1));

    // kubelet creates an empty directory of mode 0755, to which the agent has added its files.
    fs::remove_file(scratch.0.join("passwd")).unwrap();
    for name in ["agent.lock", "pod-mtu.json"] {
        fs::write(scratch.0.join(name), "").unwrap();
    }
    AddressStore::open(&scratch.0).unwrap();
    assert_eq!(mode(), 0o700);
    open();
    AddressStore::open(&scratch.0).unwrap();
    assert_eq!(mode(), 0o700);
}
