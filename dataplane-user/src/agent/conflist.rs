//! The CNI configuration list: written when this node can serve pods, because kubelet takes it as the sign of that.
//!
//! It is never removed here: pods come and go also while the agent is replaced.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::watch;
use tracing::{error, info};

use crate::config::Config;
use crate::controller::Snapshot;
use crate::node::file;

/// How often it is looked at whether the plugin has what it needs, and how soon a failed write is tried again.
const PAUSE: Duration = Duration::from_millis(500);

/// Waits until the tables are complete and the plugin knows the node's ranges, then writes the list.
pub async fn offer(config: Arc<Config>, mut snapshots: watch::Receiver<Arc<Snapshot>>) {
    let Some(path) = &config.cni_conflist else { return };
    if snapshots.wait_for(|s| s.synced).await.is_err() {
        return;
    }
    while !config.state_dir.join(file::NAME).exists() {
        tokio::time::sleep(PAUSE).await;
    }
    let text = content(&config);
    let mut reported = false;
    loop {
        match write(path, &text) {
            Ok(true) => return info!(path = %path.display(), "this node can serve pods: CNI configuration written"),
            Ok(false) => return,
            Err(e) if !reported => {
                error!("--cni-conflist {}: {e}; trying again", path.display());
                reported = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn content(config: &Config) -> String {
    let list = json!({
        "cniVersion": "1.1.0",
        "name": "ropeway",
        "plugins": [{"type": "ropeway-cni", "pinRoot": config.pin_root, "stateDir": config.state_dir}],
    });
    format!("{list:#}\n")
}

/// Writes the file unless it says just that; a reader sees the old content or the new one.
fn write(path: &Path, text: &str) -> io::Result<bool> {
    if fs::read_to_string(path).is_ok_and(|present| present == text) {
        return Ok(false);
    }
    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    // Runtimes read the files that end in .conflist, .conf or .json.
    let next: PathBuf = path.with_extension("next");
    let mut file = File::create(&next)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&next, path)?;
    File::open(directory)?.sync_all()?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Options;

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
        assert_eq!(list["plugins"][0]["stateDir"], config.state_dir.to_str().unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn waits_for_tables_and_ranges() {
        let dir = tempfile::tempdir().unwrap();
        let config = Arc::new(config(dir.path()));
        let path = config.cni_conflist.clone().unwrap();
        let (sender, receiver) = watch::channel(Arc::new(Snapshot::default()));
        let task = tokio::spawn(offer(Arc::clone(&config), receiver));
        sender.send(Arc::new(Snapshot { synced: true, ..Snapshot::default() })).unwrap();
        tokio::time::sleep(PAUSE).await;
        assert!(!path.exists());
        fs::create_dir_all(&config.state_dir).unwrap();
        fs::write(config.state_dir.join(file::NAME), "{}").unwrap();
        task.await.unwrap();
        assert!(path.exists());
    }
}
