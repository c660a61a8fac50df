//! Faults of an API server at every point of list and watch, and what the source makes of them: it
//! notices each within the promised time, says so, and is up to date soon after the end.
//!
//! All limits are a twentieth of the real ones, so are the times that the tests allow. The same
//! server counts requests, because each is sent by every node of a cluster.

use std::time::{Duration, Instant};

use dataplane_user::api::Limits;
use dataplane_user::proxy::source::ObjectKind;
use serde_json::json;

use super::server::{Server, Streams};
use super::{Source, service};

const SCALE: u32 = 20;

/// The limits of the agent, scaled down.
pub(crate) const LIMITS: Limits = Limits {
    head: Duration::from_millis(25_000 / SCALE as u64),
    read: Duration::from_millis(15_000 / SCALE as u64),
    list: Duration::from_millis(116_000 / SCALE as u64),
    quiet: Duration::from_millis(75_000 / SCALE as u64),
    watch: Duration::from_secs(300),
    stalled: Duration::from_millis(80_000 / SCALE as u64),
    first_retry: Duration::from_millis(800 / SCALE as u64),
    last_retry: Duration::from_millis(16_000 / SCALE as u64),
    request: Duration::from_millis(10_000 / SCALE as u64),
    patience: Duration::from_millis(60_000 / SCALE as u64),
};

/// The time within which a stall is reported, scaled down.
const NOTICED: Duration = Duration::from_millis(90_000 / SCALE as u64);
/// The time within which the source is up to date again, scaled down.
const RECOVERED: Duration = Duration::from_millis(30_000 / SCALE as u64);

/// What an API server does to the requests for a collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Accepts a request and answers nothing: a frozen process.
    NoHead,
    /// The same for lists only: a read of etcd that hangs.
    NoListHead,
    /// The same for watches only.
    NoWatchHead,
    /// Sends half of a list and nothing more.
    HalfList,
    /// Sends half of a list and then a byte now and then.
    SlowList,
    /// Sends half of a list and closes the connection.
    TruncatedList,
    /// Sends nothing in an open watch, and loses its events: a connection that is half open.
    SilentWatch,
    /// Sends half of an event and nothing more.
    HalfEvent,
    /// Sends a line in a watch that is no event.
    Garbage,
    /// Closes each connection: a server that restarts.
    Closed,
    /// Answers with a page in HTML: another server at this address.
    Page,
}

const ALL: [Fault; 11] = [
    Fault::NoHead,
    Fault::NoListHead,
    Fault::NoWatchHead,
    Fault::HalfList,
    Fault::SlowList,
    Fault::TruncatedList,
    Fault::SilentWatch,
    Fault::HalfEvent,
    Fault::Garbage,
    Fault::Closed,
    Fault::Page,
];

impl Fault {
    /// Returns true if the source learns of a change although the fault lasts.
    fn is_healed(self) -> bool {
        matches!(self, Self::SilentWatch | Self::HalfEvent | Self::Garbage)
    }

    /// Brings a source that is in sync to the point at which the fault is met.
    async fn meet(self, server: &Server) {
        server.fault(Some(("services", self)));
        match self {
            // The next event meets it.
            Self::SilentWatch | Self::HalfEvent | Self::Garbage => {}
            Self::NoWatchHead | Self::Closed | Self::NoHead | Self::Page => server.end_watches("services"),
            Self::NoListHead | Self::HalfList | Self::SlowList | Self::TruncatedList => {
                server.expire("services").await;
            }
        }
    }
}

