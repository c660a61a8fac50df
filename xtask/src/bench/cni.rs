//! `cargo xtask bench cni`: ADD and DEL against the reference plugins ptp and host-local, both with
//! real pods.
//!
//! One run measures both plugins in turn, each pod in a fresh namespace, in an order that changes
//! from round to round. Each timed call starts after the background work of the previous call has
//! ended. DEL is timed until it answers and until the pod's device is gone: Ropeway's answers
//! first. IPv4 only, because ptp waits for duplicate address detection; dual stack is printed as
//! well, for ropeway alone.

mod rig;
mod stats;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::record::Figure;
use crate::paths::Paths;
use crate::shell;
use rig::{Plugin, Rig, Sandbox};
use stats::{Series, ratio};

/// Number of pods that are added one after the other, for each plugin.
const ROUNDS: usize = 60;
/// Number of unmeasured rounds at the start.
const WARM_UP: usize = 5;
/// Number of pods that a burst adds at the same time.
const BURST: usize = 100;
/// Number of bursts for each plugin.
const BURSTS: usize = 3;
/// Number of parts of a series; their ratios are the spread.
const PARTS: usize = 6;
/// Name of the file with the figures, in `target`.
const FILE: &str = "bench-cni.json";

/// Runs the benchmark with the binaries in `target/release`. Returns its figures.
///
/// # Errors
/// A tool is missing, a plugin fails, or a figure can't be written.
pub(crate) fn run(paths: &Paths) -> Result<Vec<Figure>> {
    ensure!(shell::is_root(), "this benchmark makes network namespaces: run it as root");
    let scratch = paths.target.join(format!("{}{}", rig::PREFIX, std::process::id()));
    let binaries = paths.binaries();
    // A separate thread, so that this process stays in its namespaces.
    let outcome = std::thread::spawn(move || {
        let rig = Rig::make(&scratch, &binaries)?;
        measure(&rig)
    });
    let figures = outcome.join().map_err(|_| anyhow::anyhow!("the benchmark has panicked"))??;
    report(paths, &figures)
}

/// The measured times, in microseconds.
struct Figures {
    exec: Series,
    add: [Series; 2],
    del: [Series; 2],
    gone: [Series; 2],
    dual: [Series; 2],
    burst_add: [Series; 2],
    burst_del: [Series; 2],
    burst_gone: [Series; 2],
    /// CPU time of an ADD in a burst, in milliseconds, user and kernel.
    burst_cpu: [f64; 2],
}

fn measure(rig: &Rig) -> Result<Figures> {
    let mut figures = Figures {
        exec: Series::new("exec alone (VERSION)"),
        add: [Series::new("ADD ropeway"), Series::new("ADD ptp + host-local")],
        del: [Series::new("DEL ropeway"), Series::new("DEL ptp + host-local")],
        gone: [Series::new("DEL ropeway, device gone"), Series::new("DEL ptp + host-local, device gone")],
        dual: [Series::new("ADD ropeway, IPv4 and IPv6"), Series::new("DEL ropeway, IPv4 and IPv6")],
        burst_add: [Series::new("ADD ropeway, 100 at once"), Series::new("ADD ptp + host-local, 100 at once")],
        burst_del: [Series::new("DEL ropeway, 100 at once"), Series::new("DEL ptp + host-local, 100 at once")],
        burst_gone: [Series::new("all 100 gone, ropeway"), Series::new("all 100 gone, ptp + host-local")],
        burst_cpu: [0.0; 2],
    };
    shell::step(&format!("{ROUNDS} pods one after the other"));
    for round in 0..WARM_UP + ROUNDS {
        let mut order = [Plugin::Ropeway, Plugin::Reference];
        if round % 2 == 1 {
            order.reverse();
        }
        for plugin in order {
            let times = one_pod(rig, plugin, round)?;
            if round >= WARM_UP {
                figures.add[plugin as usize].push(times.add);
                figures.del[plugin as usize].push(times.del);
                figures.gone[plugin as usize].push(times.gone);
            }
        }
        let dual = one_pod(rig, Plugin::RopewayDual, round)?;
        let exec = rig.version()?;
        if round >= WARM_UP {
            figures.dual[0].push(dual.add);
            figures.dual[1].push(dual.del);
            figures.exec.push(exec);
        }
    }
    for burst in 0..BURSTS {
        shell::step(&format!("burst {} of {BURSTS}: {BURST} pods at once", burst + 1));
        for plugin in [Plugin::Ropeway, Plugin::Reference] {
            let times = many_pods(rig, plugin, burst)?;
            figures.burst_cpu[plugin as usize] += times.cpu / (BURSTS * BURST) as f64;
            figures.burst_add[plugin as usize].extend(times.add);
            figures.burst_del[plugin as usize].extend(times.del);
            figures.burst_gone[plugin as usize].push(times.gone);
        }
    }
    Ok(figures)
}

