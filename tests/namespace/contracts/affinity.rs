//! 2.4: session affinity.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ropeway_tests::contracts::{Path, Rule};
use ropeway_tests::load::{self, Load, Place};
use ropeway_tests::peer::Protocol;
use ropeway_tests::pod::{Family, Pod};
use ropeway_tests::view;
use serde_json::{Value, json};

use super::expect::{answered, each, halves};
use super::observations::Looks;
use super::world::{Target, Vip, World, backed, far_port, in_turn, one, ready, service_with, target, targets};

/// Seconds; used at a rate that leaves none of them idle.
const TIMEOUT: u32 = 4;
const SHORT: Duration = Duration::from_millis(2500);

#[test]
fn section_2_4_affinity() {
    let world = World::new();
    let [here, there, _] = &world.web;
    let both = || [(here, ready()), (there, ready())];
    let objects = [
        backed(sticky("sticky", 70, None), &both()),
        backed(sticky("default", 72, Some(10_800)), &both()),
        backed(sticky("used", 73, Some(TIMEOUT)), &both()),
        backed(sticky("idle", 74, Some(1)), &both()),
    ];
    world.apply("affinity", &objects.concat());
    world.each("2.4.1", |path, family| {
        each(&world.clients(path), |from| {
            let targets = own_targets(path, 70, family);
            let server = server(from, targets[0], 5)?;
            for target in targets {
                answered(from, target.tcp, Protocol::Tcp, 10, &[&server])?;
            }
            Ok(())
        })
    });
    lasting(&world);
    per_node(&world);
    switched(&world);
    world.end();
}

fn sticky(name: &str, number: u16, seconds: Option<u32>) -> Value {
    let mut spec = vec![("sessionAffinity", json!("ClientIP"))];
    spec.extend(seconds.map(|s| ("sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": s}}))));
    service_with(name, number, &spec)
}

/// What one node serves for this path: the other node's clients have what that one serves.
fn own_targets(path: Path, number: u16, family: Family) -> Vec<Target> {
    let mut targets = targets(path, number, family);
    if path == Path::OtherNode {
        let here = target(Vip::NodePort, number, family);
        for target in targets.iter_mut().filter(|target| target.tcp == here.tcp) {
            *target = far_port(number, family);
        }
    }
    targets
}

/// The one server that answers.
fn server(from: &dyn Place, target: Target, count: u64) -> Result<String> {
    let report = load::ask(from, target.tcp, Protocol::Tcp, count)?;
    let one = report.ok == count && report.by_server.len() == 1;
    ensure!(one, "{} to {}, one server is expected: {report:?}", from.label(), target.tcp);
    report.by_server.into_keys().next().context("no server")
}

fn lasting(world: &World) {
    let [here, there, _] = &world.web;
    let mut looks = Looks::new("2.4.2");
    // the default
    let ticks = |service: &str| {
        let all = view::json(&world.node().space, &["service", "list", service]).unwrap();
        all["frontends"][0]["affinityTicks"].as_u64().unwrap()
    };
    let (unset, default) = (ticks("default/sticky"), ticks("default/default"));
    looks.look(|_, _| {
        ensure!(unset == default && default > 0, "{unset} ticks without a timeout, {default} with the default");
        Ok(())
    });
    // in use for longer than the timeout
    let cells = Rule::of("2.4.2").unwrap().cells();
    let asking = |(path, family): &(Path, Family)| {
        let target = one(*path, 73, *family).tcp;
        let loads: Vec<_> =
            world.clients(*path).iter().map(|from| Load::asking(from, target, Protocol::Tcp, 10).unwrap()).collect();
        (*path, *family, loads)
    };
    let loads: Vec<_> = cells.iter().map(asking).collect();
    pause(Duration::from_secs(u64::from(TIMEOUT) + 2));
    let mut reports = BTreeMap::new();
    for (path, family, loads) in loads {
        let all: Result<Vec<_>> = loads.into_iter().map(Load::stop).collect();
        reports.insert((path, family), all);
    }
    looks.look(|path, family| {
        let reports = reports[&(path, family)].as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?;
        let one = reports.iter().all(|report| report.failed == 0 && report.ok > 10 && report.by_server.len() == 1);
        ensure!(one, "in use, so one server is expected: {reports:?}");
        Ok(())
    });
    expires(world, &mut looks);
    // the endpoint leaves, and comes back
    let apply = |endpoints: &[(&Pod, Value)]| world.apply("affinity-70", &backed(sticky("moved", 75, None), endpoints));
    for (now, wanted) in
        [(vec![here], "web-1"), (vec![here, there], "web-1"), (vec![there], "web-2"), (vec![here, there], "web-2")]
    {
        apply(&now.iter().map(|pod| (*pod, ready())).collect::<Vec<_>>());
        looks.look(|path, family| {
            each(&world.clients(path), |from| {
                answered(from, one(path, 75, family).tcp, Protocol::Tcp, 10, &[wanted]).map(|_| ())
            })
        });
    }
    looks.record(world, "2.4.2");
}

