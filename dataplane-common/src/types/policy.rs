//! Map types of network policy: the rules of a node's pods, in the form that the programs evaluate.
//!
//! The agent writes all of them, and the programs only read. Numbers of rule sets, classes and port
//! tables mean nothing beyond one node, and are not used again while the maps live. The module
//! defines layouts; `dataplane-common/src/policy.rs` evaluates them.

/// The rules of a pod: element of the array `pod_rules`, by interface index as in `pods`.
#[cfg_attr(feature = "host", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct PodRules {
    /// [`super::pod::Pod::device`] of the pod that the rules are for. They do not apply to a later
    /// pod with the same interface index.
    pub device: u32,
    /// Number of the rule set for connections to the pod; 0: no policy isolates it.
    pub ingress: u32,
    /// Number of the rule set for connections that the pod opens; 0: no policy isolates it.
    pub egress: u32,
    /// Bits of [`rules_flags`].
    pub flags: u32,
}

/// Bits of [`PodRules::flags`].
pub mod rules_flags {
    /// Connections to the pod are allowed where the rule set has no rule for the peer.
    pub const ALLOW_INGRESS: u32 = 1;
    /// Connections that the pod opens are allowed where the rule set has no rule for the peer.
    pub const ALLOW_EGRESS: u32 = 2;
}

/// Number of a rule set without rules: its pods are closed, because the maps have no room for the
/// rules that they should have.
pub const CLOSED: u32 = u32::MAX;

/// Class of addresses that are in none of the maps `peers4/6` and `blocks4/6`.
pub const UNKNOWN_CLASS: u32 = 0;

/// Key of the map `rules`.
#[cfg_attr(feature = "host", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(C)]
pub struct RuleKey {
    /// Number of the rule set.
    pub set: u32,
    /// Class of the peer: all addresses of a class are treated alike by all rule sets.
    pub class: u32,
}

/// The decision of a rule set about a class: value of the map `rules`.
#[cfg_attr(feature = "host", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Rule {
    /// Number of a table in the map `ports`, which decides alone; 0: the fields below decide.
    pub table: u32,
    /// First port of the range, CPU order.
    pub first: u16,
    /// Last port of the range, CPU order.
    pub last: u16,
    /// IP protocol number of the range.
    pub proto: u8,
    /// One of [`decision`], about ports in the range.
    pub inside: u8,
    /// One of [`decision`], about all other ports and protocols.
    pub outside: u8,
    /// Padding, always zero.
    pub pad: u8,
}

/// A port in a port table: key of the trie `ports`, by [`super::address::Prefix`]. A prefix of 32
/// bits is the table's decision about all ports without a longer one.
#[cfg_attr(feature = "host", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(C)]
pub struct PortKey {
    /// Number of the table, big-endian.
    pub table_be: u32,
    /// IP protocol number, port and a zero byte, big-endian.
    pub port_be: u32,
}

impl PortKey {
    /// Returns the key of a port (CPU order).
    #[inline(always)]
    #[must_use]
    pub const fn new(table: u32, proto: u8, port: u16) -> Self {
        Self { table_be: table.to_be(), port_be: ((proto as u32) << 24 | (port as u32) << 8).to_be() }
    }
}

/// Decisions of [`Rule`] and of the trie `ports`.
pub mod decision {
    /// No rule decides: the default of the rule set applies.
    pub const NONE: u32 = 0;
    /// The connection may not pass.
    pub const DENY: u32 = 1;
    /// The connection may pass.
    pub const ALLOW: u32 = 2;
}
