//! Pool mode: what the agent writes down so that the plugin can give out addresses without asking anybody.
//!
//! Two files in the state directory, each replaced as a whole and durably, the first only under the store's lock: who holds
//! the lock and reads a block there may give out its addresses, because the agent takes a block away under the same lock.
//! Names of pools and namespaces stand in these files only; they never become parts of paths.

mod annotation;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use super::AgentFile;

pub use annotation::{AnnotationError, IP_ADDRS, IPV4_POOLS, IPV6_POOLS, PoolRequest};

/// The version of both formats that the agent writes.
pub const VERSION: u32 = 1;

impl AgentFile for PoolsFile {
    const NAME: &str = "pools.json";
    const VERSIONS: RangeInclusive<u32> = 1..=VERSION;
}

impl AgentFile for NamespacesFile {
    const NAME: &str = "namespaces.json";
    const VERSIONS: RangeInclusive<u32> = 1..=VERSION;
}

/// The pools from which this node may give out addresses, and its blocks in them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolsFile {
    /// [`VERSION`].
    pub version: u32,
    /// Name of the node.
    pub node: String,
    /// The pools of a pod that asks for none, in the order in which they are used up.
    pub default: Vec<String>,
    /// All pools that are enabled and select this node.
    pub pools: Vec<PoolEntry>,
}

/// One pool, as this node may use it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolEntry {
    /// Name of the object.
    pub name: String,
    /// The whole pool.
    pub cidr: IpNetwork,
    /// Pods may ask for an address of it.
    pub allow_fixed_addresses: bool,
    /// Parts that are never given out by themselves.
    pub reserved: Vec<IpNetwork>,
    /// This node's blocks, in the order in which they are used up.
    pub blocks: Vec<IpNetwork>,
}

/// What the agent knows of the cluster's namespaces.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NamespacesFile {
    /// [`VERSION`].
    pub version: u32,
    /// Those that ask for pools.
    pub chosen: BTreeMap<String, PoolRequest>,
    /// Those that ask for none, sorted.
    pub plain: Vec<String>,
    /// Those with annotations that can't be used, and why.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub broken: BTreeMap<String, String>,
}

/// What is known of one namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Namespace {
    /// It asks for pools.
    Chosen(PoolRequest),
    /// It asks for none.
    Plain,
    /// Its annotations can't be used; says why.
    Broken(String),
    /// The agent has not seen it (yet). `possible`: other namespaces ask for pools, so this one may, too.
    Unknown {
        /// See above.
        possible: bool,
    },
}

impl NamespacesFile {
    /// What is known of a namespace.
    #[must_use]
    pub fn get(&self, name: &str) -> Namespace {
        if let Some(wish) = self.chosen.get(name) {
            return Namespace::Chosen(wish.clone());
        }
        if let Some(reason) = self.broken.get(name) {
            return Namespace::Broken(reason.clone());
        }
        match self.plain.binary_search_by(|known| known.as_str().cmp(name)) {
            Ok(_) => Namespace::Plain,
            Err(_) => Namespace::Unknown { possible: !self.chosen.is_empty() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_file_is_read_as_written() {
        let entry = PoolEntry {
            name: "a".into(),
            cidr: "10.1.0.0/16".parse().unwrap(),
            allow_fixed_addresses: true,
            reserved: vec!["10.1.0.0/32".parse().unwrap()],
            blocks: vec!["10.1.0.64/26".parse().unwrap()],
        };
        let file = PoolsFile { version: 1, node: "n1".into(), default: vec!["a".into()], pools: vec![entry] };
        let text = serde_json::to_string(&file).unwrap();
        assert_eq!(serde_json::from_str::<PoolsFile>(&text).unwrap(), file);
    }

    #[test]
    fn a_namespace_is_known_or_not() {
        let wish = PoolRequest { ipv4_pools: Some(vec!["a".into()]), ..PoolRequest::default() };
        let plain = vec!["default".into(), "kube-system".into()];
        let broken = [("odd".into(), "why".into())].into();
        let file = NamespacesFile { version: 1, chosen: [("red".into(), wish.clone())].into(), plain, broken };
        assert_eq!(file.get("red"), Namespace::Chosen(wish));
        assert_eq!(file.get("default"), Namespace::Plain);
        assert_eq!(file.get("odd"), Namespace::Broken("why".into()));
        assert_eq!(file.get("new"), Namespace::Unknown { possible: true });
        assert_eq!(NamespacesFile::default().get("new"), Namespace::Unknown { possible: false });
    }
}
