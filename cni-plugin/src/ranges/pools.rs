//! Addresses from IP pools: the pools that a pod gets its addresses from, and this node's blocks in
//! them.
//!
//! A pod's own annotations come from the runtime, which has them from the kubelet: exact, and
//! without the agent. Those of its namespace are in a file that the agent keeps. A namespace that
//! is missing there is waited for up to two seconds. If it is still missing and no namespace asks
//! for pools, the pod gets the default pools. Otherwise the runtime is asked to retry, because a
//! pod must not get an address of a wrong pool.

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use dataplane_common::types::ip_family::IpFamily;
use dataplane_host::contract::pools::{Namespace, NamespacesFile, PoolEntry, PoolRequest, PoolsFile};
use dataplane_host::contract::{self, AgentFile};
use dataplane_host::store::{Choice, Range, boot_id};
use serde_json::Value;

use crate::error::CniError;

/// The capability by which containerd and CRI-O hand over a pod's annotations.
const POD_ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";
/// Longest wait for a namespace that the agent has not yet written.
const WAIT: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(20);

/// The pools that a pod asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct PodPools {
    pub(super) request: PoolRequest,
    /// The pod's namespace, on which its pools depend too; `None`: the runtime did not name it.
    namespace: Option<String>,
}

/// Returns the pod's request: its own annotations, completed by those of its namespace.
pub(super) fn request(
    runtime_config: Option<&Value>,
    pod: Option<&str>,
    state_dir: &Path,
) -> Result<PodPools, CniError> {
    let namespace = pod.and_then(|pod| pod.split_once('/')).map(|(namespace, _)| namespace.to_owned());
    let annotations = runtime_config.and_then(|config| config.get(POD_ANNOTATIONS));
    let own = PoolRequest::from_annotations(|name| annotations?.get(name)?.as_str())
        .map_err(|e| CniError::Config { field: "runtimeConfig", reason: format!("the pod's {e}") })?;
    let theirs = match &namespace {
        Some(namespace) if own.ipv4_pools.is_none() || own.ipv6_pools.is_none() => of_namespace(namespace, state_dir)?,
        _ => PoolRequest::default(),
    };
    let request = PoolRequest {
        ipv4_pools: own.ipv4_pools.or(theirs.ipv4_pools),
        ipv6_pools: own.ipv6_pools.or(theirs.ipv6_pools),
        addresses: own.addresses,
    };
    Ok(PodPools { request, namespace })
}

fn of_namespace(namespace: &str, state_dir: &Path) -> Result<PoolRequest, CniError> {
    let deadline = Instant::now() + WAIT;
    loop {
        let file: NamespacesFile = contract::read(state_dir)?.unwrap_or_default();
        match file.get(namespace) {
            Namespace::Chosen(request) => return Ok(request),
            Namespace::Plain => return Ok(PoolRequest::default()),
            Namespace::Broken(reason) => {
                return Err(CniError::PoolsNotReady { reason: format!("namespace {namespace}: {reason}") });
            }
            Namespace::Unknown { possible } => {
                if Instant::now() < deadline {
                    std::thread::sleep(POLL);
                } else if possible {
                    let reason =
                        format!("the agent has not yet seen namespace {namespace}, which may ask for other pools");
                    return Err(CniError::PoolsNotReady { reason });
                } else {
                    return Ok(PoolRequest::default());
                }
            }
        }
    }
}

/// Returns the choice for each address of a pod, IPv4 first. Only what was read while the store is
/// locked may be used.
pub(super) fn choices(request: &PodPools, state_dir: &Path) -> Result<Vec<Choice>, CniError> {
    let Some(mut file) = contract::read::<PoolsFile>(state_dir)? else {
        return Err(CniError::NoNodeData { path: state_dir.join(PoolsFile::NAME).display().to_string() });
    };
    // Other nodes may have this node's blocks if its Node was deleted while the machine was off.
    if file.boot != boot_id()? {
        let reason = "the agent has not written this node's blocks since the machine started".into();
        return Err(CniError::PoolsNotReady { reason });
    }
    if file.pools.iter().any(|pool| pool.restricted) {
        let namespaces: NamespacesFile = contract::read(state_dir)?.unwrap_or_default();
        file.pools.retain(|pool| namespaces.permits(pool, request.namespace.as_deref()));
    }
    let request = &request.request;
    let mut choices = Vec::new();
    for family in IpFamily::BOTH {
        choices.extend(choice(&file, request, family)?);
    }
    if choices.is_empty() {
        return Err(CniError::PoolsNotReady { reason: "no pool is for pods of this node".into() });
    }
    Ok(choices)
}

