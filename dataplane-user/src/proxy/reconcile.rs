//! From what should be to what must be done: pure, against what is known of the tables.
//!
//! Slot tables are published and never edited: a change of members makes a new table in free space and switches the
//! frontends to it. The backend id of an endpoint stays while the endpoint stays in its Service. A round goes:
//! [`assign`] (ids and space for what is desired), [`Allocator::plan`] (the difference as operations), the operations,
//! [`Allocator::commit`] (what is no longer used is free, after a grace time), or the way back if they failed.

mod allocator;
mod assign;
pub mod diff;
pub mod ids;
pub mod plan;
pub mod published;
pub mod restore;
pub mod slots;
pub mod table;
#[cfg(test)]
mod tests;

pub use allocator::{Allocator, Capacities};
pub use assign::{Assigned, Ownership, Refusal, assign};
pub use plan::{Plan, Tag};
pub use published::{PublishedBackend, PublishedPort};
