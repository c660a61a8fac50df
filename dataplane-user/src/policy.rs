//! Network policy, pure: decoding of its objects, a reference evaluator, and a compiler to tables.
//!
//! No other room uses this one: the agent watches none of these objects, the kernel programs judge
//! no packet by them, and a cluster's policies have no effect. `decode` turns `NetworkPolicy`,
//! `ClusterNetworkPolicy`, Namespaces and Pods into the types of `object`, `cluster_policy` and
//! `selector`; `world` holds them. `evaluate` decides by the objects themselves, `compile` makes
//! the `tables` of one node, and a property test compares both. The room reads no file, no clock
//! and no map.

pub mod cluster_policy;
pub mod compile;
pub mod decode;
pub mod evaluate;
pub mod object;
pub mod selector;
pub mod tables;
#[cfg(test)]
mod tests;
pub mod world;
