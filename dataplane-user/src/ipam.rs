//! Pool mode: this node's blocks of the cluster's IP pools.
//!
//! `watch` (objects) and the store (who holds what) -> `plan` (pure: which blocks to claim, give back, collect) -> `write` (the only
//! one that changes objects and the plugin's files), driven by one `task`. Whose a block is, its object says: a block is used only
//! after the API server has accepted it, and given back only after the plugin can't use it any more.

pub mod crd;
pub mod plan;
pub mod pool;
pub mod task;
mod watch;
mod write;
