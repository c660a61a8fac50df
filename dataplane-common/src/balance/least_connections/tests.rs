//! Tests of the search against IPVS's formulas in an independent form, without its optimizations.

extern crate std;

use std::collections::HashMap;
use std::vec;
use std::vec::Vec;

use super::*;
use crate::types::answer_budget::AnswerKind;
use crate::types::event::Counter;
use crate::types::load::ConnectionCounts;
use crate::types::pod::{MasqueradeSource, NodeConfig, Pod, PodNetns};
use crate::types::policy::PodRules;
use crate::types::service::scheduler::{LC, NQ, SED, WLC};
use crate::types::service::{Backend, BackendLoad, BackendStats, SlotTable};

/// Index of the table's first slot.
const BASE: u32 = 70;
const GENERATION: u32 = 9;

/// A server in IPVS's terms.
#[derive(Clone, Copy, Debug)]
struct Server {
    active: u32,
    inactive: u32,
    weight: u32,
}

/// Servers with ids from 1 on, each in one slot of the table.
struct Servers(Vec<(Backend, ConnectionCounts)>);

impl Servers {
    fn new(servers: &[Server]) -> Self {
        let of = |s: &Server| {
            let (generation, weight) = (GENERATION, s.weight);
            let backend = Backend { addr: [0; 16], port: 80, state: 1, pad: 0, generation, service_port: 1, weight };
            (backend, ConnectionCounts { active: s.active, inactive: s.inactive })
        };
        Self(servers.iter().map(of).collect())
    }

    fn search(&self, rule: u8, random: u32) -> u32 {
        let table = SlotTable { base: BASE, len: u32::try_from(self.0.len()).unwrap() };
        let search = Search::new(table, rule, random);
        run(Search::from_words(search.words()), self)
    }
}

impl SharedMaps for Servers {
    fn now(&self) -> u32 {
        0
    }
    fn random(&self) -> u32 {
        0
    }
    fn config(&self) -> Option<&NodeConfig> {
        None
    }
    fn pod(&self, _ifindex: u32) -> Option<&Pod> {
        None
    }
    fn pod_rules(&self, _ifindex: u32) -> Option<&PodRules> {
        unreachable!()
    }
    fn pod_netns(&self, _cookie: u64) -> Option<&PodNetns> {
        None
    }
    fn slot(&self, index: u32) -> Option<u32> {
        let at = index.checked_sub(BASE).filter(|at| (*at as usize) < self.0.len());
        Some(at.unwrap_or_else(|| panic!("slot {index} is beyond the table")) + 1)
    }
    fn take_turn(&self, _table: SlotTable) -> u32 {
        panic!("these schedulers take no turns")
    }
    fn backend(&self, id: u32) -> Option<&Backend> {
        self.0.get(id as usize - 1).map(|(backend, _)| backend)
    }
    fn connection_counts(&self, id: u32, generation: u32) -> ConnectionCounts {
        assert_eq!(generation, GENERATION);
        self.0[id as usize - 1].1
    }
    fn search(&self, search: Search) -> u32 {
        run(search, self)
    }
    fn count_connection(&self, _backend: u32) {}
    fn count_flow(&self, _backend: u32, _generation: u32) {}
    fn count(&self, _counter: Counter) {}
    fn masquerade_source(&self, _ifindex: u32) -> Option<&MasqueradeSource> {
        None
    }
    fn take_flow(&self, _budget: u32, _rate: u32) -> bool {
        unreachable!()
    }
    fn take_answer(&self, _kind: AnswerKind) -> bool {
        true
    }
}

/// Returns the fraction that IPVS compares: numerator and denominator.
fn overhead(rule: u8, s: &Server) -> (u128, u128) {
    let (active, inactive, weight) = (u128::from(s.active), u128::from(s.inactive), u128::from(s.weight));
    match rule {
        LC => ((active << 8) + inactive, 1),
        WLC => ((active << 8) + inactive, weight),
        NQ if active == 0 => (0, 1),
        _ => (active + 1, weight),
    }
}

