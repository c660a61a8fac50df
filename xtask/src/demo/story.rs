//! The steps of the demo. Each one checks the behaviour that it shows.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use ropeway_tests::load::{self, PersistentLoad, RequestLoad, TrafficEndpoint};
use ropeway_tests::peer::{Protocol, Report};
use ropeway_tests::pod::{IpFamily, Pod};
use ropeway_tests::view;

use super::show;
use super::stage::Stage;
use crate::shell::step;

/// Requests on each path.
const REQUESTS: u64 = 120;
/// Requests of one client, at `RATE` a second, during an event; their number also determines how
/// long the load lasts.
const UNDER_LOAD: u64 = 200;
const RATE: &str = "--rate=100";
/// Largest time of a rejection.
const REJECTED_WITHIN: Duration = Duration::from_millis(100);

/// Runs all steps in order.
pub(super) fn tell(stage: &mut Stage) -> Result<()> {
    step("starting an agent on each node");
    stage.cluster.start_agents()?;
    step("wiring pods by the CNI plugin, starting servers in them");
    stage.add_pods()?;
    let mut pods: Vec<(&Pod, &str)> = stage.web.iter().map(|pod| (pod, "serves HTTP and UDP echo")).collect();
    pods.extend(stage.shell.as_ref().map(|pod| (pod, "client")));
    println!("\n{}\n", show::picture(&stage.cluster.nodes, &pods));
    stage.check_addresses()?;
    step("applying manifests");
    for name in ["web-service", "web-endpoints", "empty-service"] {
        stage.apply(&format!("{name}.yaml"), name)?;
    }
    stage.cluster.await_backends("default/web", 3)?;
    stage.cluster.await_backends("default/empty", 0)?;
    who_answers(stage)?;
    rejection(stage)?;
    endpoint_leaves(stage)?;
    agent_dies(stage)?;
    inside(stage)
}

fn who_answers(stage: &Stage) -> Result<()> {
    step(&format!("answering backends: {REQUESTS} requests on each path, each over a new connection"));
    for family in IpFamily::BOTH {
        for path in stage.paths(family)? {
            for (target, how, protocol) in
                [(path.http, "http", Protocol::Http), (path.echo, "udp", Protocol::UdpConnected)]
            {
                let report = load::send_requests(path.from, target, protocol, REQUESTS)?;
                println!("{}", show::line(path.name, target, how, &report));
                ensure!(report.ok == REQUESTS, "not every request was answered: {report:?}");
                ensure!(report.by_server.len() == 3, "not every backend answered: {report:?}");
            }
        }
    }
    Ok(())
}

fn rejection(stage: &Stage) -> Result<()> {
    step("a Service without endpoints rejects at once");
    let shell = stage.shell.as_ref().context("the demo has no client pod")?;
    for target in ["10.96.0.99:80", "[fd00:10:96::99]:80"] {
        let target: SocketAddr = target.parse()?;
        for (from, name) in [(shell as &dyn TrafficEndpoint, "pod shell"), (&stage.cluster.nodes[1].machine, "node n2")]
        {
            let report = load::send_requests(from, target, Protocol::Tcp, 1)?;
            println!("{}  after {:.1?}", show::line(name, target, "tcp", &report), report.slowest());
            ensure!(report.errors.get("ECONNREFUSED") == Some(&1), "expected ECONNREFUSED: {report:?}");
            ensure!(report.slowest() < REJECTED_WITHIN, "the rejection took too long");
        }
    }
    Ok(())
}

/// Load on every path: new connections and persistent ones.
struct Traffic {
    requests: Vec<(String, RequestLoad)>,
    persistent: Vec<(String, PersistentLoad)>,
}

impl Traffic {
    fn start(stage: &Stage) -> Result<Self> {
        let mut traffic = Self { requests: Vec::new(), persistent: Vec::new() };
        for family in IpFamily::BOTH {
            for path in stage.paths(family)? {
                let name = format!("{} to {}", path.name, path.http);
                traffic.requests.push((name.clone(), RequestLoad::start(path.from, path.http, Protocol::Http, 100)?));
                traffic.persistent.push((name, PersistentLoad::open(path.from, path.http, 9)?));
            }
        }
        println!("  100 new connections a second and 9 persistent ones on each of {} paths", traffic.requests.len());
        Ok(traffic)
    }

    /// Closes the persistent connections; none may have broken.
    fn release(&mut self) -> Result<()> {
        let (mut connections, mut requests) = (0, 0);
        for (name, load) in self.persistent.drain(..) {
            let report = load.release()?;
            ensure!(report.lost.is_empty(), "{name}: connections broke: {:?}", report.lost);
            connections += report.established;
            requests += report.requests.ok;
        }
        println!("  {connections} persistent connections, {requests} requests over them, 0 broken");
        Ok(())
    }

    /// Ends the new connections; none may have failed.
    fn stop(&mut self) -> Result<()> {
        let mut all = Report::default();
        for (name, load) in self.requests.drain(..) {
            let report = load.stop()?;
            ensure!(report.failed == 0, "{name}: {} connections failed: {:?}", report.failed, report.errors);
            all.merge(report);
        }
        println!("  {} new connections, 0 failed, the slowest took {:.1?}", all.ok, all.slowest());
        Ok(())
    }
}

