//! Schedulers, one by one: the backend that each new connection gets.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU16, Ordering};

use dataplane_common::types::service::scheduler::{DH, MH, RANDOM, RR, SH, WRR};
use dataplane_common::types::service::{Frontend, frontend_flags};

use super::*;

/// Index of the first slot of the tables in these tests.
pub(super) const BASE: u32 = 100;

/// A node with a Service that has a scheduler and remote backends.
pub(super) struct Scheduled<'a, T> {
    pub(super) testbed: &'a mut T,
    net: FamilyAddresses,
    /// Backend ids by address; they start at 1.
    backends: HashMap<SocketAddr, u32>,
}

/// Source ports, none used twice, so that every packet opens a connection.
static NEXT_PORT: AtomicU16 = AtomicU16::new(2000);

pub(super) fn fresh_port() -> u16 {
    NEXT_PORT.fetch_add(1, Ordering::Relaxed).max(2000)
}

impl<'a, T: Testbed> Scheduled<'a, T> {
    /// Adds backends with these weights, and a frontend whose slots have these ids.
    pub(super) fn new(
        testbed: &'a mut T,
        net: FamilyAddresses,
        scheduler: u8,
        flags: u16,
        weights: &[u32],
        table: &[u32],
    ) -> Self {
        let mut backends = HashMap::new();
        for (weight, id) in weights.iter().zip(1..) {
            let to = at(net.remote, 8000 + u16::try_from(id).unwrap());
            testbed.put_backend(id, Backend { weight: *weight, ..backend(to, BOTH_SETS, 1) });
            backends.insert(to, id);
        }
        for (id, index) in table.iter().zip(BASE..) {
            testbed.put_slot(index, *id);
        }
        let mut scheduled = Self { testbed, net, backends };
        let value = Frontend { scheduler, flags, ..frontend(BASE, u32::try_from(table.len()).unwrap()) };
        scheduled.put(at(net.vip, 80), value);
        scheduled.put(at(net.node, 30080), value);
        scheduled
    }

    pub(super) fn put(&mut self, at: SocketAddr, value: Frontend) {
        self.testbed.put_frontend(FrontendKey { addr: at.ip(), port: at.port(), proto: proto::TCP, pad: 0 }, value);
    }

    /// Opens a connection from pod A; returns the backend id.
    pub(super) fn open(&mut self) -> u32 {
        self.connect(FROM_A, at(self.net.a, fresh_port()), at(self.net.vip, 80))
    }

    /// Opens a connection from a client outside; returns the backend id.
    pub(super) fn open_from(&mut self, client: SocketAddr) -> u32 {
        self.connect(FROM_UPLINK, client, at(self.net.node, 30080))
    }

    pub(super) fn connect(&mut self, (hook, ifindex): (Hook, u32), client: SocketAddr, to: SocketAddr) -> u32 {
        let mut f = frame(Kind::Syn, client, to);
        assert_eq!(self.testbed.run(hook, ifindex, &mut f), Action::Redirect, "{client} -> {to}");
        self.backends[&self.testbed.flow(client, to, proto::TCP).unwrap().dst]
    }

    pub(super) fn opened(&mut self, times: usize) -> Vec<u32> {
        (0..times).map(|_| self.open()).collect()
    }

    pub(super) fn counts(&mut self, times: usize) -> HashMap<u32, usize> {
        counted(self.opened(times))
    }
}

pub(super) fn counted(ids: impl IntoIterator<Item = u32>) -> HashMap<u32, usize> {
    ids.into_iter().fold(HashMap::new(), |mut counts, id| {
        *counts.entry(id).or_default() += 1;
        counts
    })
}

/// Returns clients outside with different addresses.
fn outsiders(net: FamilyAddresses, count: u32) -> impl Iterator<Item = SocketAddr> {
    (0..count).map(move |n| {
        let ip: IpAddr = match net.outside {
            IpAddr::V4(a) => (u32::from(a) + 256 * n).to_be_bytes().into(),
            IpAddr::V6(a) => (u128::from(a) + (u128::from(n) << 16)).to_be_bytes().into(),
        };
        at(ip, fresh_port())
    })
}

/// Of 1,000 connections to a table with one backend twice, 333 and 667 are expected, with a
/// standard deviation of 15.
pub(crate) fn random_follows_the_slot_table<T: Testbed>(t: &mut T) {
    for net in node(t) {
        let counts = Scheduled::new(t, net, RANDOM, 0, &[1, 2], &[1, 2, 2]).counts(1000);
        assert!((260..=406).contains(&counts[&1]), "five times the standard deviation off: {counts:?}");
    }
}

