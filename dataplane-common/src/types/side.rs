//! The side of the cluster from which a connection comes, and what of a Service that side uses.

use crate::types::service::{Frontend, SlotTable, backend_state};

/// Who asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TrafficSide {
    /// A pod or a node of the cluster.
    Internal,
    /// Anyone else.
    External,
}

impl TrafficSide {
    /// The state bit of backends that take new connections from this side.
    #[inline(always)]
    #[must_use]
    pub const fn state_bit(self) -> u8 {
        match self {
            Self::Internal => backend_state::INTERNAL,
            Self::External => backend_state::EXTERNAL,
        }
    }

    /// The table from which this side's connections are served.
    #[inline(always)]
    #[must_use]
    pub const fn table(self, frontend: &Frontend) -> SlotTable {
        match self {
            Self::Internal => frontend.internal,
            Self::External => frontend.external,
        }
    }
}