/// A client that has been silent for longer than the timeout gets any of two: in the end another one. All of them wait at the same time.
fn expires(world: &World, looks: &mut Looks) {
    let mut first: BTreeMap<(Path, Family, String), String> = BTreeMap::new();
    for round in 0..20 {
        if round > 0 {
            pause(SHORT);
        }
        for (path, family) in Rule::of("2.4.2").unwrap().cells() {
            for from in world.clients(path) {
                let Ok(now) = server(&from, one(path, 74, family), 1) else { continue };
                let key = (path, family, from.label());
                match first.get(&key) {
                    None if round == 0 => drop(first.insert(key, now)),
                    Some(before) if *before != now => drop(first.remove(&key)),
                    _ => {}
                }
            }
        }
        if first.is_empty() {
            break;
        }
    }
    looks.look(|path, family| {
        let same: Vec<_> = first.keys().filter(|(p, f, _)| (*p, *f) == (path, family)).collect();
        ensure!(same.is_empty(), "after 20 times the timeout it is the same server for {same:?}");
        Ok(())
    });
}

/// Time itself is what is tested here.
fn pause(time: Duration) {
    let end = std::time::Instant::now() + time;
    while let Some(left) = end.checked_duration_since(std::time::Instant::now()) {
        std::thread::park_timeout(left);
    }
}

/// Each node is brought to remember another endpoint for the same client, by hints that then go.
fn per_node(world: &World) {
    let [here, there, _] = &world.web;
    let mut looks = Looks::new("2.4.3");
    let hint = |zone: &str| {
        let mut with = ready();
        with["hints"] = json!({"forZones": [{"name": zone}]});
        with
    };
    let on_each = |path, family| {
        each(&world.clients(path), |from| {
            let near = if path == Path::OtherNode { target(Vip::NodePort, 76, family) } else { one(path, 76, family) };
            let far = if path == Path::OtherNode { one(path, 76, family) } else { far_port(76, family) };
            answered(from, near.tcp, Protocol::Tcp, 10, &["web-1"])?;
            answered(from, far.tcp, Protocol::Tcp, 10, &["web-2"]).map(|_| ())
        })
    };
    for endpoints in [[(here, hint("a")), (there, hint("b"))], [(here, ready()), (there, ready())]] {
        world.apply("per-node", &backed(sticky("per-node", 76, None), &endpoints));
        looks.look(on_each);
    }
    looks.record(world, "2.4.3");
}

fn switched(world: &World) {
    let [here, there, _] = &world.web;
    let mut looks = Looks::new("2.4.4");
    for on in [false, true, false] {
        let kind = if on { "ClientIP" } else { "None" };
        let service = in_turn(service_with("switched", 77, &[("sessionAffinity", json!(kind))]));
        world.apply("switched", &backed(service, &[(here, ready()), (there, ready())]));
        looks.look(|path, family| {
            each(&world.clients(path), |from| {
                let ways = own_targets(path, 77, family);
                ways.into_iter().try_for_each(|way| {
                    if on { server(from, way, 10).map(|_| ()) } else { halves(from, way.tcp, ["web-1", "web-2"]) }
                })
            })
        });
    }
    looks.record(world, "2.4.4");
}
