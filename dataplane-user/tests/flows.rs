//! Tests of the sweep and the connection count on flow tables in the kernel.
//!
//! The maps are not pinned and no programs are loaded; entries are written by the tests.
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

use dataplane_common::types::address::V4;
use dataplane_common::types::clock::Ticks;
use dataplane_common::types::flow::{Flow, FlowKey, flow_flags, flow_state};
use dataplane_common::types::service::{Backend, BackendLoad, BackendStats, proto};
use dataplane_host::map::{PinnedMap, SharedArray};
use dataplane_host::sys::create_map;
use dataplane_user::observe::flows::loads::{Loads, tally};
use dataplane_user::observe::flows::{evict_policy::FlowTimeouts, sweep};

const LRU_HASH: u32 = 9;
const NOW: u32 = 10_000;
const LIMITS: FlowTimeouts = FlowTimeouts::new(Ticks(1000), Ticks(60), Ticks(100));
const NODE: V4 = V4 { octets: [192, 168, 50, 11] };
const CLIENT: V4 = V4 { octets: [192, 168, 50, 1] };
const SERVICE: V4 = V4 { octets: [10, 96, 0, 10] };
const BACKEND: V4 = V4 { octets: [10, 244, 2, 5] };

struct Flows(PinnedMap<FlowKey<V4>, Flow<V4>>);

impl Flows {
    fn new() -> Self {
        let (key, value) = (size_of::<FlowKey<V4>>() as u32, size_of::<Flow<V4>>() as u32);
        Self(PinnedMap::from_fd("flows4", create_map(LRU_HASH, key, value, 4096, 0).unwrap()).unwrap())
    }

    /// Inserts both directions of a connection from an outside client to a backend on another node,
    /// with source translation. Takes the last use of each direction in ticks and the state of the
    /// first direction.
    fn pair(&self, sport: u16, proto: u8, state: u8, [there, back]: [u32; 2]) -> [FlowKey<V4>; 2] {
        let masked = 61_000 + sport;
        let first = FlowKey { src: CLIENT, dst: SERVICE, sport, dport: 80, proto, pad: [0; 3] };
        let second = FlowKey { src: BACKEND, dst: NODE, sport: 8080, dport: masked, proto, pad: [0; 3] };
        let forth =
            Flow { src: NODE, dst: BACKEND, sport: masked, dport: 8080, last_seen: there, state, ..Flow::EMPTY };
        let answer = Flow { src: SERVICE, dst: CLIENT, sport: 80, dport: sport, last_seen: back, ..Flow::EMPTY };
        let answer = Flow { state: flow_state::ESTABLISHED, flags: flow_flags::REPLY, ..answer };
        self.0.insert(&first, &forth).unwrap();
        self.0.insert(&second, &answer).unwrap();
        [first, second]
    }

    /// Sets the backend of both directions.
    fn lead_to(&self, keys: [FlowKey<V4>; 2], backend: u32, generation: u32) {
        for key in keys {
            let flow = self.0.get(&key).unwrap().unwrap();
            self.0.insert(&key, &Flow { backend, generation, ..flow }).unwrap();
        }
    }

    fn has(&self, keys: [FlowKey<V4>; 2]) -> [bool; 2] {
        keys.map(|key| self.0.get(&key).unwrap().is_some())
    }
}

#[test]
#[ignore = "needs root: it makes a map in the kernel"]
fn ended_pairs_are_removed_whole_and_others_stay() {
    use flow_state::{CLOSING, ESTABLISHED, NEW};
    let flows = Flows::new();
    let ago = |ticks: u32| NOW - ticks;
    let idle = flows.pair(1, proto::UDP, NEW, [ago(101), ago(150)]);
    let one_way = flows.pair(2, proto::UDP, NEW, [ago(1), ago(5000)]);
    let forged = flows.pair(3, proto::TCP, NEW, [ago(121), ago(121)]);
    let closed = flows.pair(4, proto::TCP, CLOSING, [ago(61), ago(61)]);
    let waits = flows.pair(5, proto::TCP, ESTABLISHED, [ago(999), ago(999)]);
    let half_expired = flows.pair(6, proto::UDP, NEW, [ago(200), ago(200)]);
    flows.0.remove(&half_expired[0]).unwrap();
    let later = flows.pair(8, proto::TCP, ESTABLISHED, [NOW + 1, NOW + 1]);
    let half = flows.pair(7, proto::TCP, ESTABLISHED, [ago(10), ago(10)]);
    flows.0.remove(&half[1]).unwrap();

    let counts = sweep(&flows.0, Ticks(NOW), &LIMITS).unwrap();
    for (name, keys, stays) in [
        ("idle", idle, [false; 2]),
        ("one way", one_way, [true; 2]),
        ("forged", forged, [false; 2]),
        ("closed", closed, [false; 2]),
        ("waits", waits, [true; 2]),
        ("half of an expired pair", half_expired, [false; 2]),
        ("used after the clock was read", later, [true; 2]),
        ("half of an active pair", half, [true, false]),
    ] {
        assert_eq!(flows.has(keys), stays, "{name}");
    }
    assert_eq!((counts.removed, counts.entries, counts.max_entries), (4, 7, 4096));
    assert_eq!(counts.pairs, [3, 1, 1, 2], "counted before the removal: established, half open, closing, datagrams");
    assert_eq!(sweep(&flows.0, Ticks(NOW), &LIMITS).unwrap().removed, 0);
}

