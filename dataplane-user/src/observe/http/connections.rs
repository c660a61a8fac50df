//! The open connections of one HTTP server, and which of them gives way when there are too many.
//!
//! A new connection is always accepted: clients that open connections and send nothing, or do not
//! read, lose the oldest of theirs. So they can't keep a health check waiting, which is answered
//! as soon as it has been read.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::AbortHandle;

/// Open connections of one server.
pub(super) const MOST: usize = 64;
/// Open connections of one client. Processes of the node share its loopback address, and have no
/// such limit.
pub(super) const MOST_OF_A_PEER: usize = 8;

/// Set while a connection's request is worked on; then the connection does not give way.
pub(super) type Busy = Arc<AtomicBool>;

/// A client: its address, or the /64 network of an IPv6 address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Peer(IpAddr);

impl Peer {
    pub(super) fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(address) if !address.is_loopback() => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
            other => other,
        })
    }
}

#[derive(Debug)]
struct Connection {
    peer: Peer,
    busy: Busy,
    task: AbortHandle,
}

/// The open connections, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Connections(VecDeque<Connection>);

impl Connections {
    /// Makes room for a connection of a client. Returns false if there is none, because too many
    /// requests are worked on.
    pub(super) fn make_room(&mut self, peer: Peer) -> bool {
        self.0.retain(|connection| !connection.task.is_finished());
        let limited = !peer.0.is_loopback();
        let of_peer = self.0.iter().filter(|connection| connection.peer == peer).count();
        if limited && of_peer >= MOST_OF_A_PEER {
            return self.evict(|connection| connection.peer == peer);
        }
        self.0.len() < MOST || self.evict(|_| true)
    }

    /// Adds a connection for which there is room.
    pub(super) fn add(&mut self, peer: Peer, busy: Busy, task: AbortHandle) {
        self.0.push_back(Connection { peer, busy, task });
    }

    /// Closes the oldest connection that is not busy; returns false if there is none.
    fn evict(&mut self, of: impl Fn(&Connection) -> bool) -> bool {
        let oldest = self.0.iter().position(|connection| of(connection) && !connection.busy.load(Ordering::Relaxed));
        let evicted = oldest.and_then(|index| self.0.remove(index));
        if let Some(connection) = &evicted {
            connection.task.abort();
        }
        evicted.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    fn peer(text: &str) -> Peer {
        Peer::of(text.parse().unwrap())
    }

    struct Test(Connections);

    impl Test {
        /// Adds a connection and returns its mark, or returns `None` if there is no room.
        fn connect(&mut self, text: &str) -> Option<Busy> {
            self.0.make_room(peer(text)).then(|| {
                let busy = Busy::default();
                self.0.add(peer(text), Arc::clone(&busy), tokio::spawn(pending::<()>()).abort_handle());
                busy
            })
        }

        fn of(&self, text: &str) -> usize {
            self.0.0.iter().filter(|connection| connection.peer == peer(text)).count()
        }
    }

    #[tokio::test]
    async fn client_with_many_connections_loses_its_own() {
        let mut test = Test(Connections::default());
        let other = test.connect("192.0.2.1").unwrap();
        for _ in 0..100 {
            test.connect("192.0.2.2").unwrap();
            test.connect("2001:db8::1").unwrap();
            test.connect("2001:db8::ffff").unwrap();
        }
        let counts = ["192.0.2.1", "192.0.2.2", "::ffff:192.0.2.2", "2001:db8::5"].map(|text| test.of(text));
        assert_eq!(counts, [1, MOST_OF_A_PEER, MOST_OF_A_PEER, MOST_OF_A_PEER], "a /64 is one client");
        assert!(!test.0.0[0].task.is_finished() && Arc::ptr_eq(&test.0.0[0].busy, &other));
    }

    #[tokio::test]
    async fn oldest_idle_connection_gives_way() {
        let mut test = Test(Connections::default());
        let all: Vec<_> = (0..MOST).map(|_| test.connect("127.0.0.1").unwrap()).collect();
        all[0].store(true, Ordering::Relaxed);
        test.connect("127.0.0.1").unwrap();
        assert_eq!(test.of("127.0.0.1"), MOST);
        let first = |n: usize| Arc::as_ptr(&test.0.0[n].busy);
        assert_eq!((first(0), first(1)), (Arc::as_ptr(&all[0]), Arc::as_ptr(&all[2])), "the busy one stays");
    }

    #[tokio::test]
    async fn busy_connections_are_not_closed() {
        let mut test = Test(Connections::default());
        for _ in 0..MOST {
            test.connect("::1").unwrap().store(true, Ordering::Relaxed);
        }
        assert!(test.connect("::1").is_none());
        test.0.0[7].task.abort();
        while !test.0.0[7].task.is_finished() {
            tokio::task::yield_now().await;
        }
        assert!(test.connect("::1").is_some(), "an ended connection leaves its place");
    }
}
