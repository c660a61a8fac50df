//! Watches the objects of pool mode: pools, blocks, namespaces, this node and its pods.
//!
//! Keeps only metadata of the last three kinds. [`Objects::view`] gives the task a validated
//! snapshot with a message for each object that is invalid. Nothing is written to the API server
//! here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dataplane_common::types::ip_family::IpFamily;
use dataplane_host::contract::pools::{NamespacesFile, PoolRequest, VERSION};
use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::{self, Store, store::Writer};
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;

use super::crd::{IpBlock, IpPool};
use super::plan::{Block, Lent, ObjectVersion, Sharing};
use super::pool::{Pool, covers, overlap};
use crate::api::{ApiServer, Collection, ListWatch, WatchErrors};

type Meta<K> = PartialObjectMeta<K>;

/// The readable stores of all watched kinds.
pub(super) struct Objects {
    pools: Store<IpPool>,
    blocks: Store<IpBlock>,
    namespaces: Store<Meta<Namespace>>,
    node: Store<Meta<Node>>,
    pods: Store<Meta<Pod>>,
}

/// The writing side of the stores, which the watches keep up to date.
pub(super) struct Writers {
    pools: Writer<IpPool>,
    blocks: Writer<IpBlock>,
    namespaces: Writer<Meta<Namespace>>,
    node: Writer<Meta<Node>>,
    pods: Writer<Meta<Pod>>,
}

/// A validated snapshot of all objects.
#[derive(Clone, Debug, Default)]
pub(super) struct PoolView {
    pub(super) pools: Vec<Pool>,
    pub(super) blocks: BTreeMap<String, Block>,
    pub(super) labels: Option<BTreeMap<String, String>>,
    pub(super) requests: BTreeSet<PoolRequest>,
    pub(super) namespaces: NamespacesFile,
    pub(super) problems: Vec<String>,
}

pub(super) fn objects() -> (Objects, Writers) {
    let ((pools, w1), (blocks, w2)) = (reflector::store(), reflector::store());
    let ((namespaces, w3), (node, w4), (pods, w5)) = (reflector::store(), reflector::store(), reflector::store());
    let writers = Writers { pools: w1, blocks: w2, namespaces: w3, node: w4, pods: w5 };
    (Objects { pools, blocks, namespaces, node, pods }, writers)
}

impl Writers {
    /// Watches for ever and notifies `changed` of every change.
    ///
    /// # Errors
    /// The client can't be created.
    pub(super) async fn run(
        self,
        server: &ApiServer,
        watch_errors: &WatchErrors,
        node: &str,
        changed: &Notify,
    ) -> kube::Result<()> {
        let this_node = Collection::all::<Meta<Node>>().fields(&format!("metadata.name={node}"));
        let its_pods = Collection::all::<Meta<Pod>>().fields(&format!("spec.nodeName={node}"));
        // An old list of blocks could show one that this node has given back before it was
        // restarted, and that another node uses by now (I17).
        let blocks = Collection::all::<IpBlock>().latest();
        tokio::try_join!(
            watch(server, "IPPool", Collection::all::<IpPool>(), watch_errors, self.pools, changed),
            watch(server, "IPBlock", blocks, watch_errors, self.blocks, changed),
            watch(server, "Namespace", Collection::all::<Meta<Namespace>>(), watch_errors, self.namespaces, changed),
            watch(server, "Node (own)", this_node, watch_errors, self.node, changed),
            watch(server, "Pod", its_pods, watch_errors, self.pods, changed),
        )?;
        Ok(())
    }
}

async fn watch<K>(
    server: &ApiServer,
    kind: &'static str,
    objects: Collection,
    watch_errors: &WatchErrors,
    mut writer: Writer<K>,
    changed: &Notify,
) -> kube::Result<()>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + 'static,
{
    let mut watch = ListWatch::<K>::new(server, kind, objects)?;
    loop {
        match watch.next().await {
            Ok(event) => {
                // managedFields are large and not needed.
                let event = event.modify(|object| object.managed_fields_mut().clear());
                writer.apply_watcher_event(&event);
            }
            Err(error) => drop(watch_errors.report(&K::kind(&()), &error)),
        }
        changed.notify_one();
    }
}

impl Objects {
    /// Waits until the list of every kind has been complete once.
    pub(super) async fn ready(&self) {
        let waits = tokio::join!(
            self.pools.wait_until_ready(),
            self.blocks.wait_until_ready(),
            self.namespaces.wait_until_ready(),
            self.node.wait_until_ready(),
            self.pods.wait_until_ready(),
        );
        if let (Ok(()), Ok(()), Ok(()), Ok(()), Ok(())) = waits {
            return;
        }
        // The writers are gone because the task is being dropped; it must not continue without
        // them.
        std::future::pending::<()>().await;
    }

    pub(super) fn view(&self) -> PoolView {
        let mut view =
            PoolView { labels: self.node.state().first().map(|n| n.labels().clone()), ..PoolView::default() };
        view.take_pools(self.pools.state());
        for object in self.blocks.state() {
            match block(&object) {
                Ok(block) => drop(view.blocks.insert(object.name_any(), block)),
                Err(problem) => view.problem(format!("IPBlock {}: {problem}", object.name_any())),
            }
        }
        // Before the pods, which inherit the requests of their namespaces.
        view.take_namespaces(self.namespaces.state());
        for object in self.pods.state() {
            view.take_pod(&object.metadata);
        }
        view
    }
}

