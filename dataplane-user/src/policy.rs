//! Network policy, pure: the decoding of its objects, and no more than that so far.
//!
//! No other room uses this one: the agent watches none of these objects, the kernel programs judge
//! no packet by them, and a cluster's `NetworkPolicy` objects have no effect. `decode` turns them
//! into the types of `object` and `selector`. The room reads no file, no clock and no map.

pub mod decode;
pub mod object;
pub mod selector;
