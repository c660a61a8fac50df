//! Pool mode: what the agent writes down so that the plugin can give out addresses without asking anybody.
//!
//! Two files in the state directory, each replaced as a whole and durably, the first only under the store's lock: who holds
//! the lock and reads a block there may give out its addresses, because the agent takes a block away under the same lock.
//! Names of pools and namespaces stand in these files only; they never become parts of paths.

mod annotation;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use ipnetwork::IpNetwork;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use annotation::{IP_ADDRS, IPV4_POOLS, IPV6_POOLS, Wish, WishError};

/// Name of [`PoolsFile`]'s file.
pub const POOLS_FILE: &str = "pools.json";
/// Name of [`NamespacesFile`]'s file.
pub const NAMESPACES_FILE: &str = "namespaces.json";
/// The version of both formats.
pub const VERSION: u32 = 1;

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
    pub chosen: BTreeMap<String, Wish>,
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
    Chosen(Wish),
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

/// Reads one of the files; `None`: there is none.
///
/// # Errors
/// It can't be read; `InvalidData`: what it says is not understood.
pub fn read<T: DeserializeOwned>(state_dir: &Path, name: &str) -> io::Result<Option<T>> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let text = match fs::read(state_dir.join(name)) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let bad = |e: serde_json::Error| io::Error::new(io::ErrorKind::InvalidData, e);
    match serde_json::from_slice::<Version>(&text).map_err(bad)?.version {
        VERSION => serde_json::from_slice(&text).map(Some).map_err(bad),
        other => {
            let reason = format!("version {other}, this program knows {VERSION}");
            Err(io::Error::new(io::ErrorKind::InvalidData, reason))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::write_json;

    struct Scratch(std::path::PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("rw-pools-{}-{name}", std::process::id()));
            fs::create_dir(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn what_is_written_is_read_and_only_differences_are_written() {
        let scratch = Scratch::new("write");
        assert_eq!(read::<PoolsFile>(&scratch.0, POOLS_FILE).unwrap(), None);
        let entry = PoolEntry {
            name: "a".into(),
            cidr: "10.1.0.0/16".parse().unwrap(),
            allow_fixed_addresses: true,
            reserved: vec!["10.1.0.0/32".parse().unwrap()],
            blocks: vec!["10.1.0.64/26".parse().unwrap()],
        };
        let file = PoolsFile { version: 1, node: "n1".into(), default: vec!["a".into()], pools: vec![entry] };
        assert!(write_json(&scratch.0, POOLS_FILE, &file).unwrap());
        assert!(!write_json(&scratch.0, POOLS_FILE, &file).unwrap());
        assert_eq!(read(&scratch.0, POOLS_FILE).unwrap(), Some(file));
        fs::write(scratch.0.join(POOLS_FILE), r#"{"version":2}"#).unwrap();
        let error = read::<PoolsFile>(&scratch.0, POOLS_FILE).unwrap_err().to_string();
        assert_eq!(error, "version 2, this program knows 1");
        for text in ["", "{", "[]", r#"{"version":1,"pools":[{}]}"#] {
            fs::write(scratch.0.join(POOLS_FILE), text).unwrap();
            let error = read::<PoolsFile>(&scratch.0, POOLS_FILE).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{text}");
        }
    }

    #[test]
    fn a_namespace_is_known_or_not() {
        let wish = Wish { ipv4_pools: Some(vec!["a".into()]), ..Wish::default() };
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
