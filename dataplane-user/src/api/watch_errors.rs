//! Explains errors of API watches to an operator: one line that says what to do.
//!
//! Used by the watches of `proxy::source::kubernetes` and of `ipam`, which keep retrying. The same
//! line is logged at most once a minute, because several watches meet the same error repeatedly.

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::{debug, warn};

use super::list_watch::WatchError;

/// Interval at which the same line is logged again.
const AGAIN: Duration = Duration::from_secs(60);

/// Rate-limited log of errors, shared by the watches of one API server.
#[derive(Debug)]
pub struct WatchErrors {
    server: String,
    logged: Mutex<HashMap<String, Instant>>,
}

impl WatchErrors {
    /// Creates the log for the API server of this configuration.
    #[must_use]
    pub fn new(config: &kube::Config) -> Self {
        Self { server: config.cluster_url.to_string().trim_end_matches('/').to_owned(), logged: Mutex::default() }
    }

    /// Logs the error, unless the same line was logged in the last minute, and returns the line.
    /// `kind` is the kind's name in the Kubernetes API.
    pub fn report(&self, kind: &str, error: &WatchError) -> String {
        let text = explain(&self.server, kind, error);
        if self.is_due(&text, Instant::now()) {
            warn!("{text}; retrying");
        } else {
            debug!(kind, %error, "watch interrupted again");
        }
        text
    }

    fn is_due(&self, text: &str, now: Instant) -> bool {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        logged.retain(|_, when| now.duration_since(*when) < AGAIN);
        let due = !logged.contains_key(text);
        if due {
            logged.insert(text.to_owned(), now);
        }
        due
    }
}

/// Explains an error to an operator: the failure and the remedy.
fn explain(server: &str, kind: &str, error: &WatchError) -> String {
    use WatchError::{Ended, Late, List, Lost, Malformed, Slow, Watch};
    match error {
        List(kube::Error::Api(status)) | Watch(kube::Error::Api(status)) | Ended(status) => {
            refused(server, kind, status.code, &status.message)
        }
        List(e) | Watch(e) => {
            let cause = root(e);
            format!(
                "API server {server} can't be reached ({cause}): present Services keep working, but changes do not arrive; check \
                 --apiserver and --kubeconfig (without them, if the Service `kubernetes` is served)"
            )
        }
        // The usual end of a connection. If it can't be opened again, that is a separate error.
        Lost(e) => format!("connection to API server {server} was lost ({})", root(e)),
        Late(_) | Slow(_) => format!(
            "API server {server} does not answer about {kind} ({error}): present Services keep working, but changes do not arrive; \
             check the API server, its etcd, and load balancers between it and this node"
        ),
        Malformed(_) => format!(
            "API server {server} answers about {kind} with what is not the Kubernetes API ({error}); check --apiserver and \
             proxies between it and this node"
        ),
    }
}

fn refused(server: &str, kind: &str, code: u16, message: &str) -> String {
    match code {
        401 => format!(
            "API server {server} does not know this agent (401 {message}): its token or certificate is wrong or has expired; check \
             --kubeconfig, or the ServiceAccount"
        ),
        403 => format!(
            "API server {server} does not let this agent read what it needs ({message}): apply the ClusterRoles and bindings \
             of this version (manifests/base/rbac.yaml, for pools manifests/overlays/pools/rbac.yaml as well)"
        ),
        404 => format!(
            "API server {server} has no {kind} (404 {message}): apply the custom resource definitions of this version first \
             (kubectl apply -k with one of manifests/overlays does)"
        ),
        // The resource version of the watch has expired; kube-runtime lists the kind again.
        410 => format!("API server {server}: {kind} objects are listed again ({message})"),
        _ => format!("API server {server} rejects requests for {kind} ({code} {message})"),
    }
}

/// Returns the innermost error, because the outer ones repeat it.
fn root(error: &dyn Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: &str = "https://192.0.2.1:6443";

    fn api(code: u16, message: &str) -> WatchError {
        let status = kube::core::Status { code, message: message.into(), ..kube::core::Status::default() };
        WatchError::List(kube::Error::Api(Box::new(status)))
    }

    #[test]
    fn each_rejection_names_the_remedy() {
        let explained = |code, message: &str| explain(SERVER, "Service", &api(code, message));
        assert!(explained(401, "Unauthorized").ends_with("check --kubeconfig, or the ServiceAccount"));
        let forbidden = explained(403, "services is forbidden: User \"x\" cannot list resource \"services\"");
        assert!(forbidden.contains("cannot list resource \"services\""), "{forbidden}");
        assert!(forbidden.contains("manifests/base/rbac.yaml"), "{forbidden}");
        assert!(explained(404, "page not found").contains("custom resource definitions"));
        assert!(explained(500, "etcd is away").ends_with("(500 etcd is away)"));
    }

    #[test]
    fn unreachable_server_is_named_with_the_innermost_error() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let error = WatchError::List(kube::Error::Service(Box::new(refused)));
        let text = explain(SERVER, "Node", &error);
        assert!(
            text.starts_with("API server https://192.0.2.1:6443 can't be reached (connection refused): "),
            "{text}"
        );
    }

    #[test]
    fn stalled_server_is_told_from_an_unreachable_one() {
        let late = super::super::Late(Duration::from_secs(25));
        let text = explain(SERVER, "Service", &late.into());
        let expected =
            "API server https://192.0.2.1:6443 does not answer about Service (no answer within 25s): present Services";
        assert!(text.starts_with(expected), "{text}");
        let text = explain(SERVER, "Service", &WatchError::Malformed("the body is not a list"));
        assert!(text.contains("is not the Kubernetes API (malformed response: the body is not a list)"), "{text}");
    }

    #[test]
    fn equal_lines_are_logged_once_a_minute() {
        let (watch_errors, now) = (WatchErrors::new(&kube::Config::new(SERVER.parse().unwrap())), Instant::now());
        assert!(watch_errors.is_due("one", now));
        assert!(!watch_errors.is_due("one", now + AGAIN / 2));
        assert!(watch_errors.is_due("two", now + AGAIN / 2));
        assert!(watch_errors.is_due("one", now + AGAIN));
    }
}
