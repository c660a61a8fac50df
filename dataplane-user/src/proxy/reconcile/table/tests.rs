//! Tests of the content of slot tables, scheduler by scheduler.
#![allow(clippy::cast_precision_loss, reason = "counts of slots are far below 2^52")]

use std::collections::HashMap;
use std::net::IpAddr;

use dataplane_common::types::service::scheduler::{self, DH, MH, RANDOM, RR, SH, WRR};
use proptest::prelude::*;

use super::{MAX_EXPANDED, MemberCounts, Rule, fill, maglev};
use crate::config::maglev::{LARGEST, SIZES};
use crate::proxy::reconcile::ids::BackendId;
use crate::proxy::reconcile::published::PublishedBackend;

fn backend(n: u32, weight: u16) -> PublishedBackend {
    let [_, b, c, d] = n.to_be_bytes();
    let addr = IpAddr::from([10, b, c, d]);
    PublishedBackend { addr, port: 8080, state: 0, sets: 1, weight, id: BackendId::new(n) }
}

fn backends(weights: &[u16]) -> Vec<PublishedBackend> {
    weights.iter().zip(1..).map(|(w, n)| backend(n, *w)).collect()
}

fn table_of(scheduler: u8, maglev_size: u32, members: &[PublishedBackend]) -> Vec<u32> {
    let mut counts = MemberCounts::default();
    members.iter().for_each(|b| counts.add(b.weight));
    let len = counts.len(Rule { scheduler, maglev_size }, members.iter());
    let mut table = vec![7];
    fill(scheduler, len, members.iter(), &mut table);
    assert_eq!(table.remove(0), 7, "the ids of other tables stay");
    assert_eq!(table.len(), len as usize, "scheduler {scheduler}");
    table
}

fn table(scheduler: u8, weights: &[u16]) -> Vec<u32> {
    table_of(scheduler, 0, &backends(weights))
}

fn counts(table: &[u32]) -> HashMap<u32, u32> {
    table.iter().fold(HashMap::new(), |mut counts, id| {
        *counts.entry(*id).or_default() += 1;
        counts
    })
}

#[test]
fn equal_weights_give_each_backend_one_slot() {
    for number in (0..scheduler::NAMES.len() as u8).filter(|n| *n != MH) {
        assert_eq!(table(number, &[5, 5, 5]), [1, 2, 3], "{number}");
        assert_eq!(table(number, &[9]), [1]);
        assert_eq!(table(number, &[]), [0; 0]);
    }
}

#[test]
fn weights_are_in_the_tables_of_those_that_ask_for_them() {
    assert_eq!(table(RANDOM, &[2, 4, 6]), [1, 2, 2, 3, 3, 3]);
    assert_eq!(table(SH, &[1, 2]), [1, 2, 2]);
    assert_eq!(table(RR, &[1, 2]), [1, 2]);
    assert_eq!(table(DH, &[1, 2]), [1, 2]);
}

#[test]
fn weighted_turns_are_spread_out() {
    assert_eq!(table(WRR, &[3, 1]), [1, 1, 2, 1]);
    assert_eq!(table(WRR, &[50, 25, 25]), [1, 2, 3, 1]);
}

/// Checks that after any number of turns each backend has had its share, rounded up or down.
fn check_turns(weights: &[u16]) {
    let table = table(WRR, weights);
    let total: i64 = weights.iter().map(|w| i64::from(*w)).sum();
    let mut had = vec![0_i64; weights.len()];
    for (turns, id) in (1..).zip(&table) {
        had[*id as usize - 1] += 1;
        for (had, weight) in had.iter().zip(weights) {
            let off = had * total - turns * i64::from(*weight);
            assert!(off.abs() < total, "{weights:?} after {turns} turns");
        }
    }
}

#[test]
fn one_heavy_backend_among_light_ones_takes_every_other_turn() {
    check_turns(&[&[50][..], &[1; 50]].concat());
}

proptest! {
    #[test]
    fn weighted_turns_are_never_a_whole_turn_off(weights in prop::collection::vec(1_u16..60, 1..30)) {
        check_turns(&weights);
    }
}