#[test]
#[ignore = "needs root: it makes a map in the kernel"]
fn established_flows_survive_pressure() {
    let flows = Flows::new();
    let waits: Vec<_> = (0..100).map(|i| flows.pair(i, proto::TCP, flow_state::ESTABLISHED, [NOW - 900; 2])).collect();
    let flood: Vec<_> = (100..1000).map(|i| flows.pair(i, proto::TCP, flow_state::NEW, [NOW - 13; 2])).collect();
    assert_eq!(sweep(&flows.0, Ticks(NOW), &LIMITS).unwrap().removed, 0);
    let counts = sweep(&flows.0, Ticks(NOW), &LIMITS.under_pressure()).unwrap();
    assert_eq!((counts.removed, counts.entries), (900, 200));
    assert!(waits.iter().all(|keys| flows.has(*keys) == [true; 2]));
    assert!(flood.iter().all(|keys| flows.has(*keys) == [false; 2]));
}

fn array<V: bytemuck::Pod>() -> SharedArray<V> {
    const ARRAY: u32 = 2;
    const MMAPABLE: u32 = 1024;
    SharedArray::from_fd("array", create_map(ARRAY, 4, size_of::<V>() as u32, 16, MMAPABLE).unwrap()).unwrap()
}

#[test]
#[ignore = "needs root: it makes maps in the kernel"]
fn connections_are_counted_by_backend() {
    use flow_state::{CLOSING, ESTABLISHED, NEW, RESET};
    let flows = Flows::new();
    let arrays = Loads { backends: array(), stats: array(), loads: array() };
    let used =
        |generation| Backend { addr: [0; 16], port: 1, state: 1, pad: 0, generation, service_port: 1, weight: 1 };
    for (id, generation) in [(3, 7), (4, 1), (5, 2)] {
        assert!(arrays.backends.set(id, &used(generation)));
    }
    let stats = |generation, flows| BackendStats { connections: 9, sockets: 1, flows, generation, pad: 0 };
    arrays.stats.set(3, &stats(7, 6));
    arrays.stats.set(4, &stats(8, 5)); // of another endpoint
    let (now, long_ago) = ([NOW; 2], [NOW - 5000; 2]);
    let mut made = Vec::new();
    for (sport, (proto, state, used, backend)) in (1..).zip([
        (proto::TCP, NEW, now, (3, 7)),
        (proto::TCP, ESTABLISHED, now, (3, 7)),
        (proto::UDP, NEW, now, (3, 7)),
        (proto::TCP, CLOSING, now, (3, 7)),
        // Not counted: an ended flow, another endpoint's flow, and a flow without a backend.
        (proto::UDP, NEW, long_ago, (3, 7)),
        (proto::TCP, ESTABLISHED, now, (3, 6)),
        (proto::TCP, ESTABLISHED, now, (0, 0)),
        (proto::TCP, ESTABLISHED, now, (4, 1)),
    ]) {
        let keys = flows.pair(sport, proto, state, used);
        flows.lead_to(keys, backend.0, backend.1);
        made.push(keys);
    }
    // Reset by the backend: only the reply half has the state.
    let refused = flows.pair(20, proto::TCP, NEW, now);
    flows.lead_to(refused, 4, 1);
    let answer = flows.0.get(&refused[1]).unwrap().unwrap();
    flows.0.insert(&refused[1], &Flow { state: RESET, ..answer }).unwrap();

    let look = || arrays.look(|into| tally(&flows.0, Ticks(NOW), &LIMITS, into)).unwrap();
    let load = |id| arrays.loads.get(id).unwrap();
    assert_eq!(look(), 3, "backends without connections are written, too");
    assert_eq!(load(3), BackendLoad { generation: 7, active: 3, inactive: 1, flows: 6 });
    assert_eq!(load(4), BackendLoad { generation: 1, active: 1, inactive: 1, flows: 0 });
    assert_eq!(load(5), BackendLoad { generation: 2, active: 0, inactive: 0, flows: 0 });
    assert_eq!(look(), 0, "nothing has changed");

    // One flow closes, others are gone, and one more is opened.
    let closing = flows.0.get(&made[1][0]).unwrap().unwrap();
    flows.0.insert(&made[1][0], &Flow { state: CLOSING, ..closing }).unwrap();
    made[0].iter().chain(&made[3]).for_each(|key| assert!(flows.0.remove(key).unwrap()));
    arrays.stats.set(3, &stats(7, 7));
    assert_eq!(look(), 1);
    assert_eq!(load(3), BackendLoad { generation: 7, active: 1, inactive: 1, flows: 7 });
    // Another endpoint has the backend id now.
    arrays.backends.set(3, &used(8));
    assert_eq!(look(), 1);
    assert_eq!(load(3), BackendLoad { generation: 8, active: 0, inactive: 0, flows: 0 });
}
