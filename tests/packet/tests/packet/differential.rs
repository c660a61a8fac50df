//! The differential run: random packets on nodes with random tables, through the model and through
//! the kernel's programs. Verdicts, bytes, drop counters and flow tables must be equal.
//!
//! `ROPEWAY_PACKETS` is the number of packets, `ROPEWAY_SEED` the seed, which is printed. A failure
//! names the seed of its batch, with which the batch runs alone.

mod packets;
mod world;

use dataplane_common::types::event::DropReason;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use self::packets::Step;
use self::world::World;
use crate::kernel::{Kernel, in_own_netns};
use crate::model::Model;
use crate::number;
use crate::testbed::{Action, Testbed};

/// Packets that share a node. Few, so that an answer is never refused for want of budget.
const BATCH: u64 = 256;
const PACKETS: u64 = 100_000;
const SEED: u64 = 16;

/// What has become of the packets of a run: a run in which nothing happens shows nothing.
#[derive(Debug, Default)]
struct Tally {
    passed: u64,
    redirected: u64,
    changed: u64,
    dropped: Vec<u64>,
    flows: usize,
}

/// Runs one batch on both; returns false if the kernel's clock has moved on, which changes the
/// states of flows.
fn batch(seed: u64, kernel: &mut Kernel, tally: &mut Tally) -> bool {
    let mut rng = StdRng::seed_from_u64(seed);
    let (world, mut model) = (World::random(&mut rng), Model::default());
    model.tolerate_wrong_sums();
    kernel.clear();
    world.fill(&mut model);
    world.fill(kernel);
    let (dropped, tick) = (kernel.all_drops(), kernel.tick());
    let mut seen: Vec<Vec<u8>> = Vec::new();
    let mut differences = Vec::new();
    for packet in 0..BATCH {
        let step = Step::random(&mut rng, &world, &seen);
        let (mut ours, mut theirs) = (step.frame.clone(), step.frame.clone());
        let by_model = model.run(step.hook, step.ifindex, &mut ours);
        let by_kernel = kernel.run(step.hook, step.ifindex, &mut theirs);
        if by_model != by_kernel || (by_model != Action::Drop && ours != theirs) {
            differences.push(format!(
                "packet {packet}, {step:x?}: model {by_model:?} {ours:x?}, kernel {by_kernel:?} {theirs:x?}"
            ));
            break;
        }
        match by_model {
            Action::Drop => continue,
            Action::Pass => tally.passed += 1,
            Action::Redirect => tally.redirected += 1,
        }
        tally.changed += u64::from(ours != step.frame);
        seen.push(ours);
    }
    let counted: Vec<_> = kernel.all_drops().iter().zip(dropped).map(|(after, before)| after - before).collect();
    if differences.is_empty() && model.all_drops() != counted {
        differences.push(format!("drops: model {:?}, kernel {counted:?}", model.all_drops()));
    }
    if differences.is_empty() && model.all_flows() != kernel.all_flows() {
        differences.push(format!("flows: model {:#?}, kernel {:#?}", model.all_flows(), kernel.all_flows()));
    }
    if kernel.tick() != tick {
        return false;
    }
    assert!(differences.is_empty(), "ROPEWAY_SEED={seed} ROPEWAY_PACKETS={BATCH}: {world:#?}\n{}", differences[0]);
    tally.dropped.resize(counted.len(), 0);
    tally.dropped.iter_mut().zip(counted).for_each(|(all, more)| *all += more);
    tally.flows += model.flows();
    true
}

#[test]
#[ignore = "needs root"]
fn random_packets_are_treated_alike_by_model_and_kernel() {
    let (packets, first) = (number("ROPEWAY_PACKETS", PACKETS), number("ROPEWAY_SEED", SEED));
    in_own_netns(|kernel| {
        let (batches, mut tally) = (packets.div_ceil(BATCH), Tally::default());
        for seed in first..first + batches {
            // A batch takes milliseconds, a tick about a second.
            assert!((0..10).any(|_| batch(seed, kernel, &mut tally)), "seed {seed}: the clock moved during ten tries");
        }
        let dropped: Vec<_> = DropReason::ALL.iter().map(|reason| reason.label()).zip(&tally.dropped).collect();
        println!("{tally:?} {dropped:?}");
        let shares = [tally.passed, tally.redirected, tally.changed, tally.flows as u64 * 5];
        assert!(packets < PACKETS || shares.iter().all(|n| n * 20 > packets), "too little happened: {tally:?}");
        println!("{} random packets from seed {first}: 0 differences", batches * BATCH);
    });
}