fn block(object: &IpBlock) -> Result<Block, String> {
    let spec = &object.spec;
    let cidr: IpNetwork = spec.cidr.parse().map_err(|_| format!("spec.cidr: {:?}", spec.cidr))?;
    let lent = spec.lent.iter().map(|part| match part.cidr.parse() {
        Ok(part_cidr) if covers(cidr, part_cidr) => Ok(Lent { cidr: part_cidr, node: part.node.clone() }),
        _ => Err(format!("spec.lent: {:?} is no part of {cidr}", part.cidr)),
    });
    let sharing = Sharing { lent: lent.collect::<Result<_, _>>()?, asked: spec.asked.clone() };
    // An empty precondition would allow every change, so a block without these is not used.
    let missing = |field: &str| format!("metadata.{field} is missing");
    let uid = object.uid().filter(|uid| !uid.is_empty()).ok_or_else(|| missing("uid"))?;
    let version = object.resource_version().filter(|v| !v.is_empty()).ok_or_else(|| missing("resourceVersion"))?;
    let created = object.creation_timestamp().ok_or_else(|| missing("creationTimestamp"))?.0.to_string();
    let state = ObjectVersion { uid, version };
    Ok(Block { cidr, pool: spec.pool.clone(), node: spec.node.clone(), created, state, sharing })
}

impl PoolView {
    fn problem(&mut self, problem: String) {
        self.problems.push(problem);
    }

    /// Takes valid pools. Of two that overlap, the older one wins.
    fn take_pools(&mut self, mut objects: Vec<Arc<IpPool>>) {
        // By age, then by name, so that all nodes keep the same pools.
        objects.sort_by_key(|o| (o.creation_timestamp(), o.name_any()));
        for object in objects {
            let name = object.name_any();
            match Pool::new(&name, &object.spec) {
                Ok(pool) => match self.pools.iter().find(|other| overlap(other.cidr, pool.cidr)) {
                    Some(other) => {
                        let problem = format!("IPPool {name}: {} overlaps {} of {}", pool.cidr, other.cidr, other.name);
                        self.problem(problem);
                    }
                    None => self.pools.push(pool),
                },
                Err(reason) => self.problem(format!("IPPool {name}: {reason}")),
            }
        }
    }

    fn take_namespaces(&mut self, objects: Vec<Arc<Meta<Namespace>>>) {
        self.namespaces.version = VERSION;
        for pool in &self.pools {
            let Some(selector) = &pool.namespaces else { continue };
            let names = objects.iter().filter(|o| selector.matches(o.labels())).map(|o| o.name_any());
            self.namespaces.permitted.insert(pool.name.clone(), names.collect());
        }
        for object in objects {
            let name = object.name_any();
            match request(&object.metadata) {
                Ok(request) => {
                    // A namespace can't ask for one address for all its pods.
                    let request = PoolRequest { addresses: Vec::new(), ..request };
                    if request.is_empty() {
                        self.namespaces.plain.push(name);
                    } else {
                        self.namespaces.chosen.insert(name, request);
                    }
                }
                Err(reason) => {
                    self.problem(format!("Namespace {name}: {reason}"));
                    self.namespaces.broken.insert(name, reason);
                }
            }
        }
        self.namespaces.plain.sort();
    }

    /// Returns true unless a request is for a pool that the namespace may not use: the plugin
    /// rejects it, and no block is claimed for it.
    fn permits(&self, request: &PoolRequest, namespace: &str) -> bool {
        let asked = |pool: &Pool| {
            IpFamily::BOTH.iter().filter_map(|family| request.pools(*family)).flatten().any(|name| *name == pool.name)
                || request.addresses.iter().any(|address| pool.cidr.contains(*address))
        };
        let permitted = |pool: &Pool| self.namespaces.permitted.get(&pool.name).is_some_and(|n| n.contains(namespace));
        self.pools.iter().filter(|pool| pool.namespaces.is_some()).all(|pool| !asked(pool) || permitted(pool))
    }

    fn take_pod(&mut self, pod: &ObjectMeta) {
        let (namespace, name) = (pod.namespace.as_deref().unwrap_or_default(), pod.name.as_deref().unwrap_or_default());
        let theirs = self.namespaces.chosen.get(namespace).cloned().unwrap_or_default();
        match request(pod) {
            Ok(own) => {
                let request = PoolRequest {
                    ipv4_pools: own.ipv4_pools.or(theirs.ipv4_pools),
                    ipv6_pools: own.ipv6_pools.or(theirs.ipv6_pools),
                    addresses: own.addresses,
                };
                if !request.is_empty() && self.permits(&request, namespace) {
                    self.requests.insert(request);
                }
            }
            Err(reason) => self.problem(format!("Pod {namespace}/{name}: {reason}")),
        }
    }
}

fn request(meta: &ObjectMeta) -> Result<PoolRequest, String> {
    let get = |name: &str| meta.annotations.as_ref()?.get(name).map(String::as_str);
    PoolRequest::from_annotations(get).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_without_a_version_is_not_used() {
        let whole = serde_json::json!({
            "apiVersion": "ropeway.dev/v1alpha1", "kind": "IPBlock",
            "metadata": {"name": "b", "uid": "1-2-3", "resourceVersion": "7", "creationTimestamp": "2026-12-01T00:00:00Z"},
            "spec": {"cidr": "10.1.0.0/26", "pool": "p", "node": "n1"},
        });
        let read = |object: &serde_json::Value| block(&serde_json::from_value(object.clone()).unwrap());
        assert_eq!(read(&whole).unwrap().state, ObjectVersion { uid: "1-2-3".into(), version: "7".into() });
        for field in ["uid", "resourceVersion", "creationTimestamp"] {
            let mut without = whole.clone();
            without["metadata"].as_object_mut().unwrap().remove(field);
            assert_eq!(read(&without).unwrap_err(), format!("metadata.{field} is missing"));
        }
    }
}