pub(crate) fn round_robin_follows_slot_order<T: Testbed>(t: &mut T) {
    for net in node(t) {
        let mut s = Scheduled::new(t, net, RR, 0, &[1, 1, 1], &[3, 1, 2]);
        assert_eq!(s.opened(8), [3, 1, 2, 3, 1, 2, 3, 1]);
        let mut s = Scheduled::new(t, net, WRR, 0, &[3, 1], &[1, 1, 2, 1]);
        assert_eq!(s.opened(9), [1, 1, 2, 1, 1, 1, 2, 1, 1]);
    }
}

/// The turn was written for a longer table in the same slots, so it is beyond the end of this one.
pub(crate) fn round_robin_wraps_at_the_table_end<T: Testbed>(t: &mut T) {
    for net in node(t) {
        let mut s = Scheduled::new(t, net, RR, 0, &[1; 5], &[1, 2, 3, 4, 5]);
        assert_eq!(s.opened(4), [1, 2, 3, 4]);
        let short = Frontend { scheduler: RR, ..frontend(BASE, 2) };
        s.put(at(net.vip, 80), short);
        assert_eq!(s.opened(3), [1, 2, 1]);
    }
}

pub(crate) fn source_hash_is_stable<T: Testbed>(t: &mut T) {
    for net in node(t) {
        for number in [SH, MH] {
            let table: Vec<u32> = (0..64).map(|n| n % 4 + 1).collect();
            let mut s = Scheduled::new(t, net, number, 0, &[1; 4], &table);
            let mine = s.open();
            assert_eq!(counted(s.opened(50)), HashMap::from([(mine, 50)]), "independent of the port");
            let mut all = Vec::new();
            for client in outsiders(net, 400) {
                all.push(s.open_from(client));
                assert_eq!(s.open_from(at(client.ip(), fresh_port())), all[all.len() - 1], "{client}");
            }
            // 100 each, standard deviation 9.
            let counts = counted(all);
            assert!((1..=4).all(|id| (55..=145).contains(&counts[&id])), "{number}: {counts:?}");

            let mut s = Scheduled::new(t, net, number, frontend_flags::HASH_PORT, &[1; 4], &table);
            let counts = s.counts(400);
            assert!((1..=4).all(|id| (55..=145).contains(&counts[&id])), "{number} with ports: {counts:?}");
            // The same client at another port of the Service: another flow, the same backend.
            s.put(
                at(net.node, 30081),
                Frontend { scheduler: number, flags: frontend_flags::HASH_PORT, ..frontend(BASE, 64) },
            );
            for port in 1000..1050 {
                let client = at(net.outside, port);
                let (one, other) = (s.open_from(client), s.connect(FROM_UPLINK, client, at(net.node, 30081)));
                assert_eq!(one, other, "{client}");
            }
        }
    }
}

/// The hash has no seed: every node with the same table, and every run, gives a client the same
/// backend.
pub(crate) fn source_hash_is_equal_on_every_node<T: Testbed>(t: &mut T) {
    let [v4, v6] = node(t);
    let table: Vec<u32> = (1..=16).collect();
    for (net, expected) in [(v4, KNOWN4), (v6, KNOWN6)] {
        let mut s = Scheduled::new(t, net, MH, 0, &[1; 16], &table);
        let got: Vec<_> = outsiders(net, 6).map(|client| s.open_from(client)).collect();
        assert_eq!(got, expected);
    }
}

/// Backend ids computed by another implementation.
const KNOWN4: [u32; 6] = [6, 8, 6, 10, 11, 7];
const KNOWN6: [u32; 6] = [4, 8, 11, 16, 15, 3];

pub(crate) fn destination_hash_is_stable<T: Testbed>(t: &mut T) {
    for net in node(t) {
        let table: Vec<u32> = (1..=16).collect();
        let mut s = Scheduled::new(t, net, DH, 0, &[1; 16], &table);
        let all: HashSet<u32> = s.opened(50).into_iter().collect();
        assert_eq!(all.len(), 1, "one address, one backend");
        let outside: HashSet<u32> = outsiders(net, 50).map(|client| s.open_from(client)).collect();
        assert_eq!(outside.len(), 1, "independent of the client");
        let mut seen = HashSet::new();
        for n in 0..40_u8 {
            let vip = match net.vip {
                IpAddr::V4(a) => IpAddr::from((u32::from(a) + u32::from(n)).to_be_bytes()),
                IpAddr::V6(a) => IpAddr::from((u128::from(a) + u128::from(n)).to_be_bytes()),
            };
            s.testbed.put_addr(vip, AddressInfo { ifindex: 0, kind: address_kind::SERVICE, flags: 0, mac: [0; 6] });
            s.put(at(vip, 80), Frontend { scheduler: DH, ..frontend(BASE, 16) });
            seen.insert(s.connect(FROM_A, at(net.a, fresh_port()), at(vip, 80)));
        }
        assert!(seen.len() >= 10, "40 addresses have {} of 16 backends", seen.len());
    }
}
