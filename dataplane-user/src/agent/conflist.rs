//! Writes the CNI configuration list once this node can serve pods, and watches over it.
//!
//! kubelet reports the node Ready when the file appears, so it is written after the maps are in
//! sync and the plugin knows the node's ranges. The file is never removed: pods are attached and
//! detached while an agent is replaced. Other plugins' files are reported and never touched.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::watch;
use tracing::{error, info};

use dataplane_host::contract::pools::PoolsFile;
use dataplane_host::contract::{self, AgentFile, NodeFile};
use dataplane_host::durable;

use crate::config::{Config, Ipam};
use crate::proxy::controller::Snapshot;

/// Interval of checks before the file is written, and of retries after a failure.
const PAUSE: Duration = Duration::from_millis(500);
/// Interval of checks that the runtime still uses the file.
const AUDIT: Duration = Duration::from_secs(10);

/// State of the runtime's configuration directory.
#[derive(Debug, PartialEq, Eq)]
enum ConflistState {
    /// The file has been written.
    Written,
    /// The file exists and is up to date.
    Present,
    /// The runtime uses this other file, which sorts first.
    Rival(PathBuf),
}

/// Waits until the maps are in sync and the plugin knows the node's ranges, then writes the file.
///
/// Afterwards it checks at intervals that the runtime uses the file, and logs when that changes.
pub async fn publish(config: Arc<Config>, mut snapshots: watch::Receiver<Arc<Snapshot>>) {
    let Some(path) = &config.cni_conflist else { return };
    if snapshots.wait_for(|s| s.synced).await.is_err() {
        return;
    }
    while !has_addresses(&config) {
        tokio::time::sleep(PAUSE).await;
    }
    let text = content(&config);
    let mut said = None;
    loop {
        let complaint = match settle(path, &text) {
            Ok(ConflistState::Written) => {
                info!(path = %path.display(), "CNI configuration written: this node can serve pods");
                None
            }
            Ok(ConflistState::Present) => None,
            Ok(ConflistState::Rival(rival)) => Some(format!(
                "{}: the container runtime takes this CNI configuration and not {}, which sorts after it: drain the pods of the \
                 other plugin and remove its file, or give --cni-conflist a name that sorts before it",
                rival.display(),
                path.display()
            )),
            Err(e) => {
                Some(format!("--cni-conflist {}: cannot write the CNI configuration: {e}; retrying", path.display()))
            }
        };
        if complaint != said {
            if let Some(text) = &complaint {
                error!("{text}");
            } else {
                info!(path = %path.display(), "the container runtime takes our CNI configuration again");
            }
        }
        tokio::time::sleep(if complaint.is_some() { PAUSE } else { AUDIT }).await;
        said = complaint;
    }
}

/// Writes the file if it is missing or outdated.
///
/// Beside a rival a missing file is not created: kubelet would report the node Ready although pods
/// get the other plugin's network. An existing file is kept up to date.
fn settle(path: &Path, text: &str) -> io::Result<ConflistState> {
    let rival = rival(path)?;
    if let Some(rival) = rival {
        if path.exists() {
            write(path, text)?;
        }
        return Ok(ConflistState::Rival(rival));
    }
    write(path, text).map(|written| if written { ConflistState::Written } else { ConflistState::Present })
}

/// Returns the configuration file that sorts before `path`: runtimes use the first by name.
fn rival(path: &Path) -> io::Result<Option<PathBuf>> {
    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let is_read = |other: &Path| other.extension().is_some_and(|e| e == "conflist" || e == "conf" || e == "json");
    let mut first: Option<PathBuf> = None;
    for entry in fs::read_dir(directory)? {
        let other = entry?.path();
        if is_read(&other) && other.file_name() < path.file_name() && first.as_ref().is_none_or(|f| other < *f) {
            first = Some(other);
        }
    }
    Ok(first)
}

/// Returns true if node.json exists and, in pool mode, the node has a block.
fn has_addresses(config: &Config) -> bool {
    let has_blocks = |file: PoolsFile| file.pools.iter().any(|pool| !pool.blocks.is_empty());
    config.state_dir.join(NodeFile::NAME).exists()
        && (config.ipam != Ipam::Pools
            || contract::read(&config.state_dir).is_ok_and(|file| file.is_some_and(has_blocks)))
}

fn content(config: &Config) -> String {
    let mut capabilities = json!({"portMappings": true, "bandwidth": true, "ips": true, "mac": true, "dns": true});
    if config.ipam == Ipam::Pools {
        // Pods choose pools by annotations; the runtime passes them if the capability is set.
        capabilities["io.kubernetes.cri.pod-annotations"] = true.into();
    }
    let plugin = json!({
        "type": "ropeway-cni",
        "pinRoot": config.pin_root,
        "stateDir": config.state_dir,
        "capabilities": capabilities,
    });
    let list = json!({
        "cniVersion": "1.1.0",
        "name": "ropeway",
        "plugins": [plugin],
    });
    format!("{list:#}\n")
}

