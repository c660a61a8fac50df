//! Supervises the agent's tasks: the first one that ends ends the agent, with its name in the
//! error.
//!
//! `agent::run` spawns every task that must live as long as the agent here and awaits
//! [`Supervisor::failed`] beside the signals. Dropping the supervisor aborts all tasks.
//!
//! No task is restarted here. The release build aborts the process on a panic, so a restart would
//! help in debug builds only, and the next agent takes over all kernel objects without a loss of
//! traffic. A task that can recover does so itself: the netlink monitor reopens its socket.

use std::any::Any;
use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};
use tracing::error;

use super::AgentError;

/// Time in which tasks that end for the same reason are collected, so that the cause can be named.
const GRACE: Duration = Duration::from_millis(100);

/// Reason why a task has ended.
#[derive(Debug)]
pub enum TaskEnd {
    /// It panicked, or work that it had moved to the blocking pool did; with the panic's message.
    Panicked(String),
    /// It returned an error, which becomes the agent's.
    Failed(Box<AgentError>),
    /// It returned although it should not.
    Returned,
}

impl TaskEnd {
    /// Returns the rank of this end among simultaneous ones; the smallest is the cause. A task
    /// returns when the channels of a task that panicked or failed are closed.
    const fn rank(&self) -> u8 {
        match self {
            Self::Panicked(_) => 0,
            Self::Failed(_) => 1,
            Self::Returned => 2,
        }
    }

    fn into_error(self, task: &'static str) -> AgentError {
        match self {
            Self::Panicked(message) => AgentError::Panicked { task, message },
            Self::Failed(error) => *error,
            Self::Returned => AgentError::Ended { task },
        }
    }
}

impl From<()> for TaskEnd {
    fn from((): ()) -> Self {
        Self::Returned
    }
}

impl From<JoinError> for TaskEnd {
    fn from(error: JoinError) -> Self {
        match error.try_into_panic() {
            Ok(payload) => Self::Panicked(message(&*payload)),
            // Cancelled: only the runtime's shutdown does that.
            Err(_) => Self::Returned,
        }
    }
}

impl From<AgentError> for TaskEnd {
    fn from(error: AgentError) -> Self {
        Self::Failed(Box::new(error))
    }
}

impl<E: Into<Self>> From<Result<(), E>> for TaskEnd {
    fn from(result: Result<(), E>) -> Self {
        result.map_or_else(Into::into, Into::into)
    }
}

impl<E: Into<Self>> From<Result<Infallible, E>> for TaskEnd {
    fn from(result: Result<Infallible, E>) -> Self {
        match result {
            Err(error) => error.into(),
        }
    }
}

/// The tasks that live as long as the agent.
#[derive(Debug, Default)]
pub struct Supervisor {
    tasks: JoinSet<TaskEnd>,
    /// Order of spawning and name by id: a panicked task leaves nothing but its id.
    names: HashMap<Id, (usize, &'static str)>,
}

/// One task's end, with its order of spawning and its name.
struct Ended {
    order: usize,
    task: &'static str,
    end: TaskEnd,
}

impl Supervisor {
    /// Spawns a task whose end is the agent's end.
    ///
    /// Spawn a task before those that return when its channels close: of several that have
    /// returned, [`Self::failed`] names the one that was spawned first.
    pub fn spawn<T: Into<TaskEnd>>(&mut self, name: &'static str, task: impl Future<Output = T> + Send + 'static) {
        let order = self.names.len();
        let handle = self.tasks.spawn(async move { task.await.into() });
        self.names.insert(handle.id(), (order, name));
    }