/// Returns all of this node's blocks.
pub(super) fn blocks(state_dir: &Path) -> Result<Vec<Range>, CniError> {
    let file = contract::read::<PoolsFile>(state_dir)?.unwrap_or_default();
    file.pools.iter().flat_map(|pool| &pool.blocks).map(|block| Ok(Range::block(*block)?)).collect()
}

fn choice(file: &PoolsFile, request: &PoolRequest, family: IpFamily) -> Result<Option<Choice>, CniError> {
    let entries = match request.pools(family) {
        Some(names) => names.iter().map(|name| named(file, name, family)).collect::<Result<Vec<_>, _>>()?,
        None => default(file, family),
    };
    if let Some(address) = request.address(family) {
        let among = if request.pools(family).is_some() { entries } else { file.pools.iter().collect() };
        return fixed(&among, address).map(Some);
    }
    if entries.is_empty() {
        return Ok(None);
    }
    let ranges = entries.iter().flat_map(|pool| &pool.blocks).map(|block| Ok(Range::block(*block)?));
    let ranges = ranges.collect::<Result<Vec<_>, CniError>>()?;
    if ranges.is_empty() {
        let names: Vec<_> = entries.iter().map(|pool| pool.name.as_str()).collect();
        let reason = format!("this node has no block of {}; its agent has not claimed one yet", names.join(", "));
        return Err(CniError::PoolsNotReady { reason });
    }
    let excluded = entries.iter().flat_map(|pool| pool.reserved.iter().copied()).collect();
    Ok(Some(Choice { ranges, excluded, ..Choice::default() }))
}

fn default(file: &PoolsFile, family: IpFamily) -> Vec<&PoolEntry> {
    let find = |name: &String| file.pools.iter().find(|pool| pool.name == *name && family.has(pool.cidr.ip()));
    file.default.iter().filter_map(find).collect()
}

fn named<'a>(file: &'a PoolsFile, name: &str, family: IpFamily) -> Result<&'a PoolEntry, CniError> {
    let Some(entry) = file.pools.iter().find(|pool| pool.name == *name) else {
        let reason =
            format!("pool {name}: there is none of that name, or it is disabled, or not for this node or namespace");
        return Err(CniError::PoolsNotReady { reason });
    };
    if family.has(entry.cidr.ip()) {
        return Ok(entry);
    }
    Err(rejected(&format!("pool {name} ({}) is asked for an {family} address", entry.cidr)))
}

/// Returns the choice for a requested address: only of a pool that allows it, and only from this
/// node's blocks.
fn fixed(among: &[&PoolEntry], address: IpAddr) -> Result<Choice, CniError> {
    let Some(pool) = among.iter().find(|pool| pool.cidr.contains(address)) else {
        return Err(rejected(&format!("address {address} is in none of the pools that the pod may use on this node")));
    };
    if !pool.allow_fixed_addresses {
        return Err(rejected(&format!("address {address}: pool {} does not allow fixed addresses", pool.name)));
    }
    let Some(block) = pool.blocks.iter().find(|block| block.contains(address)) else {
        let reason = format!("address {address} is in no block of this node; its agent claims the block if it is free");
        return Err(CniError::PoolsNotReady { reason });
    };
    Ok(Choice { fixed: Some(address), ..Range::block(*block)?.into() })
}

fn rejected(reason: &str) -> CniError {
    CniError::Config { field: "runtimeConfig", reason: format!("annotations: {reason}") }
}

#[cfg(test)]
mod tests;
