//! 2.2: which endpoints are chosen.

use anyhow::{Result, ensure};
use ropeway_tests::contracts::{Path, Rule};
use ropeway_tests::load::{self, Load, Place};
use ropeway_tests::peer::{HoldReport, Protocol};
use ropeway_tests::pod::{Family, Pod};
use serde_json::{Value, json};

use super::expect::{all_answered, answered, each};
use super::world::{Target, World, backed, local, one, policies, ready, service, service_with, targets, terminating};

#[test]
fn section_2_2_choice() {
    let world = World::new();
    fallbacks(&world);
    topology(&world);
    connections(&world);
    world.end();
}

fn hinted(mut with: Value, hints: Value) -> Value {
    with["hints"] = hints;
    with
}

fn zone(name: &str) -> Value {
    json!({"forZones": [{"name": name}]})
}

fn fallbacks(world: &World) {
    let [first, second, never] = &world.web;
    let gone = json!({"conditions": {"ready": false, "serving": false, "terminating": true}});
    let far = hinted(terminating(), zone("b"));
    let objects = [
        backed(service("ready", 20), &[(first, ready()), (second, terminating())]),
        backed(service("leaving", 21), &[(first, far), (never, gone)]),
        backed(service_with("local", 22, &policies("Local")), &[(first, terminating()), (second, ready())]),
    ];
    world.apply("fallbacks", &objects.concat());
    world.every("2.2.1", |path, family| {
        each(&world.clients(path), |from| {
            all_answered(from, &targets(path, 20, family), 12, &["web-1"])?;
            all_answered(from, &targets(path, 21, family), 12, &["web-1"])?;
            all_answered(from, &[local(path, 22, family)], 12, &["web-1"])
        })
    });
}

fn topology(world: &World) {
    let [first, second, _] = &world.web;
    let node = |name: &str| json!({"forNodes": [{"name": name}]});
    let to = |hints: Value| hinted(ready(), hints);
    let objects = [
        backed(service("zones", 23), &[(first, to(zone("a"))), (second, to(zone("b")))]),
        backed(service("partly", 24), &[(first, to(zone("a"))), (second, ready())]),
        backed(service("nodes", 25), &[(first, to(node("n2"))), (second, to(node("n1")))]),
        backed(service_with("here", 26, &policies("Local")), &[(first, to(zone("b"))), (second, to(zone("a")))]),
    ];
    world.apply("topology", &objects.concat());
    world.each("2.2.2", |path, family| {
        // the other node is in the other zone, and its own Services are its own choice
        let [here, there] = if path == Path::OtherNode { ["web-2", "web-1"] } else { ["web-1", "web-2"] };
        each(&world.clients(path), |from| {
            all_answered(from, &[one(path, 23, family)], 12, &[here])?;
            answered(from, one(path, 24, family).tcp, Protocol::Tcp, 40, &["web-1", "web-2"])?;
            all_answered(from, &[one(path, 25, family)], 12, &[there])?;
            all_answered(from, &[local(path, 26, family)], 12, &["web-1"])
        })
    });
}

/// A fair coin leaves 160 to 240 of 400 once in 19,000 runs; three tries make that once in 10 billion.
fn splits_evenly(from: &dyn Place, target: Target) -> Result<()> {
    let mut seen = Vec::new();
    for _ in 0..3 {
        let report = answered(from, target.tcp, Protocol::Tcp, 400, &["web-1", "web-2"])?;
        if report.by_server.values().all(|count| (160..=240).contains(count)) {
            return Ok(());
        }
        seen.push(report.by_server);
    }
    anyhow::bail!("{} to {target:?}, evenly: {seen:?}", from.label())
}

/// Connections of every client, held while the second endpoint leaves.
fn connections(world: &World) {
    let [first, second, _] = &world.web;
    let apply = |endpoints: &[(&Pod, Value)]| world.apply("held", &backed(service("held", 27), endpoints));
    apply(&[(first, ready()), (second, ready())]);
    let cells = Rule::of("2.2.3").unwrap().cells();
    let hold = |(path, family): (Path, Family)| {
        let target = one(path, 27, family);
        let even = each(&world.clients(path), |from| splits_evenly(from, target));
        let clients = world.clients(path);
        let held = clients.iter().map(|from| Load::holding(from, target.tcp, 16)).collect::<Result<Vec<_>>>();
        (path, family, even, held)
    };
    let held: Vec<_> = cells.into_iter().map(hold).collect();

    apply(&[(first, ready()), (second, terminating())]);
    let after = |path, family| {
        each(&world.clients(path), |from| {
            load::ask(from, one(path, 27, family).udp, Protocol::Udp, 1)?; // another port of the Service has nothing to do with it
            answered(from, one(path, 27, family).tcp, Protocol::Tcp, 20, &["web-1"]).map(|_| ())
        })
    };
    let mut ends = Vec::new();
    for (path, family, even, loads) in held {
        ends.push((path, family, even.and_then(|()| after(path, family)), loads));
    }
    apply(&[(first, ready())]);
    let ends: Vec<_> = ends
        .into_iter()
        .map(|(path, family, chosen, loads)| {
            let gone = after(path, family);
            let reports = loads.and_then(|loads| loads.into_iter().map(Load::release).collect::<Result<Vec<_>>>());
            (path, family, chosen.and(gone), reports)
        })
        .collect();
    let of = |path, family| ends.iter().find(|(p, f, ..)| (*p, *f) == (path, family)).unwrap();
    let copy = |error: &anyhow::Error| anyhow::anyhow!("{error:#}");
    world.each("2.2.3", |path, family| {
        let (.., chosen, reports) = of(path, family);
        chosen.as_ref().map_err(copy)?;
        reports.as_ref().map_err(copy)?.iter().try_for_each(kept)
    });
    world.each("2.2.4", |path, family| {
        let (.., reports) = of(path, family);
        reports.as_ref().map_err(copy)?.iter().try_for_each(|report| {
            kept(report)?;
            let leaving = report.questions.by_server.get("web-2").copied().unwrap_or_default();
            ensure!(leaving > 0, "some connections must have been on the endpoint that left: {report:?}");
            Ok(())
        })
    });
}

/// No connection is lost, and each of them was used.
fn kept(report: &HoldReport) -> Result<()> {
    ensure!(report.lost.is_empty() && report.questions.failed == 0, "{report:?}");
    ensure!(report.questions.ok > report.held, "{report:?}");
    Ok(())
}
