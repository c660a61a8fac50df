//! Keys and values of the maps, and the enums that programs and agent share.
//!
//! Every type here has a fixed layout or a fixed numbering, and [`abi`] hashes both. The programs,
//! the agent and the CNI plugin use these types. The module holds data only: it never reads a
//! packet or a map.

pub mod abi;
pub mod address;
pub mod clock;
pub mod event;
pub mod flow;
pub mod fnv;
pub mod ip_family;
pub mod load;
#[cfg(feature = "host")]
mod plain;
pub mod pod;
pub mod service;
pub mod side;
pub mod stage;
pub mod uapi;