/// Begins a fault and changes a Service. Waits until the source says that it is stalled, ends the
/// fault, and waits for the change; or for the change alone, if the source finds a way around.
async fn survive(fault: Fault, streams: Streams) {
    let server = Server::start().await;
    server.streams(streams);
    let mut source = Source::begin(server, &["web", "api"]);
    let kind = ObjectKind::Service;
    source.sync(kind).await;
    let is_watch =
        |q: &String| q.contains("/services?") && q.contains("watch=true") && !q.contains("sendInitialEvents");
    while streams != Streams::Yes && !source.server.queries().iter().any(is_watch) {
        source.pass(Duration::from_millis(20)).await;
    }

    fault.meet(&source.server).await;
    let event = json!({"type": "ADDED", "object": service("new")});
    source.server.publish("services", vec![service("web"), service("api"), service("new")], &event);
    let begin = Instant::now();
    if fault.is_healed() {
        while source.next(kind).await != "shop/new true" {}
        assert!(begin.elapsed() < NOTICED, "{fault:?}, {streams:?}: healed after {:?}", begin.elapsed());
        return;
    }
    while !source.is_stalled("Service") {
        assert!(begin.elapsed() < NOTICED, "{fault:?}, {streams:?}: not noticed");
        source.pass(Duration::from_millis(20)).await;
    }
    assert!(!source.is_stalled("Node"), "{fault:?}: the other kinds are well");

    source.server.fault(None);
    let end = Instant::now();
    while source.next(kind).await != "shop/new true" {}
    while source.is_stalled("Service") {
        source.pass(Duration::from_millis(20)).await;
    }
    assert!(end.elapsed() < RECOVERED, "{fault:?}, {streams:?}: recovered after {:?}", end.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_stall_is_noticed_and_survived() {
    let runs = ALL.map(|fault| tokio::spawn(survive(fault, Streams::Yes)));
    for run in runs {
        run.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_stall_is_survived_with_servers_that_do_not_stream_lists() {
    let both = [Streams::Rejected, Streams::Unknown];
    let runs = ALL.map(|fault| both.map(|streams| tokio::spawn(survive(fault, streams))));
    for run in runs.into_iter().flatten() {
        run.await.unwrap();
    }
}

/// A quiet cluster must not look like a stalled one.
#[tokio::test]
async fn quiet_watch_with_bookmarks_is_no_stall() {
    let mut source = Source::start(&["web"]).await;
    source.sync_all().await;
    let begin = Instant::now();
    let requests = source.server.queries().len();
    while begin.elapsed() < 2 * NOTICED {
        assert!(!source.is_stalled("Service"));
        source.pass(Duration::from_millis(100)).await;
    }
    assert_eq!(source.server.queries().len(), requests, "bookmarks keep the watches open");
}

/// The nodes of the cluster for which requests are counted.
const NODES: usize = 5000;
const MINUTE: Duration = Duration::from_millis(60_000 / SCALE as u64);

/// Returns the number of lists, and checks that none is read from etcd: each names a version, and
/// none asks for a page.
fn lists(queries: &[String]) -> usize {
    let is_list = |q: &&String| !q.contains("watch=true") || q.contains("sendInitialEvents=true");
    let lists: Vec<_> = queries.iter().filter(is_list).collect();
    for list in &lists {
        let version = list.split(['?', '&']).find_map(|pair| pair.strip_prefix("resourceVersion="));
        assert!(version.is_some_and(|version| !version.is_empty()) && !list.contains("limit="), "{list}");
    }
    lists.len()
}

#[tokio::test]
async fn lists_come_from_the_cache_of_the_api_server() {
    for streams in [Streams::Yes, Streams::Rejected] {
        let server = Server::start().await;
        server.streams(streams);
        let mut source = Source::begin(server, &["web"]);
        source.sync_all().await;
        let first = lists(&source.server.queries());
        assert!(first >= ObjectKind::ALL.len(), "{first}");
        for collection in ["services", "endpointslices", "nodes", "servicecidrs"] {
            source.server.expire(collection).await;
        }
        let begin = Instant::now();
        while lists(&source.server.queries()) < first + ObjectKind::ALL.len() {
            assert!(begin.elapsed() < 4 * MINUTE, "{:?}", source.server.queries());
            source.pass(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn restart_of_the_control_plane_costs_three_requests_a_node() {
    let mut source = Source::start(&["web"]).await;
    source.sync_all().await;
    let before = source.server.queries().len();
    source.server.restart();
    source.pass(MINUTE).await;
    let queries = source.server.queries().split_off(before);
    assert!(queries.len() <= 3, "{} requests in the first minute: {queries:?}", queries.len() * NODES);
    assert!(queries.iter().all(|q| q.contains("watch=true") && !q.contains("sendInitialEvents")), "{queries:?}");
    let begin = Instant::now();
    while source.server.queries().len() < before + ObjectKind::ALL.len() {
        assert!(begin.elapsed() < 4 * MINUTE, "the watch of ServiceCIDRs comes later");
        source.pass(Duration::from_millis(20)).await;
    }
}
