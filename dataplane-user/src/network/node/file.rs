//! `node.json` in the state directory: what the CNI plugin must know of the node without asking anybody.

use std::io;
use std::path::{Path, PathBuf};

use dataplane_host::durable;
use ipnetwork::IpNetwork;
use serde::Serialize;

/// The file's name.
pub const NAME: &str = "node.json";

/// The file's content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeFile {
    version: u32,
    node: String,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Vec<IpNetwork>,
    mtu: u32,
    /// Addresses come from blocks of pools, which are in a file of their own.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pools: bool,
}

/// Why the file could not be written.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", path.display())]
pub struct NodeFileError {
    path: PathBuf,
    source: io::Error,
}

impl NodeFile {
    /// The content for a node whose pods get addresses from ranges that stay.
    #[must_use]
    pub fn new(node: &str, pod_cidrs: &[IpNetwork], mtu: u32) -> Self {
        Self { version: 1, node: node.into(), pod_cidrs: pod_cidrs.into(), mtu, pools: false }
    }

    /// The content for a node whose pods get addresses from blocks of pools.
    #[must_use]
    pub fn of_pools(node: &str, mtu: u32) -> Self {
        Self { pools: true, ..Self::new(node, &[], mtu) }
    }

    /// Writes the file unless it says just that; a reader sees the old content or the new one, also after a power cut.
    ///
    /// # Errors
    /// The directory can't be written.
    pub fn write(&self, state_dir: &Path) -> Result<bool, NodeFileError> {
        durable::write_json(state_dir, NAME, self)
            .map_err(|source| NodeFileError { path: state_dir.join(NAME), source })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn is_written_once() {
        let dir = tempfile::tempdir().unwrap();
        let cidrs = ["10.244.1.0/24".parse().unwrap(), "fd00:10:244:1::/64".parse().unwrap()];
        let file = NodeFile::new("n1", &cidrs, 1500);
        assert!(file.write(dir.path()).unwrap());
        let text = fs::read_to_string(dir.path().join(NAME)).unwrap();
        let expected = r#"{"version":1,"node":"n1","podCIDRs":["10.244.1.0/24","fd00:10:244:1::/64"],"mtu":1500}"#;
        assert_eq!(text.trim_end(), expected);
        assert!(!file.write(dir.path()).unwrap());
        assert!(NodeFile::new("n1", &cidrs, 9000).write(dir.path()).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let message = file.write(Path::new("/nonexistent")).unwrap_err().to_string();
        assert!(message.starts_with("/nonexistent/node.json: "), "{message}");
    }
}