/// Returns the ids that IPVS may choose. IPVS takes the first of them, Ropeway any.
fn least(rule: u8, servers: &[Server]) -> Vec<u32> {
    let with_weight = || (1..).zip(servers).filter(|(_, s)| s.weight > 0);
    let is_least = |s: &Server| {
        let (a, b) = overhead(rule, s);
        with_weight().all(|(_, other)| {
            let (c, d) = overhead(rule, other);
            a * d <= c * b
        })
    };
    with_weight().filter(|(_, s)| is_least(s)).map(|(id, _)| id).collect()
}

/// Returns numbers that are spread evenly over 32 bits.
fn randoms() -> impl Iterator<Item = u32> {
    (0_u32..).scan(1, |state: &mut u32, _| {
        *state = state.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
        Some(*state ^ *state >> 15)
    })
}

fn servers(all: &[(u32, u32, u32)]) -> Vec<Server> {
    all.iter().map(|&(active, inactive, weight)| Server { active, inactive, weight }).collect()
}

#[test]
fn schedulers_match_the_formulas_of_ipvs() {
    for (rule, all, expected) in [
        // An active connection counts as much as 256 inactive ones.
        (LC, &[(1, 0, 1), (0, 255, 1), (1, 1, 1)][..], &[2][..]),
        (LC, &[(1, 0, 1), (0, 257, 1)], &[1]),
        (LC, &[(4, 0, 100), (3, 0, 1)], &[2]),
        (WLC, &[(4, 0, 100), (3, 0, 1)], &[1]),
        (WLC, &[(2, 0, 2), (3, 0, 3), (1, 1, 1)], &[1, 2]),
        (WLC, &[(0, 0, 1), (0, 0, 1000)], &[1, 2]),
        // (0 + 1) / 1 and (1 + 1) / 3
        (SED, &[(0, 0, 1), (1, 0, 3)], &[2]),
        (SED, &[(0, 9, 2), (1, 0, 4)], &[1, 2]),
        (NQ, &[(0, 0, 1), (1, 0, 3)], &[1]),
        (NQ, &[(0, 500, 1), (0, 0, 9), (1, 0, 99)], &[1, 2]),
        (NQ, &[(1, 0, 1), (1, 0, 3)], &[2]),
        // Weight 0 takes no connections, however idle.
        (LC, &[(0, 0, 0), (9, 9, 1)], &[2]),
        (WLC, &[(0, 0, 0), (9, 9, 1)], &[2]),
        (SED, &[(0, 0, 0), (9, 9, 1)], &[2]),
        (NQ, &[(0, 0, 0), (9, 9, 1)], &[2]),
        (NQ, &[(0, 0, 0), (0, 0, 0)], &[]),
        // No sum or product overflows.
        (WLC, &[(u32::MAX, u32::MAX, 65535), (u32::MAX, u32::MAX, 65534)], &[1]),
        (SED, &[(u32::MAX, 0, 1), (u32::MAX - 1, 0, 1)], &[2]),
    ] {
        let all = servers(all);
        assert_eq!(least(rule, &all), expected, "formulas of this test: {rule}, {all:?}");
        let mut found: Vec<_> = randoms().take(64).map(|random| Servers::new(&all).search(rule, random)).collect();
        found.sort_unstable();
        found.dedup();
        let expected = if expected.is_empty() { &[0] } else { expected };
        assert_eq!(found, expected, "{rule}, {all:?}");
    }
}

#[test]
fn short_tables_are_searched_completely() {
    let mut random = randoms();
    let mut below = |n: u32| slot(random.next().unwrap(), n);
    for len in 1..=EXACT {
        for _ in 0..50 {
            let all: Vec<_> = (0..len)
                .map(|_| Server { active: below(6), inactive: below(400), weight: below(5) * below(90) })
                .collect();
            for rule in [LC, WLC, SED, NQ] {
                let found = Servers::new(&all).search(rule, below(u32::MAX));
                let expected = least(rule, &all);
                assert!(expected.contains(&found) || (expected.is_empty() && found == 0), "{rule}: {found} in {all:?}");
            }
        }
        // The search visits every slot, wherever it starts.
        for best in 0..len {
            let mut all = vec![Server { active: 2, inactive: 0, weight: 1 }; len as usize];
            all[best as usize].active = 1;
            for random in randoms().take(16).chain([0, u32::MAX]) {
                assert_eq!(Servers::new(&all).search(LC, random), best + 1, "of {len}, from {random}");
            }
        }
    }
}