fn write(path: &Path, text: &str) -> io::Result<bool> {
    // Runtimes ignore the temporary name: they read .conflist, .conf and .json only.
    durable::replace(path, &path.with_extension("next"), durable::Mode::Exact(0o644), text.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::config::Options;
    use dataplane_host::contract::pools;

    fn config(dir: &Path) -> Config {
        let o = Options {
            node_name: Some("n1".into()),
            state_dir: Some(dir.join("state")),
            cni_conflist: Some(dir.join("10-ropeway.conflist")),
            ..Options::default()
        };
        Config::new(o).unwrap()
    }

    #[test]
    fn is_written_once_and_names_the_plugin() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        let path = config.cni_conflist.clone().unwrap();
        assert!(write(&path, &content(&config)).unwrap());
        assert!(!write(&path, &content(&config)).unwrap());
        let list: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(list["plugins"][0]["type"], "ropeway-cni");
        for capability in ["portMappings", "bandwidth", "ips", "mac", "dns"] {
            assert_eq!(list["plugins"][0]["capabilities"][capability], true, "{capability}");
        }
        assert_eq!(list["plugins"][0]["stateDir"], config.state_dir.to_str().unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn conflist_is_writable_by_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("10-ropeway.conflist");
        let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert!(write(&path, "list").unwrap());
        assert_eq!(mode(), 0o644);
        // An earlier version wrote the file with the umask of the container, which may be 0.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(write(&path, "list").unwrap(), "the mode is corrected");
        assert_eq!(mode(), 0o644);
    }

    #[tokio::test]
    async fn conflist_waits_for_tables_and_ranges() {
        let dir = tempfile::tempdir().unwrap();
        let config = Arc::new(config(dir.path()));
        let path = config.cni_conflist.clone().unwrap();
        let (sender, receiver) = watch::channel(Arc::new(Snapshot::default()));
        let task = tokio::spawn(publish(Arc::clone(&config), receiver));
        sender.send(Arc::new(Snapshot { synced: true, ..Snapshot::default() })).unwrap();
        tokio::time::sleep(PAUSE).await;
        assert!(!path.exists());
        fs::create_dir_all(&config.state_dir).unwrap();
        fs::write(config.state_dir.join(NodeFile::NAME), "{}").unwrap();
        appears(&path).await;
        task.abort();
    }

    #[test]
    fn pool_mode_waits_for_a_block_and_requests_annotations() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path());
        config.ipam = Ipam::Pools;
        let list: serde_json::Value = serde_json::from_str(&content(&config)).unwrap();
        assert_eq!(list["plugins"][0]["capabilities"]["io.kubernetes.cri.pod-annotations"], true);
        fs::create_dir_all(&config.state_dir).unwrap();
        fs::write(config.state_dir.join(NodeFile::NAME), "{}").unwrap();
        assert!(!has_addresses(&config));
        let mut entry = pools::PoolEntry {
            name: "a".into(),
            cidr: "10.1.0.0/16".parse().unwrap(),
            allow_fixed_addresses: false,
            restricted: false,
            reserved: vec![],
            blocks: vec![],
        };
        for has_block in [false, true] {
            entry.blocks.extend(has_block.then(|| "10.1.0.0/26".parse::<ipnetwork::IpNetwork>().unwrap()));
            let file = PoolsFile { version: pools::VERSION, pools: vec![entry.clone()], ..PoolsFile::default() };
            contract::write(&config.state_dir, &file).unwrap();
            assert_eq!(has_addresses(&config), has_block);
        }
    }

    async fn appears(path: &Path) {
        tokio::time::timeout(Duration::from_secs(10), async {
            while !path.exists() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
        .unwrap();
    }

    #[test]
    fn preferred_configuration_of_another_plugin_is_named_and_nothing_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("10-ropeway.conflist");
        for harmless in ["10-ropeway.next", "05-note.txt", "20-other.conflist"] {
            fs::write(dir.path().join(harmless), "").unwrap();
        }
        let (first, second) = (dir.path().join("05-mesh.conf"), dir.path().join("10-calico.conflist"));
        for rival in [&first, &second] {
            fs::write(rival, "").unwrap();
        }
        assert_eq!(settle(&path, "list").unwrap(), ConflistState::Rival(first.clone()));
        fs::remove_file(&first).unwrap();
        assert_eq!(settle(&path, "list").unwrap(), ConflistState::Rival(second.clone()));
        assert!(!path.exists());
        fs::remove_file(&second).unwrap();
        assert_eq!(settle(&path, "list").unwrap(), ConflistState::Written);
        assert_eq!(settle(&path, "list").unwrap(), ConflistState::Present);
        fs::write(&second, "").unwrap();
        assert_eq!(settle(&path, "list").unwrap(), ConflistState::Rival(second));
        assert!(path.exists());
    }
}