fn endpoint_leaves(stage: &mut Stage) -> Result<()> {
    step("web-2 leaves under load");
    let mut traffic = Traffic::start(stage)?;
    stage.apply("steps/web-2-terminating.yaml", "web-endpoints")?;
    stage.cluster.await_backends("default/web", 2)?;
    let path = &stage.paths(IpFamily::V4)?[0];
    let report = load::send_requests(path.from, path.http, Protocol::Http, REQUESTS)?;
    println!("{}", show::line(path.name, path.http, "http", &report));
    ensure!(
        report.ok == REQUESTS && !report.by_server.contains_key("web-2"),
        "web-2 still gets new connections: {report:?}"
    );
    println!("  web-2 gets no new connections, and the persistent ones continue");
    traffic.release()?;
    stage.apply("steps/web-2-gone.yaml", "web-endpoints")?;
    stage.cluster.await_backends("default/web", 2)?;
    drop(stage.servers.remove(1));
    stage.web.remove(1).delete()?;
    println!("  web-2 is deleted");
    let path = &stage.paths(IpFamily::V6)?[2];
    let report = load::send_requests_with(path.from, path.http, Protocol::Http, UNDER_LOAD, &[RATE])?;
    println!("{}", show::line(path.name, path.http, "http", &report));
    ensure!(report.ok == UNDER_LOAD, "not every request was answered: {report:?}");
    traffic.stop()
}

fn agent_dies(stage: &mut Stage) -> Result<()> {
    step("every agent is killed (SIGKILL) under load");
    let mut traffic = Traffic::start(stage)?;
    for node in &mut stage.cluster.nodes {
        node.kill_agent()?;
    }
    println!("  no agent runs");
    for family in IpFamily::BOTH {
        for path in stage.paths(family)? {
            let report = load::send_requests(path.from, path.http, Protocol::Http, REQUESTS)?;
            println!("{}", show::line(path.name, path.http, "http", &report));
            ensure!(report.ok == REQUESTS, "not every request was answered: {report:?}");
        }
    }
    let late = stage.cluster.nodes[1].pod("late")?;
    let [v4, v6] = IpFamily::BOTH.map(|family| late.address(family));
    println!("  a new pod on n2: late {} {}", v4?, v6?);
    let path = &stage.paths(IpFamily::V6)?[0];
    let report = load::send_requests_with(&late, path.http, Protocol::Http, UNDER_LOAD, &[RATE])?;
    println!("{}", show::line("pod late", path.http, "http", &report));
    ensure!(report.ok == UNDER_LOAD, "the new pod does not reach the Service: {report:?}");
    late.delete()?;
    println!("  and deleted again");
    stage.cluster.start_agents()?;
    for node in &stage.cluster.nodes {
        let changed = node.metric("ropeway_map_operations_total")?;
        println!("  agent of {} is back and has changed {changed} map entries", node.name());
        ensure!(changed == 0.0, "the agent has written entries although nothing had changed");
    }
    traffic.release()?;
    traffic.stop()
}

fn inside(stage: &Stage) -> Result<()> {
    let node = &stage.cluster.nodes[0].machine;
    step("n1 as `ropeway` shows it");
    for words in [&["service", "list"][..], &["pod", "list"], &["drops"]] {
        println!("$ ropeway {}\n{}", words.join(" "), view::ropeway(node, words)?);
    }
    step("the same objects, as bpftool shows them");
    let pins = pins(stage)?;
    for (kind, pin) in [
        ("prog", "programs/from_pod"),
        ("prog", "programs/from_uplink"),
        ("prog", "programs/sock_connect4"),
        ("map", "maps/frontends4"),
        ("map", "maps/backends"),
        ("link", "links/sock_connect4"),
    ] {
        let path = format!("{pins}/{pin}");
        let text = node.output(&["bpftool", kind, "show", "pinned", &path])?;
        println!("$ bpftool {kind} show pinned {path}\n{}", text.trim_end());
    }
    let path = format!("{pins}/maps/frontends4");
    let text = node.output(&["bpftool", "map", "dump", "pinned", &path])?;
    let first: Vec<_> = text.lines().take(34).collect();
    println!("$ bpftool map dump pinned {path}\n{}\n  ...", first.join("\n"));
    ensure!(text.contains("\"port\": 80"), "the dump has no names of fields");
    Ok(())
}

/// Returns the directory of the pins, as a process on the node sees it.
fn pins(stage: &Stage) -> Result<String> {
    let root = "/sys/fs/bpf/ropeway";
    let seen = stage.cluster.nodes[0].machine.path(root);
    let mut entries = std::fs::read_dir(&seen).with_context(|| format!("cannot list {}", seen.display()))?;
    match (entries.next(), entries.next()) {
        (Some(entry), None) => Ok(format!("{root}/{}", entry?.file_name().to_string_lossy())),
        _ => bail!("{root} has not exactly one entry"),
    }
}