#[test]
fn equal_backends_are_picked_equally_often() {
    let all = vec![Server { active: 3, inactive: 0, weight: 1 }; 10];
    let mut counts = HashMap::<u32, u32>::new();
    for random in randoms().take(10_000) {
        *counts.entry(Servers::new(&all).search(LC, random)).or_default() += 1;
    }
    // 1,000 each, standard deviation 30
    assert!(counts.len() == 10 && counts.values().all(|n| (850..=1150).contains(n)), "{counts:?}");
}

/// Checks the bound for sampling that docs/schedulers.md states.
#[test]
fn sampling_a_long_table_spreads_connections() {
    const BACKENDS: u32 = 1000;
    for (rule, weights) in [(LC, &[1][..]), (WLC, &[1, 3]), (SED, &[1, 3]), (NQ, &[1])] {
        let of = |n: u32| Server { active: 0, inactive: 0, weight: weights[n as usize % weights.len()] };
        let mut servers = Servers::new(&(0..BACKENDS).map(of).collect::<Vec<_>>());
        let total: u32 = servers.0.iter().map(|(b, _)| b.weight).sum();
        for random in randoms().take(total as usize * 50) {
            let id = servers.search(rule, random);
            servers.0[id as usize - 1].1.active += 1;
        }
        let off = |(b, load): &(Backend, ConnectionCounts)| i64::from(load.active) - i64::from(b.weight) * 50;
        let (most, fewest) = (servers.0.iter().map(off).max().unwrap(), servers.0.iter().map(off).min().unwrap());
        std::println!("{rule}: at most {most} more and {} fewer than its share", -fewest);
        assert!(most <= 2 && fewest >= -2, "{rule}: {most} {fewest}");
    }
    // A tenth of the backends is idle: anywhere, in one stretch, or in every tenth slot. It must
    // get nearly all connections; independent draws would give it 1 - 0.9^32 = 96.6 %.
    let anywhere: Vec<bool> = randoms().skip(7).take(BACKENDS as usize).map(|r| slot(r, 10) == 0).collect();
    let stretch: Vec<bool> = (0..BACKENDS).map(|n| n / 100 == 4).collect();
    let comb: Vec<bool> = (0..BACKENDS).map(|n| n % 10 == 0).collect();
    for is_idle in [anywhere, stretch, comb] {
        let of = |idle: &bool| Server { active: u32::from(!idle), inactive: 0, weight: 1 };
        let servers = Servers::new(&is_idle.iter().map(of).collect::<Vec<_>>());
        let found = randoms().take(10_000).filter(|r| is_idle[servers.search(LC, *r) as usize - 1]).count();
        std::println!("{found} of 10000 to the idle tenth");
        assert!(found >= 9000, "{found}");
    }
}

#[test]
fn counts_add_new_flows_to_the_last_sweep() {
    let stats = |generation, flows, sockets: i64| BackendStats {
        connections: 0,
        sockets: sockets.cast_unsigned(),
        flows,
        generation,
        pad: 0,
    };
    let found = |generation, active, inactive, flows| BackendLoad { generation, active, inactive, flows };
    for (stats, found, expected) in [
        (stats(9, 0, 0), found(9, 0, 0, 0), (0, 0)),
        (stats(9, 12, 3), found(9, 5, 7, 10), (10, 7)),
        // The counter has wrapped around.
        (stats(9, 1 << 32 | 1, 0), found(9, 5, 7, u32::MAX), (7, 7)),
        // Another generation: counts of another endpoint.
        (stats(8, 12, 3), found(9, 5, 7, 0), (5, 7)),
        (stats(9, 12, 3), found(8, 5, 7, 10), (15, 0)),
        (stats(8, 12, 3), found(8, 5, 7, 10), (0, 0)),
        // Below zero by a race.
        (stats(9, 0, -1), found(9, 0, 0, 0), (0, 0)),
        (stats(9, 2, -1), found(9, 0, 0, 0), (1, 0)),
    ] {
        let load = ConnectionCounts::new(&stats, &found, 9);
        assert_eq!((load.active, load.inactive), expected, "{stats:?} {found:?}");
    }
}
