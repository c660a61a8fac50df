//! Benchmark of the control plane. Run as root: `cargo xtask bench sync`.
//!
//! Measures a full sync of 50,000 Services with 150,000 endpoints from decoded objects into real
//! maps, against the cheapest way to write the same entries; single changes; and the memory of an
//! agent.
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::large_futures,
    reason = "counts and milliseconds"
)]
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark: it stops at the first thing that is wrong")]

mod agent;
mod bare;
mod changes;
mod maps;
mod objects;
mod server;
mod stats;

use std::time::Instant;

use dataplane_user::proxy::controller::Core;

use maps::Maps;
use stats::{Cost, Series};

/// Number of measured rounds, with the arms in alternating order.
const ROUNDS: usize = 9;

fn main() {
    let argument = |flag: &str| std::env::args().skip_while(|a| a != flag).nth(1);
    if let Some(cgroup) = argument("--agent") {
        return agent::run(cgroup.as_ref());
    }
    println!("{} Services, {} endpoints, {ROUNDS} alternating rounds", objects::SERVICES, objects::ENDPOINTS);
    let costs = syncs();
    let wall = |name: &str, arm: usize| Series::new(name, costs.iter().map(|c| c[arm].wall).collect());
    let cpu = |name: &str, arm: usize| Series::new(name, costs.iter().map(|c| c[arm].cpu).collect());
    let over_bare = |name: &str, of: fn(&Cost) -> f64| {
        Series::new(name, costs.iter().map(|c| of(&c[OURS]) / of(&c[BARE])).collect())
    };
    let memory = |name: &str, of: fn(&agent::Memory) -> f64, agents: &[agent::Memory]| {
        Series::new(name, agents.iter().map(of).collect())
    };
    let small = changes::at_50k();
    let agents = agent::measure();
    let series = [
        ("sync.services_50k_ms", "ms", wall("50k Services, ours", OURS)),
        ("sync.services_50k_cpu_ms", "ms", cpu("  CPU time", OURS)),
        ("sync.bare_ms", "ms", wall("50k Services, bare writes", BARE)),
        ("sync.bare_cpu_ms", "ms", cpu("  CPU time", BARE)),
        ("sync.services_50k_over_bare", "x", over_bare("  ours over bare writes", |c| c.wall)),
        ("sync.services_50k_cpu_over_bare", "x", over_bare("  CPU time", |c| c.cpu)),
        ("sync.restart_ms", "ms", wall("restart, unchanged", RESTART)),
        ("sync.restart_cpu_ms", "ms", cpu("  CPU time", RESTART)),
        ("sync.endpoint_change_us", "us", small.core),
        ("sync.endpoint_change_channel_us", "us", small.through_channel),
        ("sync.endpoint_change_20k_ms", "ms", changes::of_20k()),
        ("sync.agent_rss_mib", "MiB", memory("agent, resident", |m| m.rss, &agents)),
        ("sync.agent_anonymous_mib", "MiB", memory("  without its file", |m| m.anonymous, &agents)),
        ("sync.agent_peak_mib", "MiB", memory("  largest", |m| m.peak, &agents)),
    ];
    series.iter().for_each(|(_, unit, series)| series.print(unit));
    if let Some(path) = argument("--json") {
        let figures: Vec<_> = series.iter().map(|(name, unit, series)| series.figure(name, unit)).collect();
        std::fs::write(path, serde_json::to_vec_pretty(&serde_json::json!({ "figures": figures })).unwrap()).unwrap();
    }
}

const OURS: usize = 0;
const BARE: usize = 1;
const RESTART: usize = 2;

/// Runs both arms in turn, and a restart on the maps that ours has written.
fn syncs() -> Vec<[Cost; 3]> {
    let entries = bare::Entries::new();
    let round = |round: usize| {
        let mut costs = [Cost::default(); 3];
        for arm in if round.is_multiple_of(2) { [OURS, BARE] } else { [BARE, OURS] } {
            let maps = Maps::create();
            if arm == OURS {
                costs[OURS] = sync(&maps, objects::SERVICES);
                costs[RESTART] = sync(&maps, 0);
            } else {
                costs[BARE] = entries.write(&maps);
            }
        }
        costs
    };
    // The first round warms up.
    (0..=ROUNDS).map(round).skip(1).collect()
}

/// Syncs all objects. `written` is the number of frontends that this must write.
fn sync(maps: &Maps, written: usize) -> Cost {
    let events = objects::events();
    let clock = Instant::now();
    let (core, cost) = stats::cost(|| {
        let mut core = Core::new(maps.tables(), objects::CLOCK, clock.elapsed()).unwrap();
        core.set_node_context(objects::context());
        events.into_iter().for_each(|e| core.handle(e));
        core.reconcile(clock.elapsed());
        core
    });
    assert_eq!(core.operations().frontends as usize, written);
    assert!(written > 0 || core.operations().total() == 0, "a restart writes nothing");
    cost
}
