//! Requests to the API server, each with an end.
//!
//! [`ListWatch`] lists a collection and watches it; [`ApiServer`] creates clients and limits the
//! time of single requests; [`Contacts`] knows since when a kind has not been heard of. The sources
//! of the proxy, pool mode and the Events use it. Nothing here knows what the objects mean.
//!
//! `kube` sends the requests. Its `watcher` is not used: it waits without a limit for the head of a
//! list and of a watch and for a list's pages, holds a whole list in memory, and with a page size
//! sends no resource version, so that the API server reads the list from etcd.

mod body;
mod collection;
mod contacts;
mod list_scanner;
mod list_watch;
mod retry;
mod server;
mod watch_errors;

pub use collection::Collection;
pub use contacts::{Contacts, Stall};
pub use list_watch::{Event, ListWatch, WatchError};
pub use retry::random;
pub use server::{ApiServer, Late, Limits, within};
pub use watch_errors::WatchErrors;
