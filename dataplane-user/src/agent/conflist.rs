//! Writes the CNI configuration list once this node can serve pods, and watches over it.
//!
//! kubelet reports the node Ready when the file appears, so it is written after the maps are in
//! sync and the plugin knows the node's ranges. The file is never removed: pods are attached and
//! detached while an agent is replaced. Plugins that others have added to the list stay in it.
//! Other plugins' files are reported and never touched.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
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
/// Name of the plugin's program.
const PLUGIN: &str = "ropeway-cni";
/// Plugins that call the cluster's own plugin, whose configuration they look for in the directory.
const META_PLUGINS: [&str; 2] = ["multus", "multus-shim"];

/// State of the runtime's configuration directory.
#[derive(Debug, PartialEq, Eq)]
enum ConflistState {
    /// The file has been written.
    Written,
    /// The file exists and is up to date.
    Present,
    /// The runtime uses this other file, which sorts first and does not lead to the plugin.
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
    let list = content(&config);
    let mut said = None;
    loop {
        let complaint = match settle(path, &list) {
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
fn settle(path: &Path, list: &Value) -> io::Result<ConflistState> {
    let rival = rival(path)?;
    let present = match fs::read(path) {
        Ok(text) => Some(text),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(e),
    };
    let merged = format!("{:#}\n", merged(list.clone(), present.as_deref()));
    if let Some(rival) = rival {
        if present.is_some() {
            write(path, &merged)?;
        }
        return Ok(ConflistState::Rival(rival));
    }
    write(path, &merged).map(|written| if written { ConflistState::Written } else { ConflistState::Present })
}

/// Returns the list with the plugins that others have added to the present file, in their places.
/// Service meshes (`istio-cni`, `linkerd-cni`) and administrators do so. A file that is not a list
/// of this plugin is replaced.
fn merged(mut list: Value, present: Option<&[u8]>) -> Value {
    let present: Option<Value> = present.and_then(|text| serde_json::from_slice(text).ok());
    let Some(chain) = present.as_ref().and_then(|list| list["plugins"].as_array()) else { return list };
    let is_ours = |plugin: &&Value| plugin["type"] == PLUGIN;
    let Some(place) = chain.iter().position(|plugin| is_ours(&plugin)) else { return list };
    let (before, after) = chain.split_at(place);
    let others = |plugins: &[Value]| plugins.iter().filter(|plugin| !is_ours(plugin)).cloned().collect::<Vec<_>>();
    if let Some(plugins) = list["plugins"].as_array_mut() {
        plugins.splice(0..0, others(before));
        plugins.extend(others(after));
    }
    list
}

/// Returns the configuration file that sorts before `path`: runtimes use the first by name. A file
/// that leads to the plugin is none.
fn rival(path: &Path) -> io::Result<Option<PathBuf>> {
    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let is_read = |other: &Path| other.extension().is_some_and(|e| e == "conflist" || e == "conf" || e == "json");
    let mut before = Vec::new();
    for entry in fs::read_dir(directory)? {
        let other = entry?.path();
        if is_read(&other) && other.file_name() < path.file_name() {
            before.push(other);
        }
    }
    before.sort();
    // Runtimes go on to the next file if one can't be parsed.
    let first = before.into_iter().find_map(|other| {
        let list = serde_json::from_slice::<Value>(&fs::read(&other).ok()?).ok()?;
        Some((other, list))
    });
    Ok(first.filter(|(_, list)| !leads_to_plugin(list)).map(|(other, _)| other))
}

/// Returns true if a configuration calls this plugin: by a chain that contains it, as service
/// meshes write, or by a meta-plugin.
fn leads_to_plugin(configuration: &Value) -> bool {
    let kind =
        |plugin: &Value| plugin["type"].as_str().is_some_and(|kind| kind == PLUGIN || META_PLUGINS.contains(&kind));
    kind(configuration) || configuration["plugins"].as_array().is_some_and(|chain| chain.iter().any(kind))
}

/// Returns true if node.json exists and, in pool mode, the node has a block.
fn has_addresses(config: &Config) -> bool {
    let has_blocks = |file: PoolsFile| file.pools.iter().any(|pool| !pool.blocks.is_empty());
    config.state_dir.join(NodeFile::NAME).exists()
        && (config.ipam != Ipam::Pools
            || contract::read(&config.state_dir).is_ok_and(|file| file.is_some_and(has_blocks)))
}

fn content(config: &Config) -> Value {
    let mut capabilities = json!({"portMappings": true, "bandwidth": true, "ips": true, "mac": true, "dns": true});
    if config.ipam == Ipam::Pools {
        // Pods choose pools by annotations; the runtime passes them if the capability is set.
        capabilities["io.kubernetes.cri.pod-annotations"] = true.into();
    }
    let plugin = json!({
        "type": PLUGIN,
        "pinRoot": config.pin_root,
        "stateDir": config.state_dir,
        "capabilities": capabilities,
    });
    json!({
        "cniVersion": "1.1.0",
        "name": "ropeway",
        "plugins": [plugin],
    })
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
        assert_eq!(settle(&path, &content(&config)).unwrap(), ConflistState::Written);
        assert_eq!(settle(&path, &content(&config)).unwrap(), ConflistState::Present);
        let list = read(&path);
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
        let list = content(&config);
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

    fn read(path: &Path) -> Value {
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    }

    #[test]
    fn plugins_that_others_added_to_the_chain_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("10-ropeway.conflist");
        let ours = json!({"cniVersion": "1.1.0", "name": "ropeway", "plugins": [{"type": PLUGIN, "stateDir": "/new"}]});
        let chain = json!([{"type": "first"}, {"type": PLUGIN, "stateDir": "/old"}, {"type": "istio-cni", "x": 1}]);
        fs::write(&path, json!({"cniVersion": "0.3.1", "name": "ropeway", "plugins": chain}).to_string()).unwrap();
        assert_eq!(settle(&path, &ours).unwrap(), ConflistState::Written);
        let kept = json!([{"type": "first"}, {"type": PLUGIN, "stateDir": "/new"}, {"type": "istio-cni", "x": 1}]);
        assert_eq!(read(&path), json!({"cniVersion": "1.1.0", "name": "ropeway", "plugins": kept}));
        assert_eq!(settle(&path, &ours).unwrap(), ConflistState::Present);
        for foreign in ["", "no JSON", "{}", r#"{"plugins": [{"type": "calico"}]}"#, r#"{"plugins": {}}"#] {
            fs::write(&path, foreign).unwrap();
            assert_eq!(settle(&path, &ours).unwrap(), ConflistState::Written, "{foreign}");
            assert_eq!(read(&path), ours, "{foreign}");
        }
    }

    #[test]
    fn configuration_that_calls_the_plugin_is_no_rival() {
        for first in [
            r#"{"type": "multus", "delegates": [], "readinessindicatorfile": "/etc/cni/net.d/10-ropeway.conflist"}"#,
            r#"{"type": "multus-shim", "name": "multus-cni-network"}"#,
            r#"{"name": "istio", "plugins": [{"type": "ropeway-cni"}, {"type": "istio-cni"}]}"#,
        ] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("10-ropeway.conflist");
            fs::write(dir.path().join("00-first.conf"), first).unwrap();
            assert_eq!(settle(&path, &json!({"plugins": []})).unwrap(), ConflistState::Written, "{first}");
            // The runtime does not look at the files behind it.
            fs::write(dir.path().join("05-calico.conflist"), "{}").unwrap();
            assert_eq!(settle(&path, &json!({"plugins": []})).unwrap(), ConflistState::Present, "{first}");
        }
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
            fs::write(rival, r#"{"type": "other"}"#).unwrap();
        }
        fs::write(dir.path().join("00-broken.conf"), "not JSON, so runtimes skip it").unwrap();
        let list = json!({"plugins": []});
        assert_eq!(settle(&path, &list).unwrap(), ConflistState::Rival(first.clone()));
        fs::remove_file(&first).unwrap();
        assert_eq!(settle(&path, &list).unwrap(), ConflistState::Rival(second.clone()));
        assert!(!path.exists());
        fs::remove_file(&second).unwrap();
        assert_eq!(settle(&path, &list).unwrap(), ConflistState::Written);
        assert_eq!(settle(&path, &list).unwrap(), ConflistState::Present);
        fs::write(&second, r#"{"type": "other"}"#).unwrap();
        assert_eq!(settle(&path, &list).unwrap(), ConflistState::Rival(second));
        assert!(path.exists());
    }
}
