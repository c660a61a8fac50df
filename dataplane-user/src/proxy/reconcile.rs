//! Computes the map operations that turn the current table contents into the desired ones. No I/O.
//!
//! [`Reconciler`] is the part that the controller calls. For one Service it takes these steps:
//! [`ownership`] decides which contested frontends it gets, [`assign()`] allocates ids and slots,
//! [`Allocator::plan`] adds the difference to a [`Plan`]. After the map writer has applied the
//! plan, [`Allocator::commit`] frees what is no longer used, after a grace time; a failed part is
//! planned back. Published slot tables are never edited: a change of members writes a new table in
//! free space and switches the frontends to it. An endpoint keeps its backend id while it stays in
//! its Service.

mod allocator;
mod assign;
pub mod diff;
pub mod ids;
pub mod ownership;
pub mod plan;
pub mod published;
pub mod quota;
pub mod reconciler;
pub mod restore;
pub mod slots;
pub mod table;
#[cfg(test)]
mod tests;

pub use allocator::{Allocator, Capacities};
pub use assign::{Assigned, Refusal, assign};
pub use ownership::{Decisions, Ownership};
pub use plan::Plan;
pub use published::{PublishedBackend, PublishedPort};
pub use reconciler::Reconciler;
