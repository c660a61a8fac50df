//! Tests of pool mode against the test API server: several nodes claim, use, borrow and give back
//! blocks.
//!
//! Each agent is the pool task alone, with a state directory in which the test acts as the CNI
//! plugin.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dataplane_host::contract;
use dataplane_host::contract::pools::{Namespace, NamespacesFile, PoolsFile};
use dataplane_host::store::{AddressStore, AttachmentClaim, AttachmentId, AttachmentRecord, Choice, Range};
use dataplane_user::ipam::plan::GracePeriods;
use dataplane_user::ipam::task::PoolTask;
use dataplane_user::network::blocks::Blocks;
use dataplane_user::network::node::status::NodeStatus;
use dataplane_user::proxy::controller::Nodes;
use dataplane_user::proxy::source::NodeObject;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::server::Server;

const SOON: Duration = Duration::from_secs(5);

struct Agent {
    dir: tempfile::TempDir,
    nodes: watch::Sender<Arc<Nodes>>,
    blocks: watch::Receiver<Arc<Blocks>>,
    status: Arc<NodeStatus>,
    task: tokio::task::JoinHandle<()>,
}

impl Agent {
    fn start(server: &Server, name: &str, names: &[&str], grace: GracePeriods) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (nodes, receiver) = watch::channel(Arc::new(all(names)));
        let (sender, blocks) = watch::channel(Arc::default());
        let status = Arc::<NodeStatus>::default();
        let task = PoolTask {
            node: name.into(),
            state_dir: dir.path().into(),
            default: vec![],
            nodes: receiver,
            blocks: sender,
            grace,
            status: Arc::clone(&status),
        };
        let server = server.api();
        let task = tokio::spawn(async move { task.run(&server).await.unwrap() });
        Self { dir, nodes, blocks, status, task }
    }

    fn state(&self) -> PathBuf {
        self.dir.path().into()
    }

    /// Returns the blocks of a pool that the plugin may use.
    fn usable(&self, pool: &str) -> Vec<String> {
        let file = contract::read::<PoolsFile>(self.dir.path()).unwrap().unwrap_or_default();
        let of = file.pools.iter().filter(|p| p.name == pool).flat_map(|p| &p.blocks);
        of.map(ToString::to_string).collect()
    }

    /// Allocates an address of the block, as the plugin's ADD does.
    fn take(&self, container: &str, block: &str) -> IpAddr {
        let id = AttachmentId { container: container.into(), ifname: "eth0".into() };
        let facts = json!({"version": 1, "container": id.container, "ifname": id.ifname, "network": "pods",
            "addresses": [], "host_ifname": id.host_ifname(), "boot": "", "generation": 0});
        let facts: AttachmentRecord = serde_json::from_value(facts).unwrap();
        let store = AddressStore::open(self.dir.path()).unwrap();
        let choice = Choice::from(Range::block(block.parse().unwrap()).unwrap());
        let reservation = store.lock(SOON).unwrap().reserve(&facts, &[choice]).unwrap();
        reservation.commit(&store).unwrap().record.addresses[0]
    }

    /// Releases the address of a container, as the plugin's DEL does.
    fn give_back(&self, container: &str) {
        let store = AddressStore::open(self.dir.path()).unwrap();
        let id = AttachmentId { container: container.into(), ifname: "eth0".into() };
        let mut locked = store.lock(SOON).unwrap();
        let AttachmentClaim::Owned(mut attachment) = locked.claim(&id).unwrap() else { panic!("{container}") };
        locked.mark(&mut attachment).unwrap();
        drop(locked);
        store.finish_release(&attachment).unwrap();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn all(names: &[&str]) -> Nodes {
    names.iter().map(|n| ((*n).into(), NodeObject::default())).collect()
}

fn pool(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "ropeway.dev/v1alpha1", "kind": "IPPool", "metadata": {"name": name}, "spec": spec})
}

