//! One API server: how its clients are made, and the time limits of requests to it.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use kube::{Client, Config};
use tokio::time::timeout;

use super::contacts::Contacts;

/// Time limits of requests. Tests shorten them; an operator can't.
///
/// They follow from two promises: a kind that is not heard of is reported within 90 s, and the next
/// attempt begins within 30 s after the API server works again.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Until the head of a response. An API server may queue a request for 15 s (priority and
    /// fairness).
    pub head: Duration,
    /// Between two reads of a list's body.
    pub read: Duration,
    /// For a whole list: a server that sends a byte now and then must not hold it for ever.
    pub list: Duration,
    /// Between two lines of a watch. API servers send a bookmark every minute.
    pub quiet: Duration,
    /// Duration of a watch that the server is asked for: from this to twice as much, so that the
    /// nodes do not open theirs at the same time.
    pub watch: Duration,
    /// Without contact for this time, a kind counts as stalled.
    pub stalled: Duration,
    /// Interval of attempts after the first failure; it doubles up to [`Self::last_retry`].
    pub first_retry: Duration,
    /// Longest interval of attempts.
    pub last_retry: Duration,
    /// For a request about a single object.
    pub request: Duration,
    /// Pause of a patient watch ([`super::Collection::patient`]) after the end of its connection:
    /// from this to twice as much.
    pub patience: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            head: seconds(25),
            read: seconds(15),
            list: seconds(120),
            quiet: seconds(75),
            watch: seconds(300),
            stalled: seconds(80),
            first_retry: Duration::from_millis(800),
            last_retry: seconds(16),
            request: seconds(10),
            patience: seconds(60),
        }
    }
}

/// An API server and the state that its watches share.
#[derive(Clone, Debug)]
pub struct ApiServer {
    /// Address and credentials.
    pub config: Config,
    /// Time limits of requests.
    pub limits: Limits,
    /// Last contacts by kind, of all API servers of the cluster.
    pub contacts: Arc<Contacts>,
}

/// Limit of a TCP and TLS connection's beginning.
const CONNECT: Duration = Duration::from_secs(10);

impl ApiServer {
    /// Creates a server with the usual limits.
    #[must_use]
    pub fn new(config: Config, contacts: Arc<Contacts>) -> Self {
        Self { config, limits: Limits::default(), contacts }
    }

    /// Creates a client. Each watch has its own: a request that is given up takes its connection
    /// with it, and no other idle one may be dead too.
    ///
    /// # Errors
    /// The credentials can't be used.
    pub fn client(&self) -> kube::Result<Client> {
        let mut config = self.config.clone();
        config.connect_timeout = Some(CONNECT);
        // `kube` would repeat a rejected request up to 15 times, for minutes. The callers do that.
        config.default_retry = false;
        Client::try_from(config)
    }
}

/// A request has had no answer within its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no answer within {:?}", .0)]
pub struct Late(pub Duration);

/// Waits for the result of a request for at most `limit`.
///
/// # Errors
/// The request failed or was late.
pub async fn within<T, E>(limit: Duration, request: impl Future<Output = Result<T, E>>) -> Result<T, E>
where
    E: From<Late>,
{
    timeout(limit, request).await.unwrap_or(Err(Late(limit).into()))
}
