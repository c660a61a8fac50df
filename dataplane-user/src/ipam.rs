//! Pool mode: this node's blocks of the cluster's IP pools.
//!
//! `watch` (objects of the API server) and the address store (addresses in use) feed `plan`, a pure
//! decision which blocks to claim, lend, give back and collect. `write` alone changes objects and
//! the plugin's files. `task` drives them. The agent starts the task; in other modes none of this
//! runs.
//!
//! A block's object says which node owns it. The plugin gets a block only after the API server
//! has accepted it, and it is given back only after the plugin can no longer use it.

pub mod crd;
pub mod plan;
pub mod pool;
pub mod task;
mod watch;
mod write;
