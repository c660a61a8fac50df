//! Backend selection: session affinity, then the frontend's scheduler.
//!
//! The packet path and the socket hooks call it for every new connection. It reads the service
//! tables and writes affinity entries and turns. It never looks at a packet and never creates a
//! flow.

pub mod least_connections;
pub mod select;
