//! Receives netlink events of links, addresses and routes in a thread.
//!
//! Owned by the node's task, which awaits [`NetlinkMonitor::next`]. The thread blocks in poll(2)
//! and runs until the task is dropped. If the socket fails, the thread opens another one and
//! reports [`NetlinkEvent::Lost`], so that everything is compared again. This restarts the monitor,
//! which is counted, and does not end the agent: the task still compares at intervals, and a new
//! agent could do no more.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use dataplane_host::netlink::{Group, Monitor, NetlinkError, NetlinkEvent};
use tokio::sync::mpsc;
use tracing::{error, info};

use super::error::NodeError;
use super::status::NodeStatus;

/// Interval at which the thread checks whether the task still exists.
const CHECK: Duration = Duration::from_secs(30);
/// Pause before a failed socket is opened again.
const REOPEN: Duration = Duration::from_secs(5);
/// Batches of events that wait for the task; the thread blocks when there are more.
const QUEUE: usize = 16;

/// The events, and the thread that receives them.
#[derive(Debug)]
pub(super) struct NetlinkMonitor {
    events: mpsc::Receiver<Vec<NetlinkEvent>>,
    thread: Option<JoinHandle<()>>,
}

impl NetlinkMonitor {
    /// Opens the socket in the network namespace of the calling thread, and starts the thread.
    pub(super) fn start(status: Arc<NodeStatus>) -> Result<Self, NodeError> {
        // In this thread: an event that comes after this call is not missed.
        let socket = Monitor::open(&Group::ALL)?;
        let open = || Monitor::open(&Group::ALL);
        Ok(Self::spawn(move |sender| listen(socket, open, &sender, &status, REOPEN))?)
    }

    fn spawn(body: impl FnOnce(mpsc::Sender<Vec<NetlinkEvent>>) + Send + 'static) -> std::io::Result<Self> {
        let (sender, events) = mpsc::channel(QUEUE);
        let builder = thread::Builder::new().name("netlink".into()).stack_size(256 << 10);
        let thread = builder.spawn(move || body(sender))?;
        Ok(Self { events, thread: Some(thread) })
    }

    /// Returns the next events; `None` if the thread has ended. Panics with the thread's panic.
    pub(super) async fn next(&mut self) -> Option<Vec<NetlinkEvent>> {
        let events = self.events.recv().await;
        // The thread drops the sender when it ends or unwinds, so the join does not block.
        if events.is_none()
            && let Some(Err(panic)) = self.thread.take().map(JoinHandle::join)
        {
            resume_unwind(panic);
        }
        events
    }

    /// Drops the events that wait.
    pub(super) fn drain(&mut self) {
        while self.events.try_recv().is_ok() {}
    }
}

/// A source of events: the netlink socket, or a test's.
trait EventSocket {
    fn wait(&mut self) -> Result<Vec<NetlinkEvent>, NetlinkError>;
}

impl EventSocket for Monitor {
    fn wait(&mut self) -> Result<Vec<NetlinkEvent>, NetlinkError> {
        Self::wait(self, CHECK)
    }
}

/// Passes on events until the receiver is dropped.
fn listen<S: EventSocket>(
    mut socket: S,
    open: impl Fn() -> Result<S, NetlinkError>,
    sender: &mpsc::Sender<Vec<NetlinkEvent>>,
    status: &NodeStatus,
    pause: Duration,
) {
    while !sender.is_closed() {
        let events = match socket.wait() {
            Ok(events) => events,
            Err(e) => {
                error!(error = %e, "netlink monitor failed: opening it again in {pause:?}");
                let Some(opened) = reopen(&open, sender, pause) else { return };
                socket = opened;
                status.monitor_restarted();
                info!("netlink monitor restarted");
                vec![NetlinkEvent::Lost]
            }
        };
        if !events.is_empty() && sender.blocking_send(events).is_err() {
            return;
        }
    }
}

/// Tries until the socket is open; `None` if the receiver was dropped. Silent: the caller has
/// logged the failure.
fn reopen<S>(
    open: &impl Fn() -> Result<S, NetlinkError>,
    sender: &mpsc::Sender<Vec<NetlinkEvent>>,
    pause: Duration,
) -> Option<S> {
    while !sender.is_closed() {
        thread::sleep(pause);
        if let Ok(socket) = open() {
            return Some(socket);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io;

    use super::*;

    fn failed() -> NetlinkError {
        NetlinkError::Socket { attempt: "listen".into(), source: io::ErrorKind::Other.into() }
    }

    /// A socket that fails at once, or never has an event.
    struct Fake {
        broken: bool,
    }

    impl EventSocket for Fake {
        fn wait(&mut self) -> Result<Vec<NetlinkEvent>, NetlinkError> {
            thread::sleep(Duration::from_millis(1));
            if self.broken { Err(failed()) } else { Ok(vec![]) }
        }
    }

    #[tokio::test]
    async fn failed_socket_is_opened_again_and_counted() {
        let status = Arc::new(NodeStatus::default());
        let counts = Arc::clone(&status);
        let mut monitor = NetlinkMonitor::spawn(move |sender| {
            let attempts = Cell::new(0);
            let open = || {
                attempts.set(attempts.get() + 1);
                if attempts.get() < 3 { Err(failed()) } else { Ok(Fake { broken: false }) }
            };
            listen(Fake { broken: true }, open, &sender, &status, Duration::ZERO);
        })
        .unwrap();
        assert_eq!(monitor.next().await, Some(vec![NetlinkEvent::Lost]));
        assert_eq!(counts.monitor_restarts(), 1);
    }

    #[tokio::test]
    async fn panic_of_the_thread_is_the_panic_of_the_task() {
        let mut monitor = NetlinkMonitor::spawn(|_| panic!("bad attribute")).unwrap();
        let error = tokio::spawn(async move { monitor.next().await }).await.unwrap_err();
        assert_eq!(error.into_panic().downcast_ref::<&str>(), Some(&"bad attribute"));
    }

    #[tokio::test]
    async fn end_of_the_thread_is_noticed() {
        let mut monitor = NetlinkMonitor::spawn(drop).unwrap();
        assert_eq!(monitor.next().await, None);
    }
}
