//! `pools.json` and `namespaces.json`: this node's blocks of IP pools, and the pools that
//! namespaces ask for.
//!
//! The agent writes both. It writes `pools.json` only under the address store's lock. The plugin
//! reads it under the same lock, so an address of a block that it read there is safe to give out:
//! the agent cannot have returned the block. Names of pools and namespaces appear in the files'
//! content only and never in paths.

mod annotation;

use std::collections::{BTreeMap, BTreeSet};
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
    /// The machine's boot id when the agent wrote the file ([`crate::store::boot_id`]). A machine
    /// that was off may have lost its blocks meanwhile, so the plugin waits for the agent.
    #[serde(default)]
    pub boot: String,
    /// The pools of pods without pool annotations, in the order of use.
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
    /// The range of the whole pool, of which this node has blocks.
    pub cidr: IpNetwork,
    /// Pods may ask for an address of it.
    pub allow_fixed_addresses: bool,
    /// Only namespaces of [`NamespacesFile::permitted`] may use it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub restricted: bool,
    /// Parts from which no address is given out unless a pod asks for it.
    pub reserved: Vec<IpNetwork>,
    /// This node's blocks, in the order of use.
    pub blocks: Vec<IpNetwork>,
}

/// The pools that the cluster's namespaces ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NamespacesFile {
    /// [`VERSION`].
    pub version: u32,
    /// Namespaces with pool annotations.
    pub chosen: BTreeMap<String, PoolRequest>,
    /// Namespaces without pool annotations, sorted.
    pub plain: Vec<String>,
    /// Names of restricted pools with the namespaces whose pods may use them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub permitted: BTreeMap<String, BTreeSet<String>>,
    /// Namespaces with invalid annotations, and the reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub broken: BTreeMap<String, String>,
}

/// The pools that one namespace asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Namespace {
    /// It has valid pool annotations.
    Chosen(PoolRequest),
    /// It has no pool annotations.
    Plain,
    /// Its annotations are invalid, for this reason.
    Broken(String),
    /// The agent has not seen it yet.
    Unknown {
        /// Other namespaces ask for pools, so this one may as well.
        possible: bool,
    },
}

impl NamespacesFile {
    /// Returns the entry of a namespace.
    #[must_use]
    pub fn get(&self, name: &str) -> Namespace {
        if let Some(request) = self.chosen.get(name) {
            return Namespace::Chosen(request.clone());
        }
        if let Some(reason) = self.broken.get(name) {
            return Namespace::Broken(reason.clone());
        }
        match self.plain.binary_search_by(|known| known.as_str().cmp(name)) {
            Ok(_) => Namespace::Plain,
            Err(_) => Namespace::Unknown { possible: !self.chosen.is_empty() },
        }
    }

    /// Returns true if pods of a namespace may use a pool. Without the namespace's name they may
    /// not use a restricted one.
    #[must_use]
    pub fn permits(&self, pool: &PoolEntry, namespace: Option<&str>) -> bool {
        let listed =
            || self.permitted.get(&pool.name).is_some_and(|names| namespace.is_some_and(|n| names.contains(n)));
        !pool.restricted || listed()
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
            restricted: true,
            reserved: vec!["10.1.0.0/32".parse().unwrap()],
            blocks: vec!["10.1.0.64/26".parse().unwrap()],
        };
        let file = PoolsFile {
            version: 1,
            node: "n1".into(),
            boot: "b".into(),
            default: vec!["a".into()],
            pools: vec![entry],
        };
        let text = serde_json::to_string(&file).unwrap();
        assert_eq!(serde_json::from_str::<PoolsFile>(&text).unwrap(), file);
    }

    #[test]
    fn namespace_lookup_tells_unknown_from_plain() {
        let request = PoolRequest { ipv4_pools: Some(vec!["a".into()]), ..PoolRequest::default() };
        let plain = vec!["default".into(), "kube-system".into()];
        let broken = [("odd".into(), "why".into())].into();
        let chosen = [("red".into(), request.clone())].into();
        let file = NamespacesFile { version: 1, chosen, plain, broken, ..NamespacesFile::default() };
        assert_eq!(file.get("red"), Namespace::Chosen(request));
        assert_eq!(file.get("default"), Namespace::Plain);
        assert_eq!(file.get("odd"), Namespace::Broken("why".into()));
        assert_eq!(file.get("new"), Namespace::Unknown { possible: true });
        assert_eq!(NamespacesFile::default().get("new"), Namespace::Unknown { possible: false });
    }
}
