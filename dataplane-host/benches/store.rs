//! Measures how long the durable reservation and release of an address take, in a /16, empty and
//! with 60,000 addresses in use, with the pause of freed addresses that production has. The
//! baseline is the bare system calls that make a file with two names durable. Runs with
//! `cargo xtask bench store`, on a disk: on tmpfs nothing is durable, and it refuses.
#![allow(clippy::cast_precision_loss, reason = "microseconds")]
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a benchmark: it stops at the first thing that is wrong"
)]

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dataplane_host::store::{AddressStore, AttachmentId, AttachmentRecord, Choice, Range};

/// Addresses in use when the store is full.
const IN_USE: usize = 60_000;
/// Timed allocations in each state.
const ROUNDS: usize = 500;
/// Number of parts of the measurement; their medians are the spread.
const PARTS: usize = 10;
const SOON: Duration = Duration::from_secs(10);
/// Magic number of tmpfs (linux/magic.h).
const TMPFS: i64 = 0x0102_1994;

/// A directory on the disk that the benchmark is given; removed at the end.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

struct Bench {
    store: AddressStore,
    directory: PathBuf,
    range: [Choice; 1],
}

fn facts(container: &str) -> AttachmentRecord {
    let id = AttachmentId { container: container.into(), ifname: "eth0".into() };
    let host_ifname = id.host_ifname();
    let json = serde_json::json!({"version": 1, "container": container, "ifname": "eth0", "network": "pods",
        "pod": "default/some-deployment-5d4f8c7b9-x2x7k", "addresses": [], "host_ifname": host_ifname, "boot": "",
        "generation": 0});
    serde_json::from_value(json).unwrap()
}

impl Bench {
    /// Reserves as ADD does: choice under the lock, then the names, then both syncs.
    fn add(&self, container: &str) -> Duration {
        let facts = facts(container);
        let start = Instant::now();
        let reservation = self.store.lock(SOON).unwrap().reserve(&facts, &self.range).unwrap();
        drop(reservation.commit(&self.store).unwrap());
        start.elapsed()
    }

    /// Reserves without waiting for the disk, to fill the store.
    fn fill(&self, container: &str) {
        let written = self.store.lock(SOON).unwrap().reserve(&facts(container), &self.range).unwrap();
        drop(written.write(&self.store).unwrap());
        for entry in fs::read_dir(self.directory.join("addresses/temporary")).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
    }

    /// Releases as DEL does: the mark, synced, then the names, synced.
    fn del(&self, container: &str) -> Duration {
        let id = facts(container).id;
        let start = Instant::now();
        let mut locked = self.store.lock(SOON).unwrap();
        let dataplane_host::store::AttachmentClaim::Owned(mut attachment) = locked.claim(&id).unwrap() else {
            panic!("{container}")
        };
        locked.mark(&mut attachment).unwrap();
        drop(locked);
        self.store.sync_marks().unwrap();
        self.store.finish_release(&attachment).unwrap();
        start.elapsed()
    }
}

/// Measures the lower bound of a durable record with two names: write, sync, link, sync the
/// directory.
fn bare(directory: &Path, n: usize) -> Duration {
    let content = [b'x'; 250];
    let (temporary, name) = (directory.join(format!("t{n}")), directory.join(format!("n{n}")));
    let start = Instant::now();
    let mut file = File::create_new(&temporary).unwrap();
    file.write_all(&content).unwrap();
    fs::hard_link(&temporary, &name).unwrap();
    file.sync_all().unwrap();
    File::open(directory).unwrap().sync_all().unwrap();
    fs::remove_file(&temporary).unwrap();
    start.elapsed()
}

fn percentile(times: &[Duration], part: usize) -> f64 {
    let mut times = times.to_vec();
    times.sort_unstable();
    times[(times.len() - 1) * part / 100].as_secs_f64() * 1e6
}

/// Returns the median of `of`, or as a multiple of that of `over`, and the least and the largest of
/// the parts of the measurement.
fn figure(name: &str, of: &[Duration], over: Option<&[Duration]>) -> serde_json::Value {
    let median = |times: &[Duration]| percentile(times, 50);
    let value = median(of) / over.map_or(1.0, median);
    let part = ROUNDS / PARTS;
    let parts = (0..PARTS).map(|n| n * part..(n + 1) * part);
    let parts: Vec<f64> = parts.map(|p| median(&of[p.clone()]) / over.map_or(1.0, |over| median(&over[p]))).collect();
    let (min, max) = parts.iter().fold((f64::MAX, f64::MIN), |(min, max), v| (v.min(min), v.max(max)));
    serde_json::json!({"name": name, "value": value, "min": min, "max": max,
        "unit": if over.is_some() { "x" } else { "us" }})
}

/// Runs allocations, releases and bare writes in turn. Returns their times.
fn measure(bench: &Bench, bare_directory: &Path, state: &str) -> [Vec<Duration>; 3] {
    let mut times = [Vec::new(), Vec::new(), Vec::new()];
    for n in 0..ROUNDS {
        let container = format!("{state}-{n}");
        times[0].push(bench.add(&container));
        times[1].push(bench.del(&container));
        times[2].push(bare(bare_directory, n));
    }
    for n in 0..ROUNDS {
        fs::remove_file(bare_directory.join(format!("n{n}"))).unwrap();
    }
    times
}

fn main() {
    let argument = |flag: &str| std::env::args().skip_while(|a| a != flag).nth(1).map(PathBuf::from);
    let place = argument("--directory").unwrap_or_else(std::env::temp_dir);
    let kind = rustix::fs::statfs(&place).unwrap().f_type;
    assert!(kind != TMPFS, "{} is on tmpfs: name a directory on a disk by --directory", place.display());
    let scratch = Scratch(place.join(format!("rw-bench-store-{}", std::process::id())));
    fs::create_dir(&scratch.0).unwrap();
    let (directory, bare_directory) = (scratch.0.join("state"), scratch.0.join("bare"));
    fs::create_dir(&bare_directory).unwrap();
    let range = Range::new("10.1.0.0/16".parse().unwrap()).unwrap();
    let bench = Bench { store: AddressStore::open(&directory).unwrap(), directory, range: [range.into()] };
    let empty = measure(&bench, &bare_directory, "empty");
    for n in 0..IN_USE {
        bench.fill(&format!("c{n}"));
    }
    // Flush the filled records before the measurement.
    rustix::fs::sync();
    let full = measure(&bench, &bare_directory, "full");
    println!("{:<44} {:>9} {:>9} {:>9}   microseconds", "", "p50", "p90", "p99");
    for (state, times) in [("empty", &empty), ("60,000 in use", &full)] {
        for (what, times) in ["allocate, durable", "release, durable", "bare file with two names"].iter().zip(times) {
            let [p50, p90, p99] = [50, 90, 99].map(|part| percentile(times, part));
            println!("{:<44} {p50:>9.1} {p90:>9.1} {p99:>9.1}", format!("{what}, {state}"));
        }
    }
    let figures = serde_json::json!({"figures": [
        figure("store.allocate_p50_us", &full[0], None),
        figure("store.allocate_full_ratio", &full[0], Some(&empty[0])),
        figure("store.allocate_bare_ratio", &full[0], Some(&full[2])),
    ]});
    if let Some(file) = argument("--json") {
        fs::write(file, format!("{figures:#}\n")).unwrap();
    }
}
