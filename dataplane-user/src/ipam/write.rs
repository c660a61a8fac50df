//! Executes the planner's decisions: writes the plugin's files under the store's lock, and creates,
//! changes and deletes `IPBlock` objects.
//!
//! Called by [`super::task`]; no other module writes them. Every change or deletion of an object
//! carries the `resourceVersion` that the planner saw. The API server rejects it with a conflict if
//! the object has changed since.

use std::collections::HashSet;
use std::future::Future;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use dataplane_host::contract::pools::{NamespacesFile, PoolsFile, VERSION};
use dataplane_host::contract::{self, FileError};
use dataplane_host::store::{AddressStore, LOCK_DEADLINE, StoreError, boot_id};
use k8s_openapi::api::core::v1::Node;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client};
use serde_json::json;
use tracing::info;

use super::crd::{IpBlock, IpBlockSpec, LentPart};
use super::plan::{BlockAction, Lent, ObjectVersion, PoolDecision, Sharing};
use super::pool::block_name;
use crate::api::{Late, within};

/// Status codes of the API server for a change that comes too late: 404 Not Found, 409 Conflict.
const TOO_LATE: [u16; 2] = [404, 409];

/// The reason why a write failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum WriteError {
    /// The address store can't be opened, locked or read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file for the plugin can't be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The API server rejected the request or can't be reached.
    #[error("cannot {attempt}: {source}")]
    Api { attempt: String, source: Box<kube::Error> },
    /// The API server has accepted the request and does not answer.
    #[error("cannot {attempt}: {late}")]
    Late { attempt: String, late: Late },
}

/// Returns the addresses that this node's pods hold.
pub(super) fn held(state_dir: &Path) -> Result<HashSet<IpAddr>, WriteError> {
    let store = AddressStore::open(state_dir)?;
    Ok(store.lock(LOCK_DEADLINE)?.held_addresses()?)
}

/// Writes the requests of all namespaces for the plugin. Returns false if the file was up to date.
pub(super) fn namespaces(state_dir: &Path, file: &NamespacesFile) -> Result<bool, WriteError> {
    Ok(contract::write(state_dir, file)?)
}

/// Writes the blocks that the plugin may use.
///
/// Returns `false`, and writes nothing, if a pod has got an address of a range that was to be given
/// away.
pub(super) fn pools(state_dir: &Path, node: &str, decision: &PoolDecision) -> Result<bool, WriteError> {
    let (default, pools) = (decision.default.clone(), decision.pools.clone());
    let file = PoolsFile { version: VERSION, node: node.into(), boot: boot_id()?, default, pools };
    let store = AddressStore::open(state_dir)?;
    let locked = store.lock(LOCK_DEADLINE)?;
    // The decision is older than the lock: a pod may have got an address in between.
    let going: Vec<_> = decision.actions.iter().filter_map(BlockAction::given).collect();
    if !going.is_empty() {
        let held = locked.held_addresses()?;
        if held.iter().any(|address| going.iter().any(|block| block.contains(*address))) {
            return Ok(false);
        }
    }
    // Written under the lock: the plugin reads the file after it has taken the lock.
    contract::write(state_dir, &file)?;
    drop(locked);
    Ok(true)
}

/// Changes block objects. Every request has a limit.
pub(super) struct BlockWriter {
    pub(super) client: Client,
    pub(super) limit: Duration,
}

impl BlockWriter {
    fn blocks(&self) -> Api<IpBlock> {
        Api::all(self.client.clone())
    }

    /// Executes one action. Losing against another writer is no error: the watch will show the
    /// result.
    pub(super) async fn act(&self, node: &str, action: &BlockAction) -> Result<(), WriteError> {
        match action {
            BlockAction::Claim { pool, cidr } => {
                let (cidr_text, node) = (cidr.to_string(), node.into());
                let spec = IpBlockSpec { cidr: cidr_text, pool: pool.clone(), node, ..IpBlockSpec::default() };
                let object = IpBlock::new(&block_name(*cidr), spec);
                let request = async { self.blocks().create(&PostParams::default(), &object).await };
                if self.change(format!("claim block {cidr}"), request).await? {
                    info!(%cidr, pool, "block claimed");
                }
            }
            BlockAction::Release { name, cidr, state } => {
                if self.remove(name, state).await? {
                    info!(%cidr, "block given back");
                }
            }
            BlockAction::Collect { name, nodes, state } => {
                // Asked once more, because the watch of Nodes may be behind.
                if self.are_gone(nodes).await? && self.remove(name, state).await? {
                    info!(block = name, ?nodes, "block of a deleted node collected");
                }
            }
            BlockAction::Share { name, sharing, state, gone, .. } => {
                if self.are_gone(gone).await? && self.share(name, sharing, state).await? {
                    info!(block = name, ?sharing, "lent parts of a block changed");
                }
            }
        }
        Ok(())
    }

    /// Asks the API server and returns true if none of these nodes exists.
    async fn are_gone(&self, nodes: &[String]) -> Result<bool, WriteError> {
        let objects = Api::<Node>::all(self.client.clone());
        for node in nodes {
            if self.send(format!("get Node {node}"), objects.get_metadata_opt(node)).await?.is_some() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn share(&self, name: &str, sharing: &Sharing, state: &ObjectVersion) -> Result<bool, WriteError> {
        let part = |part: &Lent| LentPart { cidr: part.cidr.to_string(), node: part.node.clone() };
        let lent: Vec<_> = sharing.lent.iter().map(part).collect();
        let patch = json!({
            "metadata": { "uid": state.uid, "resourceVersion": state.version },
            // In a merge patch, null removes a field.
            "spec": { "lent": (!lent.is_empty()).then_some(lent), "asked": sharing.asked },
        });
        let request = async { self.blocks().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await };
        self.change(format!("change IPBlock {name}"), request).await
    }

    async fn remove(&self, name: &str, state: &ObjectVersion) -> Result<bool, WriteError> {
        let (uid, resource_version) = (Some(state.uid.clone()), Some(state.version.clone()));
        let preconditions = Some(Preconditions { resource_version, uid });
        let params = DeleteParams { preconditions, ..DeleteParams::default() };
        let request = async { self.blocks().delete(name, &params).await };
        self.change(format!("remove IPBlock {name}"), request).await
    }

    /// Returns true if the request succeeded, and false if another writer was first.
    async fn change<T>(
        &self,
        attempt: String,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<bool, WriteError> {
        match self.send(attempt, request).await {
            Ok(_) => Ok(true),
            Err(WriteError::Api { source, .. }) if is_too_late(&source) => Ok(false),
            Err(e) => Err(e),
        }
    }

    async fn send<T>(&self, attempt: String, request: impl Future<Output = kube::Result<T>>) -> Result<T, WriteError> {
        let limited = within(self.limit, async { request.await.map_err(RequestError::from) }).await;
        limited.map_err(|error| match error {
            RequestError::Api(source) => WriteError::Api { attempt, source: Box::new(source) },
            RequestError::Late(late) => WriteError::Late { attempt, late },
        })
    }
}

/// The reason why a request failed.
#[derive(Debug, thiserror::Error)]
enum RequestError {
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error(transparent)]
    Late(#[from] Late),
}

fn is_too_late(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if TOO_LATE.contains(&status.code))
}