fn plain(name: &str) -> Value {
    json!({"apiVersion": "v1", "metadata": {"name": name}})
}

async fn server(nodes: &[&str], pools: &[(&str, Value)]) -> Server {
    let server = Server::start().await;
    nodes.iter().for_each(|name| drop(server.add("nodes", &plain(name))));
    server.add("namespaces", &plain("default"));
    pools.iter().for_each(|(name, spec)| drop(server.add("ippools", &pool(name, spec))));
    server
}

async fn eventually(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..2000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not within 20 s: {what}");
}

/// Returns the blocks of a node in the API server; of all nodes if `node` is empty.
fn blocks(server: &Server, node: &str) -> Vec<String> {
    let all = server.get("ipblocks");
    let of = all.iter().filter(|b| node.is_empty() || b["spec"]["node"] == node);
    of.map(|b| b["spec"]["cidr"].as_str().unwrap().to_owned()).collect()
}

fn both() -> [(&'static str, Value); 2] {
    [("four", json!({"cidr": "10.1.0.0/24"})), ("six", json!({"cidr": "fd00:1::/64"}))]
}

#[tokio::test]
async fn nodes_claim_distinct_blocks() {
    let names = ["n1", "n2", "n3", "n4"];
    let server = server(&names, &both()).await;
    // The last block of a pool of four is claimed, too.
    let agents: Vec<_> = names.iter().map(|n| Agent::start(&server, n, &names, GracePeriods::default())).collect();
    for (agent, name) in agents.iter().zip(names) {
        eventually(name, || agent.usable("four").len() == 1 && agent.usable("six").len() == 1).await;
        let mut usable = [agent.usable("four"), agent.usable("six")].concat();
        let mut claimed = blocks(&server, name);
        usable.sort();
        claimed.sort();
        assert_eq!(usable, claimed);
    }
    let unique: BTreeSet<_> = blocks(&server, "").into_iter().collect();
    assert_eq!(unique.len(), 8);
    let published = agents[0].blocks.clone();
    eventually("all nodes' blocks are published", || {
        published.borrow().by_node.len() == 4 && published.borrow().in_sync
    })
    .await;
    assert_eq!(published.borrow().pools.len(), 2);
    let file: NamespacesFile = contract::read(&agents[0].state()).unwrap().unwrap();
    assert_eq!(file.get("default"), Namespace::Plain);
    assert_eq!(agents[0].status.pool_problem_count(), 0);
}

#[tokio::test]
async fn spare_block_is_claimed_ahead_and_given_back() {
    let server = server(&["n1"], &both()[..1]).await;
    let grace = GracePeriods { idle: Duration::from_millis(300), ..GracePeriods::default() };
    let agent = Agent::start(&server, "n1", &["n1"], grace);
    eventually("first block", || agent.usable("four").len() == 1).await;
    let first = agent.usable("four").remove(0);
    let address = agent.take("c1", &first);
    eventually("a pod takes an address of the spare: the next block is claimed", || agent.usable("four").len() == 2)
        .await;
    assert_eq!(agent.usable("four")[0], first, "the older one is used up first");
    // A needed block is never given back.
    tokio::time::sleep(grace.idle * 3).await;
    assert_eq!(blocks(&server, "n1").len(), 2, "{address} is in use, and there is one spare");
    agent.give_back("c1");
    eventually("one of two empty blocks is given back", || blocks(&server, "n1").len() == 1).await;
    eventually("the plugin may not use it", || agent.usable("four") == blocks(&server, "n1")).await;
}

#[tokio::test]
async fn restarted_agent_keeps_its_blocks() {
    let server = server(&["n1"], &both()).await;
    let first = Agent::start(&server, "n1", &["n1"], GracePeriods::default());
    eventually("blocks", || first.usable("four").len() == 1 && first.usable("six").len() == 1).await;
    let before = server.get("ipblocks");
    drop(first);
    let second = Agent::start(&server, "n1", &["n1"], GracePeriods::default());
    eventually("blocks again", || second.usable("four").len() == 1 && second.usable("six").len() == 1).await;
    assert_eq!(server.get("ipblocks"), before);
}

#[tokio::test]
async fn failing_server_is_retried() {
    let server = server(&["n1"], &both()).await;
    let agent = Agent::start(&server, "n1", &["n1"], GracePeriods::default());
    eventually("blocks", || agent.usable("four").len() == 1 && agent.usable("six").len() == 1).await;
    server.fail("ipblocks", usize::MAX);
    agent.take("c1", &agent.usable("four")[0]);
    eventually("the error is reported", || agent.status.pool_problem_count() == 1).await;
    server.fail("ipblocks", 0);
    eventually("the next block", || agent.usable("four").len() == 2).await;
    eventually("the report is cleared", || agent.status.pool_problem_count() == 0).await;
}

#[tokio::test]
async fn only_blocks_of_deleted_nodes_are_collected() {
    let server = server(&["n1", "n2"], &both()[..1]).await;
    let grace = GracePeriods { gone: Duration::from_millis(200), ..GracePeriods::default() };
    let (one, two) =
        (Agent::start(&server, "n1", &["n1", "n2"], grace), Agent::start(&server, "n2", &["n1", "n2"], grace));
    eventually("blocks", || one.usable("four").len() == 1 && two.usable("four").len() == 1).await;
    drop(two);
    // The agent's list of Nodes lacks the second one, but the API server still has it.
    one.nodes.send_replace(Arc::new(all(&["n1"])));
    let asked = || server.queries().iter().any(|q| q.starts_with("GET") && q.contains("/nodes/n2"));
    eventually("the server is asked", asked).await;
    assert_eq!(blocks(&server, "n2").len(), 1);
    server.remove("nodes", "n2");
    eventually("collected", || blocks(&server, "n2").is_empty()).await;
    assert_eq!(blocks(&server, "n1").len(), 1);
}

#[tokio::test]
async fn annotations_claim_blocks_of_their_pools() {
    let red =
        json!({"cidr": "10.9.0.0/24", "allowFixedAddresses": true, "nodeSelector": {"matchLabels": {"red": "yes"}}});
    let server = server(&[], &[("four", json!({"cidr": "10.1.0.0/24"})), ("red", red)]).await;
    server.add("nodes", &json!({"metadata": {"name": "n1", "labels": {"red": "yes"}}}));
    let annotations = json!({"ropeway.dev/ipv4pools": "[\"red\"]"});
    server.add("namespaces", &json!({"metadata": {"name": "team", "annotations": annotations}}));
    server.add("namespaces", &json!({"metadata": {"name": "odd", "annotations": {"ropeway.dev/ipv4pools": "red"}}}));
    let agent = Agent::start(&server, "n1", &["n1"], GracePeriods::default());
    eventually("a block of the default pool", || agent.usable("four").len() == 1).await;
    eventually("the invalid annotation is reported", || agent.status.pool_problem_count() == 1).await;
    assert!(agent.usable("red").is_empty(), "no pod needs it");
    let file: NamespacesFile = contract::read(&agent.state()).unwrap().unwrap();
    assert!(matches!(file.get("team"), Namespace::Chosen(_)) && matches!(file.get("odd"), Namespace::Broken(_)));
    server.add("pods", &json!({"metadata": {"name": "web-0", "namespace": "team"}}));
    eventually("a block for the pod of that namespace", || agent.usable("red").len() == 1).await;
    let claimed = agent.usable("red").remove(0);
    let wanted = if claimed == "10.9.0.128/26" { "10.9.0.7" } else { "10.9.0.130" };
    let annotations = json!({"ropeway.dev/ipAddrs": format!("[\"{wanted}\"]")});
    server.add("pods", &json!({"metadata": {"name": "db-0", "namespace": "default", "annotations": annotations}}));
    eventually("the block of the requested address", || agent.usable("red").len() == 2).await;
}

#[tokio::test]
async fn invalid_pools_are_reported_and_affect_no_other() {
    let overlapping = json!({"cidr": "10.1.0.0/25"});
    let pools = [("four", json!({"cidr": "10.1.0.0/24"})), ("late", overlapping), ("odd", json!({"cidr": "x"}))];
    let server = server(&["n1"], &pools).await;
    let agent = Agent::start(&server, "n1", &["n1"], GracePeriods::default());
    eventually("block", || agent.usable("four").len() == 1).await;
    assert_eq!(agent.status.pool_problem_count(), 2);
    assert_eq!(blocks(&server, "").len(), 1);
}

/// Three nodes, two blocks: the third node borrows a part, and gives it back when a block is free.
#[tokio::test]
async fn node_without_a_block_borrows_and_gives_back() {
    let names = ["n1", "n2", "n3"];
    let server = server(&names, &[("four", json!({"cidr": "10.1.0.0/25", "borrow": true}))]).await;
    let ms = Duration::from_millis;
    let grace = GracePeriods { idle: ms(300), cool: ms(100), again: ms(200), gone: ms(200), ..GracePeriods::default() };
    let start = |name| Agent::start(&server, name, &names, grace);
    let (one, two) = (start("n1"), start("n2"));
    eventually("two nodes have the blocks", || one.usable("four").len() == 1 && two.usable("four").len() == 1).await;
    let (first, second) = (one.take("c1", &one.usable("four")[0]), two.take("c2", &two.usable("four")[0]));
    let three = start("n3");
    eventually("the third node has a part", || three.usable("four").len() == 1).await;
    let part = three.usable("four").remove(0);
    let lent =
        || server.get("ipblocks").iter().filter(|block| !block["spec"]["lent"].is_null()).cloned().collect::<Vec<_>>();
    let lender = lent().remove(0);
    assert_eq!(lender["spec"]["lent"], json!([{"cidr": part, "node": "n3"}]));
    assert!(lender["spec"]["asked"].is_null(), "the request is answered: {lender}");
    let whole: ipnetwork::IpNetwork = lender["spec"]["cidr"].as_str().unwrap().parse().unwrap();
    let (part_range, owner) = (part.parse::<ipnetwork::IpNetwork>().unwrap(), lender["spec"]["node"].as_str().unwrap());
    assert!(whole.contains(part_range.network()) && ![first, second].iter().any(|a| part_range.contains(*a)));
    let (keeper, other) = if owner == "n1" { (&one, "n2") } else { (&two, "n1") };
    assert!(!keeper.usable("four").contains(&part) && !keeper.usable("four").is_empty());
    let published = one.blocks.clone();
    eventually("the part is published as the third node's", || {
        let by_node = published.borrow().by_node.clone();
        let total: u32 = by_node[owner].iter().map(|range| 1 << (32 - range.prefix())).sum();
        by_node.get("n3").is_some_and(|ranges| *ranges == [part_range])
            && total == 64 - (1 << (32 - part_range.prefix()))
    })
    .await;
    let address = three.take("c3", &part);
    assert!(part_range.contains(address));

    // With an empty block this node claims no other one, so the next free block is the third
    // node's.
    keeper.give_back(if owner == "n1" { "c1" } else { "c2" });
    // The other node is deleted. Its block is claimed, and the part is given back once it is empty.
    drop(if other == "n1" { one } else { two });
    server.remove("nodes", other);
    let left: Vec<_> = names.into_iter().filter(|name| *name != other).collect();
    three.nodes.send_replace(Arc::new(all(&left)));
    eventually("the third node has a block", || blocks(&server, "n3").len() == 1).await;
    assert_eq!(lent().len(), 1, "a pod holds an address of the part");
    three.give_back("c3");
    eventually("the part is given back", || lent().is_empty()).await;
    eventually("the plugin may not use the part any more", || three.usable("four") == blocks(&server, "n3")).await;
}