struct Times {
    add: Duration,
    del: Duration,
    gone: Duration,
}

fn one_pod(rig: &Rig, plugin: Plugin, round: usize) -> Result<Times> {
    let sandbox = Sandbox::new()?;
    let container = format!("bench-{round}");
    let add = rig.call(plugin, "ADD", &container, &sandbox)?;
    let start = Instant::now();
    let del = rig.call(plugin, "DEL", &container, &sandbox)?;
    rig.settle()?;
    Ok(Times { add, del, gone: start.elapsed() })
}

struct Burst {
    add: Vec<Duration>,
    del: Vec<Duration>,
    /// Time from the first DEL to the end of all background work.
    gone: Duration,
    /// CPU time of all ADDs in milliseconds.
    cpu: f64,
}

fn many_pods(rig: &Rig, plugin: Plugin, burst: usize) -> Result<Burst> {
    let sandboxes = (0..BURST).map(|_| Sandbox::new()).collect::<Result<Vec<_>>>()?;
    let all = |verb: &'static str| -> Result<Vec<Duration>> {
        std::thread::scope(|scope| {
            let call = |(n, sandbox)| rig.call(plugin, verb, &format!("burst-{burst}-{n}"), sandbox);
            let threads: Vec<_> = sandboxes.iter().enumerate().map(|s| scope.spawn(move || call(s))).collect();
            threads.into_iter().map(|t| t.join().map_err(|_| anyhow::anyhow!("a call has panicked"))?).collect()
        })
    };
    let before = rig::cpu_of_children()?;
    let add = all("ADD")?;
    let cpu = rig::cpu_of_children()? - before;
    let start = Instant::now();
    let del = all("DEL")?;
    rig.settle()?;
    Ok(Burst { add, del, gone: start.elapsed(), cpu })
}

fn report(paths: &Paths, figures: &Figures) -> Result<Vec<Figure>> {
    let series = [&figures.exec]
        .into_iter()
        .chain(&figures.add)
        .chain(&figures.del)
        .chain(&figures.gone)
        .chain(&figures.dual)
        .chain(&figures.burst_add)
        .chain(&figures.burst_del)
        .chain(&figures.burst_gone);
    println!("{:<40} {:>9} {:>9} {:>9} {:>9} {:>9}   ms", "", "min", "p50", "p90", "p99", "max");
    let mut table = serde_json::Map::new();
    for series in series {
        println!("{series}");
        table.insert(series.name.into(), series.to_json());
    }
    let [ours, theirs] = figures.burst_cpu;
    println!("CPU time of an ADD in a burst: {ours:.2} ms ropeway, {theirs:.2} ms ptp + host-local");
    let named = vec![
        ratio("cni.add_p50_ratio", &figures.add, 0.5, PARTS),
        ratio("cni.del_p50_ratio", &figures.del, 0.5, PARTS),
        ratio("cni.del_gone_p50_ratio", &figures.gone, 0.5, PARTS),
        ratio("cni.add_burst_p99_ratio", &figures.burst_add, 0.99, BURSTS),
        ratio("cni.del_burst_p99_ratio", &figures.burst_del, 0.99, BURSTS),
        ratio("cni.del_burst_gone_ratio", &figures.burst_gone, 0.5, BURSTS),
    ];
    let all = json!({ "microseconds": table, "figures": named, "burst_cpu_ms": figures.burst_cpu });
    let file = paths.target.join(FILE);
    std::fs::write(&file, format!("{all:#}\n")).with_context(|| format!("cannot write {}", file.display()))?;
    println!("written to {}", paths.short(&file));
    Ok(named)
}
