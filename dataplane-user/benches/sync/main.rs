//! How fast the control flow is: 50,000 Services with 150,000 endpoints from decoded objects into real maps, against a bare
//! batch update of the same entries; single changes; and the agent's memory. As root: `cargo xtask bench sync`.
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
mod stats;
mod world;

use std::time::Instant;

use dataplane_user::controller::Core;

use maps::Maps;
use stats::Series;

/// Alternating rounds of both arms.
const ROUNDS: usize = 9;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.iter().any(|a| a == "--hold") {
        return hold::hold();
    }
    let json = arguments.iter().skip_while(|a| *a != "--json").nth(1);
    println!("{} Services, {} endpoints, {ROUNDS} alternating rounds", world::SERVICES, world::ENDPOINTS);
    let (ours, bare, restart) = syncs();
    let ratio = Series::new("ratio", ours.values().iter().zip(bare.values()).map(|(o, b)| o / b).collect());
    ours.print("ms");
    bare.print("ms");
    ratio.print("x");
    restart.print("ms");
    let small = changes::at_50k();
    small.core.print("us");
    small.through_channel.print("us");
    let large = changes::of_20k();
    large.print("ms");
    let rss = hold::measure();
    println!("agent with all of it: {rss}");
    let figures = [
        ("sync.services_50k_ms", ours.median(), "ms"),
        ("sync.services_50k_over_batch", ratio.median(), "x"),
        ("sync.agent_rss_mib", rss.rss_mib, "MiB"),
        ("sync.endpoint_change_p99_us", small.core.quantile(0.99), "us"),
        ("sync.endpoint_change_20k_ms", large.median(), "ms"),
    ];
    if let Some(path) = json {
        let series = [&ours, &bare, &ratio, &restart, &small.core, &small.through_channel, &large];
        let series: Vec<_> = series.iter().map(|s| s.json()).collect();
        let figures: Vec<_> =
            figures.iter().map(|(n, v, u)| serde_json::json!({"name": n, "value": v, "unit": u})).collect();
        let all = serde_json::json!({"series": series, "figures": figures});
        std::fs::write(path, serde_json::to_vec_pretty(&all).unwrap()).unwrap();
    }
    for (name, value, unit) in figures {
        println!("figure {name} {value:.3} {unit}");
    }
}

/// Both arms, and a restart on what is there.
fn syncs() -> (Series, Series, Series) {
    let entries = bare::Entries::new();
    let (mut ours, mut bare, mut restart) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let mut times = [0.0; 3];
        for arm in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
            let maps = Maps::create();
            if arm == 0 {
                (times[0], times[2]) = sync(&maps);
            } else {
                times[1] = entries.write(&maps);
            }
        }
        // The first round warms up.
        if round > 0 {
            ours.push(times[0]);
            bare.push(times[1]);
            restart.push(times[2]);
        }
    }
    let named = |name: &str, values| Series::new(name, values);
    (named("50k Services, ours", ours), named("50k Services, bare batch", bare), named("restart, unchanged", restart))
}

fn sync(maps: &Maps) -> (f64, f64) {
    let events = world::events();
    let clock = Instant::now();
    let mut core = Core::new(maps.tables(), 250, clock.elapsed()).unwrap();
    core.set_node_context(world::context());
    let begin = Instant::now();
    events.into_iter().for_each(|e| core.handle(e));
    let handled = begin.elapsed();
    core.reconcile(clock.elapsed());
    let took = begin.elapsed();
    if std::env::var_os("SYNC_DETAIL").is_some() {
        println!("    handle {handled:?} of {took:?}");
    }
    assert_eq!(core.operations().frontends as usize, world::SERVICES);
    drop(core);
    let events = world::events();
    let begin = Instant::now();
    let mut core = Core::new(maps.tables(), 250, clock.elapsed()).unwrap();
    core.set_node_context(world::context());
    events.into_iter().for_each(|e| core.handle(e));
    core.reconcile(clock.elapsed());
    let again = begin.elapsed();
    assert_eq!(core.operations().total(), 0, "a restart writes nothing");
    (stats::ms(took), stats::ms(again))
}
