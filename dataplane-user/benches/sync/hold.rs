//! Measures the memory of a process that holds what the agent holds: runtime, Kubernetes client,
//! controller, maps, objects.
//!
//! A child process is measured, so that the memory of the benchmark itself is not included.

use std::fmt;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use dataplane_user::api::ApiServer;
use dataplane_user::proxy::controller;
use dataplane_user::proxy::source::kubernetes;

use crate::maps::Maps;
use crate::objects;

pub(crate) struct Memory {
    pub rss_mib: f64,
    lines: Vec<String>,
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines.join(", "))
    }
}

/// Runs the child process and reads its figures.
pub(crate) fn measure() -> Memory {
    let program = std::env::current_exe().unwrap();
    let mut child = Command::new(program).arg("--hold").stdout(Stdio::piped()).spawn().unwrap();
    let lines: Vec<String> = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap).collect();
    assert!(child.wait().unwrap().success());
    let kib = |name: &str| {
        let line = lines.iter().find(|l| l.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap()
    };
    Memory { rss_mib: kib("VmRSS:") / 1024.0, lines }
}

/// Runs in the child process: syncs all objects and waits. Its source can't reach a server, which
/// takes as much memory as waiting for changes.
pub(crate) fn hold() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let maps = Maps::create();
    let handle = controller::start(maps.tables(), objects::CLOCK).unwrap();
    handle.set_node_context(objects::context());
    let events = handle.events();
    let config = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
    let server = ApiServer::new(config, Arc::default());
    let source = runtime.spawn({
        let events = events.clone();
        async move { kubernetes::run(&server, "node-1", true, events).await }
    });
    // Events are made one by one, as a source decodes them, so that they are never all in memory.
    for event in objects::stream() {
        events.blocking_send(event).unwrap();
    }
    let snapshots = handle.snapshots();
    while !snapshots.borrow().synced {
        std::thread::sleep(Duration::from_millis(5));
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let wanted = ["VmRSS:", "RssAnon:", "RssFile:", "RssShmem:", "VmHWM:"];
    status.lines().filter(|l| wanted.iter().any(|w| l.starts_with(w))).for_each(|l| println!("{l}"));
    source.abort();
}
