//! What the agent removes from a flow table in the kernel.
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

use dataplane_common::addr::V4;
use dataplane_common::flow::{Flow, FlowKey, flow_flags, flow_state};
use dataplane_common::service::proto;
use dataplane_host::map::Table;
use dataplane_host::sys::create_map;
use dataplane_user::flows::{judge::Limits, sweep};

const LRU_HASH: u32 = 9;
const NOW: u32 = 10_000;
const LIMITS: Limits = Limits::new(1000, 60, 100);
const NODE: V4 = V4 { octets: [192, 168, 50, 11] };
const CLIENT: V4 = V4 { octets: [192, 168, 50, 1] };
const SERVICE: V4 = V4 { octets: [10, 96, 0, 10] };
const BACKEND: V4 = V4 { octets: [10, 244, 2, 5] };

struct Flows(Table<FlowKey<V4>, Flow<V4>>);

impl Flows {
    fn new() -> Self {
        let (key, value) = (size_of::<FlowKey<V4>>() as u32, size_of::<Flow<V4>>() as u32);
        Self(Table::from_fd("flows4", create_map(LRU_HASH, key, value, 4096, 0).unwrap()).unwrap())
    }

    /// Both directions of a connection from outside to a backend elsewhere, whose sources are translated: when each was last used, and the
    /// state of the first.
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

    fn has(&self, keys: [FlowKey<V4>; 2]) -> [bool; 2] {
        keys.map(|key| self.0.get(&key).unwrap().is_some())
    }
}

#[test]
#[ignore = "needs root: it makes a map in the kernel"]
fn pairs_that_have_ended_go_as_a_whole_and_others_stay() {
    use flow_state::{CLOSING, ESTABLISHED, NEW};
    let flows = Flows::new();
    let ago = |ticks: u32| NOW - ticks;
    let idle = flows.pair(1, proto::UDP, NEW, [ago(101), ago(150)]);
    let one_way = flows.pair(2, proto::UDP, NEW, [ago(1), ago(5000)]);
    let forged = flows.pair(3, proto::TCP, NEW, [ago(121), ago(121)]);
    let closed = flows.pair(4, proto::TCP, CLOSING, [ago(61), ago(61)]);
    let waits = flows.pair(5, proto::TCP, ESTABLISHED, [ago(999), ago(999)]);
    let orphan = flows.pair(6, proto::UDP, NEW, [ago(200), ago(200)]);
    flows.0.remove(&orphan[0]).unwrap();
    let later = flows.pair(8, proto::TCP, ESTABLISHED, [NOW + 1, NOW + 1]);
    let half = flows.pair(7, proto::TCP, ESTABLISHED, [ago(10), ago(10)]);
    flows.0.remove(&half[1]).unwrap();

    let census = sweep(&flows.0, NOW, &LIMITS).unwrap();
    for (name, keys, stays) in [
        ("idle", idle, [false; 2]),
        ("one way", one_way, [true; 2]),
        ("forged", forged, [false; 2]),
        ("closed", closed, [false; 2]),
        ("waits", waits, [true; 2]),
        ("orphan", orphan, [false; 2]),
        ("later than the clock was read", later, [true; 2]),
        ("half of a pair that is used", half, [true, false]),
    ] {
        assert_eq!(flows.has(keys), stays, "{name}");
    }
    assert_eq!((census.removed, census.entries, census.max_entries), (4, 7, 4096));
    assert_eq!(census.pairs, [3, 1, 1, 2], "as they were found: established, half open, closing, datagrams");
    assert_eq!(sweep(&flows.0, NOW, &LIMITS).unwrap().removed, 0);
}

#[test]
#[ignore = "needs root: it makes a map in the kernel"]
fn under_pressure_what_is_established_stays() {
    let flows = Flows::new();
    let waits: Vec<_> = (0..100).map(|i| flows.pair(i, proto::TCP, flow_state::ESTABLISHED, [NOW - 900; 2])).collect();
    let flood: Vec<_> = (100..1000).map(|i| flows.pair(i, proto::TCP, flow_state::NEW, [NOW - 13; 2])).collect();
    assert_eq!(sweep(&flows.0, NOW, &LIMITS).unwrap().removed, 0);
    let census = sweep(&flows.0, NOW, &LIMITS.under_pressure()).unwrap();
    assert_eq!((census.removed, census.entries), (900, 200));
    assert!(waits.iter().all(|keys| flows.has(*keys) == [true; 2]));
    assert!(flood.iter().all(|keys| flows.has(*keys) == [false; 2]));
}