#[test]
fn large_weights_are_rounded_within_the_bound() {
    let cases: Vec<Vec<u16>> =
        vec![vec![65535, 65534, 65533], vec![10007, 9973, 1], (1..=2000).map(|n| n * 7 + 1).collect(), {
            let mut all = vec![1; 1000];
            all.push(65535);
            all
        }];
    for weights in cases {
        let n = weights.len() as f64;
        for number in [WRR, RANDOM, SH] {
            let table = table(number, &weights);
            assert!(table.len() as f64 <= f64::from(MAX_EXPANDED) + n, "{}", table.len());
            let counts = counts(&table);
            let total: f64 = weights.iter().map(|w| f64::from(*w)).sum();
            let bound = (n + 1.0) / (f64::from(MAX_EXPANDED) - n);
            for (id, weight) in (1..).zip(&weights) {
                let share = f64::from(counts[&id]) / table.len() as f64;
                let off = (share - f64::from(*weight) / total).abs();
                assert!(off <= bound, "{id} of {n}: off by {off}, more than {bound}");
            }
        }
    }
}

#[test]
fn twenty_thousand_backends_with_odd_weights_fit() {
    let weights: Vec<u16> = (0..20_000).map(|n| 1 + n % 97).collect();
    let table = table(WRR, &weights);
    assert!(table.len() <= 100_000, "{}", table.len());
    assert_eq!(counts(&table).len(), 20_000);
}

#[test]
fn maglev_table_size_is_a_listed_prime_that_holds_all_backends() {
    assert_eq!([0, 4093, 5000, 65537].map(|wanted| maglev::size(wanted, 3)), [4093, 4093, 8191, 65537]);
    assert_eq!(maglev::size(0, 20_000), 32749);
    assert_eq!(maglev::size(251, LARGEST), LARGEST);
    assert!(SIZES.iter().all(|n| (2..400).take_while(|d| d * d <= *n).all(|d| n % d != 0)), "not prime");
    let mut out = Vec::new();
    fill(MH, 4000, backends(&[1, 1]).iter(), &mut out);
    fill(MH, 251, backends(&[1; 252]).iter(), &mut out);
    assert!(out.is_empty(), "no table has the size 4000, or fewer slots than backends");
}

#[test]
fn maglev_table_does_not_depend_on_order_or_ids() {
    let members = backends(&[1; 50]);
    let table = table_of(MH, 4093, &members);
    let renumbered: Vec<_> =
        members.iter().map(|b| PublishedBackend { id: BackendId::new(b.id.get() + 1000), ..*b }).collect();
    let other = table_of(MH, 4093, &renumbered);
    assert!(table.iter().zip(&other).all(|(a, b)| a + 1000 == *b));
    // the first slots of a fixed table: another version must compute the same, or nodes disagree
    // during an upgrade
    assert_eq!(table[..8], FIRST_OF_FIFTY);
}

const FIRST_OF_FIFTY: [u32; 8] = [12, 10, 24, 9, 38, 15, 45, 2];

/// The paper's claim: with a hundred slots per backend, shares differ by at most 1 % (section 5.3).
#[test]
fn maglev_table_is_even() {
    for (members, size) in [(10, 1021), (40, 4093), (100, 65537), (600, 65537)] {
        let counts = counts(&table_of(MH, size, &backends(&vec![1; members])));
        let mean = f64::from(size) / members as f64;
        assert_eq!(counts.len(), members);
        let most = f64::from(*counts.values().max().unwrap());
        assert!(most / mean <= 1.01, "{members} in {size}: {most} of {mean}");
    }
}

#[test]
fn maglev_table_follows_weights() {
    let counts = counts(&table_of(MH, 65537, &backends(&[1, 2, 4, 8])));
    for (id, weight) in [(1, 1.0), (2, 2.0), (3, 4.0), (4, 8.0)] {
        let share = f64::from(counts[&id]) / 65537.0;
        assert!((share / (weight / 15.0) - 1.0).abs() < 0.01, "{id}: {share}");
    }
}

/// When one backend is removed, few slots of the other backends change their backend. Figure 12 of
/// the paper shows about 1 % if a few of 1,000 backends are lost.
#[test]
fn maglev_table_changes_little_when_a_backend_goes() {
    for (members, size, most) in [(100, 65537, 0.01), (1000, 65537, 0.01), (10, 4093, 0.03)] {
        let before = backends(&vec![1; members]);
        for gone in [0, members / 2, members - 1] {
            let mut after = before.clone();
            let lost = after.remove(gone).id.get();
            let (before, after) = (table_of(MH, size, &before), table_of(MH, size, &after));
            let stayed = before.iter().zip(&after).filter(|(b, _)| **b != lost);
            let moved = stayed.filter(|(b, a)| b != a).count() as f64 / f64::from(size);
            println!("{members} in {size}, without number {gone}: {:.3} % moved", moved * 100.0);
            assert!(moved <= most, "{members} in {size}, without number {gone}: {moved}");
        }
    }
}
