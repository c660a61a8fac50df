//! The side of the cluster from which a connection comes.
//!
//! Internal and external traffic policies give a frontend two slot tables and a backend two state
//! bits. This type selects between them. The hook decides the side
//! ([`super::stage::Origin::side`]); the socket hooks always use the internal one.

use crate::types::service::{Frontend, SlotTable, backend_state};

/// The side from which a client connects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TrafficSide {
    /// A pod or a node of the cluster.
    Internal,
    /// Any client outside the cluster.
    External,
}

impl TrafficSide {
    /// Returns the bit of [`backend_state`] that a backend must have to take new connections
    /// from this side.
    #[inline(always)]
    #[must_use]
    pub const fn state_bit(self) -> u8 {
        match self {
            Self::Internal => backend_state::INTERNAL,
            Self::External => backend_state::EXTERNAL,
        }
    }

    /// Returns the slot table from which this side's connections are served.
    #[inline(always)]
    #[must_use]
    pub const fn table(self, frontend: &Frontend) -> SlotTable {
        match self {
            Self::Internal => frontend.internal,
            Self::External => frontend.external,
        }
    }
}
