//! Benchmark of the control plane. Run as root: `cargo xtask bench sync`.
//!
//! Measures a full sync of 50,000 Services with 150,000 endpoints from decoded objects into real
//! maps, against a bare batch update of the same entries; single changes; and the agent's memory.
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::large_futures,
    reason = "counts and milliseconds"
)]
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark: it stops at the first thing that is wrong")]

mod bare;
mod changes;
mod hold;
mod maps;
mod objects;
mod stats;

use std::time::Instant;

use dataplane_user::proxy::controller::Core;

use maps::Maps;
use stats::{Cost, Series};

/// Number of measured rounds, with the arms in alternating order.
const ROUNDS: usize = 9;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.iter().any(|a| a == "--hold") {
        return hold::hold();
    }
    let json = arguments.iter().skip_while(|a| *a != "--json").nth(1);
    println!("{} Services, {} endpoints, {ROUNDS} alternating rounds", objects::SERVICES, objects::ENDPOINTS);
    let costs = syncs();
    let wall = |name: &str, arm: usize| Series::new(name, costs.iter().map(|c| c[arm].wall).collect());
    let cpu = |name: &str, arm: usize| Series::new(name, costs.iter().map(|c| c[arm].cpu).collect());
    let ours = wall("50k Services, ours", OURS);
    let ratio = Series::new("  ours over bare batch", costs.iter().map(|c| c[OURS].wall / c[BARE].wall).collect());
    let syncs = [
        cpu("  CPU time", OURS),
        wall("50k Services, bare batch", BARE),
        cpu("  CPU time", BARE),
        wall("restart, unchanged", RESTART),
        cpu("  CPU time", RESTART),
    ];
    ours.print("ms");
    syncs.iter().for_each(|s| s.print("ms"));
    ratio.print("x ");
    let small = changes::at_50k();
    small.core.print("us");
    small.through_channel.print("us");
    let large = changes::of_20k();
    large.print("ms");
    let rss = hold::measure();
    println!("agent with all objects: {rss}");
    let figures = [
        ("sync.services_50k_ms", ours.median(), "ms"),
        ("sync.services_50k_over_batch", ratio.median(), "x"),
        ("sync.agent_rss_mib", rss.rss_mib, "MiB"),
        ("sync.endpoint_change_p99_us", small.core.quantile(0.99), "us"),
        ("sync.endpoint_change_20k_ms", large.median(), "ms"),
    ];
    if let Some(path) = json {
        let rest = [&ours, &ratio, &small.core, &small.through_channel, &large];
        let series: Vec<_> = syncs.iter().chain(rest).map(Series::json).collect();
        let figures: Vec<_> =
            figures.iter().map(|(n, v, u)| serde_json::json!({"name": n, "value": v, "unit": u})).collect();
        let all = serde_json::json!({"series": series, "figures": figures});
        std::fs::write(path, serde_json::to_vec_pretty(&all).unwrap()).unwrap();
    }
    for (name, value, unit) in figures {
        println!("figure {name} {value:.3} {unit}");
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