    /// Waits until a task has ended, and returns the agent's error, which names that task.
    ///
    /// If several end within [`GRACE`], the error names the cause, and the other panics and
    /// failures are logged. Waits for ever if no task was spawned.
    pub async fn failed(&mut self) -> AgentError {
        let mut cause = self.next().await;
        while let Ok(mut other) = tokio::time::timeout(GRACE, self.next()).await {
            if (other.end.rank(), other.order) < (cause.end.rank(), cause.order) {
                std::mem::swap(&mut cause, &mut other);
            }
            if !matches!(other.end, TaskEnd::Returned) {
                error!("{}", other.end.into_error(other.task));
            }
        }
        cause.end.into_error(cause.task)
    }

    async fn next(&mut self) -> Ended {
        let (id, end) = match self.tasks.join_next_with_id().await {
            Some(Ok(ended)) => ended,
            Some(Err(error)) => (error.id(), error.into()),
            None => std::future::pending().await,
        };
        let (order, task) = self.names.get(&id).copied().unwrap_or((usize::MAX, "unknown"));
        Ended { order, task, end }
    }
}

/// Returns the message of a panic; `panic!` leaves a `&str` or a `String`.
fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message").into()
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::net::{Ipv4Addr, SocketAddr};

    use tokio::sync::watch;
    use tokio::task::spawn_blocking;

    use super::*;
    use crate::observe::http::BindError;

    /// Returns a supervisor with one task that runs for ever.
    fn supervisor() -> Supervisor {
        let mut supervisor = Supervisor::default();
        supervisor.spawn("idle", pending::<()>());
        supervisor
    }

    #[tokio::test]
    async fn panicking_task_ends_the_agent_with_its_name_and_message() {
        let mut supervisor = supervisor();
        let n = 7;
        supervisor.spawn("flows", async move { assert!(n == 0, "entry {n} is out of range") });
        let error = supervisor.failed().await.to_string();
        assert_eq!(error, "task flows panicked: entry 7 is out of range");
    }

    #[tokio::test]
    async fn panic_on_the_blocking_pool_is_the_end_of_the_task_that_awaits_it() {
        let mut supervisor = supervisor();
        let task = async { spawn_blocking(|| panic!("bad table")).await };
        supervisor.spawn::<Result<Infallible, JoinError>>("loads", task);
        assert_eq!(supervisor.failed().await.to_string(), "task loads panicked: bad table");
    }

    #[tokio::test]
    async fn returning_task_ends_the_agent_with_its_name() {
        let mut supervisor = supervisor();
        supervisor.spawn("conflist", async {});
        let error = supervisor.failed().await;
        assert!(matches!(error, AgentError::Ended { task: "conflist" }), "{error}");
    }

    #[tokio::test]
    async fn error_of_a_task_becomes_the_error_of_the_agent() {
        let mut supervisor = supervisor();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 10256));
        let task =
            async move { Err(BindError::new("healthz-bind-address", address, std::io::ErrorKind::AddrInUse.into())) };
        supervisor.spawn::<Result<(), AgentError>>("health", async { Ok(task.await?) });
        let error = supervisor.failed().await.to_string();
        assert!(error.starts_with("--healthz-bind-address 127.0.0.1:10256: "), "{error}");
    }

    /// The controller's end closes the channels of other tasks, which may be joined before it.
    #[tokio::test]
    async fn cause_of_simultaneous_task_ends_is_named() {
        let (sender, receiver) = watch::channel(());
        let follower = |mut receiver: watch::Receiver<()>| async move { while receiver.changed().await.is_ok() {} };
        let mut returned = Supervisor::default();
        returned.spawn("controller", async move { drop(sender) });
        returned.spawn("node", follower(receiver));
        let error = returned.failed().await;
        assert!(matches!(error, AgentError::Ended { task: "controller" }), "{error}");

        let (sender, receiver) = watch::channel(());
        let mut panicked = Supervisor::default();
        panicked.spawn("node", follower(receiver));
        panicked.spawn("controller", async move {
            let (_sender, slots) = (sender, 0);
            assert!(slots > 0, "no slot");
        });
        assert_eq!(panicked.failed().await.to_string(), "task controller panicked: no slot");
    }
}
