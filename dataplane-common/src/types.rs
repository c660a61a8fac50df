//! Keys and values of the maps, and the enums that programs and agent share.
//!
//! Every type here has a fixed layout or a fixed numbering, and [`abi`] hashes both. The programs,
//! the agent and the CNI plugin use these types. The module holds data only: it never reads a
//! packet or a map.
//!
//! Flag fields are plain integers with constants for their bits, not types of `bitflags`: a wrapper
//! would put a struct of its own into the maps' BTF, from which `bpftool map dump` prints the
//! fields, and might change the verified instructions.

pub mod abi;
pub mod address;
pub mod answer_budget;
pub mod clock;
pub mod event;
pub mod flow;
pub mod flow_budget;
pub mod fnv;
pub mod ip_family;
pub mod load;
#[cfg(feature = "host")]
mod plain;
pub mod pod;
pub mod policy;
pub mod service;
pub mod side;
pub mod stage;
pub mod uapi;
