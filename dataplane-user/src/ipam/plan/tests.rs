//! Tests of the planner: single decisions here, lending in `borrow`, random histories in
//! `histories`.
//!
//! [`Fixture`] owns the data that a [`PlannerInput`] borrows, and shows actions as text.

use super::*;
use crate::ipam::crd::{IpPoolSpec, LabelSelector};

mod borrow;
mod histories;

const S: Duration = Duration::from_secs(1);
const IDLE: Duration = Duration::from_secs(300);
const GONE: Duration = Duration::from_secs(60);

pub(super) fn pool(name: &str, cidr: &str, change: impl FnOnce(&mut IpPoolSpec)) -> Pool {
    let mut spec = IpPoolSpec { cidr: cidr.into(), ..IpPoolSpec::default() };
    change(&mut spec);
    Pool::new(name, &spec).unwrap()
}

/// The input of a decision, with owners for the data that [`PlannerInput`] borrows.
pub(super) struct Fixture {
    pub(super) labels: Option<BTreeMap<String, String>>,
    pub(super) pools: Vec<Pool>,
    pub(super) blocks: BTreeMap<String, Block>,
    pub(super) nodes: BTreeSet<Box<str>>,
    pub(super) default: Vec<String>,
    pub(super) requests: BTreeSet<PoolRequest>,
    pub(super) held: HashSet<IpAddr>,
    memory: PlannerMemory,
}

impl Fixture {
    fn new(pools: Vec<Pool>) -> Self {
        Self {
            labels: Some([("zone".to_owned(), "a".to_owned())].into()),
            pools,
            blocks: BTreeMap::new(),
            nodes: ["n1", "n2", "n3"].map(Into::into).into(),
            default: vec![],
            requests: BTreeSet::new(),
            held: HashSet::new(),
            memory: PlannerMemory::default(),
        }
    }

    fn block(&mut self, cidr: &str, pool: &str, node: &str) {
        let cidr: IpNetwork = cidr.parse().unwrap();
        let state = ObjectVersion { uid: "u".into(), version: "1".into() };
        let created = format!("{:03}", self.blocks.len());
        let block = Block { cidr, pool: pool.into(), node: node.into(), created, state, sharing: Sharing::default() };
        self.blocks.insert(block_name(cidr), block);
    }

    fn hold(&mut self, addresses: &[&str]) {
        self.held.extend(addresses.iter().map(|a| a.parse::<IpAddr>().unwrap()));
    }

    fn decide(&mut self, now: Duration) -> PoolDecision {
        let input = PlannerInput {
            node: "n1",
            labels: self.labels.as_ref(),
            pools: &self.pools,
            blocks: &self.blocks,
            nodes: Some(&self.nodes),
            default: &self.default,
            requests: &self.requests,
            held: &self.held,
            now,
            grace: GracePeriods::default(),
        };
        decide(&input, &mut self.memory)
    }

    /// Decides and returns the actions as text.
    fn actions(&mut self, now: Duration) -> Vec<String> {
        let show = |action: &BlockAction| match action {
            BlockAction::Claim { pool, cidr } => format!("claim {cidr} of {pool}"),
            BlockAction::Release { cidr, .. } => format!("release {cidr}"),
            BlockAction::Share { name, sharing, given, .. } => {
                let lent: Vec<_> = sharing.lent.iter().map(|part| format!("{} {}", part.cidr, part.node)).collect();
                format!(
                    "share {name}: lent {lent:?}, asked {:?}, given {:?}",
                    sharing.asked,
                    given.map(|g| g.to_string())
                )
            }
            BlockAction::Collect { name, nodes, .. } => format!("collect {name} of {}", nodes.join(", ")),
        };
        self.decide(now).actions.iter().map(show).collect()
    }
}

fn request(pools: &[&str], address: &[&str]) -> PoolRequest {
    let names: Vec<String> = pools.iter().map(ToString::to_string).collect();
    PoolRequest {
        ipv4_pools: (!names.is_empty()).then_some(names),
        ipv6_pools: None,
        addresses: address.iter().map(|a| a.parse().unwrap()).collect(),
    }
}

/// Returns three pools of two blocks each.
fn two() -> Vec<Pool> {
    vec![
        pool("a", "10.1.0.0/25", |_| {}),
        pool("b", "10.2.0.0/25", |s| s.allow_fixed_addresses = true),
        pool("six", "fd00:1::/121", |_| {}),
    ]
}

#[test]
fn node_without_blocks_claims_one_of_each_family() {
    let mut fixture = Fixture::new(two());
    let actions = fixture.actions(S);
    assert_eq!(actions.len(), 2, "{actions:?}");
    assert!(actions[0].ends_with("of a") && actions[1].ends_with("of six"), "{actions:?}");
    fixture.labels = None;
    assert!(fixture.actions(S).is_empty(), "a node without a Node object claims nothing");
}

#[test]
fn one_block_stays_empty_as_a_spare() {
    let mut fixture = Fixture::new(two()[..1].to_vec());
    fixture.block("10.1.0.0/26", "a", "n1");
    assert!(fixture.actions(S).is_empty(), "the spare exists");
    fixture.hold(&["10.1.0.9"]);
    assert_eq!(fixture.actions(S), ["claim 10.1.0.64/26 of a"]);
    fixture.block("10.1.0.64/26", "a", "n1");
    assert!(fixture.actions(S).is_empty());
    let decision = fixture.decide(S);
    let shown: Vec<_> = decision.pools[0].blocks.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["10.1.0.0/26", "10.1.0.64/26"], "oldest first");
    assert_eq!(decision.pools[0].reserved.len(), 2, "the ends of the pool");
}

#[test]
fn next_pool_is_used_when_one_is_full_and_exhaustion_is_reported() {
    let mut fixture = Fixture::new(two()[..2].to_vec());
    fixture.block("10.1.0.0/26", "a", "n1");
    fixture.block("10.1.0.64/26", "a", "n2");
    fixture.hold(&["10.1.0.9"]);
    assert_eq!(fixture.actions(S).len(), 1);
    assert!(fixture.actions(S)[0].ends_with("of b"));
    fixture.block("10.2.0.0/26", "b", "n2");
    fixture.block("10.2.0.64/26", "b", "n2");
    let decision = fixture.decide(S);
    assert!(decision.actions.is_empty() && decision.problems.is_empty(), "there are free addresses: {decision:?}");
    let all: Vec<IpAddr> = (0..64).map(|n| IpAddr::from([10, 1, 0, n])).collect();
    fixture.held.extend(all);
    assert_eq!(fixture.decide(S).problems, ["no free address and no free block in a, b"]);
}

#[test]
fn unneeded_block_is_given_back_after_the_idle_period() {
    let mut fixture = Fixture::new(two()[..1].to_vec());
    fixture.block("10.1.0.0/26", "a", "n1");
    fixture.block("10.1.0.64/26", "a", "n1");
    let decision = fixture.decide(S);
    assert_eq!((decision.actions.len(), decision.next), (0, Some(S + IDLE)));
    fixture.hold(&["10.1.0.70"]);
    assert!(fixture.actions(S * 2).is_empty(), "one is in use, one is the spare");
    fixture.held.clear();
    assert!(fixture.actions(IDLE + S).is_empty(), "the block was in use in between");
    assert_eq!(fixture.actions(IDLE * 2 + S), ["release 10.1.0.64/26"]);
    let decision = fixture.decide(IDLE * 2 + S);
    assert_eq!(decision.pools[0].blocks, ["10.1.0.0/26".parse().unwrap()], "the plugin must not use it");
}

#[test]
fn blocks_of_unusable_pools_are_not_used_and_given_back() {
    let disabled = |s: &mut IpPoolSpec| s.disabled = true;
    let elsewhere = |s: &mut IpPoolSpec| {
        s.node_selector =
            Some(LabelSelector { match_labels: [("zone".into(), "b".into())].into(), ..LabelSelector::default() });
    };
    for pools in [vec![], vec![pool("a", "10.1.0.0/25", disabled)], vec![pool("a", "10.1.0.0/25", elsewhere)]] {
        let mut fixture = Fixture::new(pools);
        fixture.block("10.1.0.0/26", "a", "n1");
        fixture.block("10.1.0.64/26", "a", "n1");
        fixture.hold(&["10.1.0.9"]);
        let decision = fixture.decide(S);
        assert!(decision.actions.is_empty() && decision.pools.iter().all(|p| p.blocks.is_empty()), "{decision:?}");
        assert_eq!(fixture.actions(S + IDLE), ["release 10.1.0.64/26"], "a pod holds an address of the other block");
    }
}

#[test]
fn pool_of_some_namespaces_is_no_default_pool() {
    let some = |s: &mut IpPoolSpec| s.namespace_selector = Some(LabelSelector::default());
    let mut fixture = Fixture::new(vec![pool("a", "10.1.0.0/25", some), pool("b", "10.2.0.0/25", |_| {})]);
    assert!(fixture.actions(S)[0].ends_with("of b"));
    let decision = fixture.decide(S);
    assert_eq!(decision.default, ["b"]);
    assert_eq!(
        decision.pools.iter().map(|p| (p.name.as_str(), p.restricted)).collect::<Vec<_>>(),
        [("a", true), ("b", false)]
    );
    fixture.requests.insert(request(&["a"], &[]));
    assert!(fixture.actions(S).iter().any(|action| action.ends_with("of a")), "a pod asks for it");
}

#[test]
fn requested_pools_and_addresses_are_provided() {
    let mut fixture = Fixture::new(two()[..2].to_vec());
    fixture.block("10.1.0.0/26", "a", "n1");
    fixture.requests.insert(request(&["b"], &[]));
    assert!(fixture.actions(S)[0].ends_with("of b"));
    fixture.requests = [request(&[], &["10.2.0.99"])].into();
    assert_eq!(fixture.actions(S), ["claim 10.2.0.64/26 of b"]);
    fixture.block("10.2.0.64/26", "b", "n2");
    let decision = fixture.decide(S);
    let expected = "a pod asks for address 10.2.0.99, which is in a block of node n2";
    assert_eq!((decision.actions.len(), &decision.problems[..]), (0, &[expected.to_owned()][..]));
    fixture.requests = [request(&["none"], &["10.1.0.9"])].into();
    assert_eq!(
        fixture.decide(S).problems,
        [
            "a pod asks for pool none, which does not exist, is disabled or does not select this node",
            "a pod asks for address 10.1.0.9, which is in no pool with allowFixedAddresses",
        ]
    );
    fixture.default = vec!["b".into()];
    fixture.requests.clear();
    let decision = fixture.decide(S);
    assert_eq!(decision.default, ["b"], "the setting limits the pools of pods that ask for none");
    assert_eq!(decision.actions.len(), 1);
}

#[test]
fn reserved_blocks_are_neither_claimed_nor_spare() {
    let reserve = |s: &mut IpPoolSpec| {
        s.reserved = vec!["10.1.0.0/26".into()];
        s.allow_fixed_addresses = true;
    };
    let mut fixture = Fixture::new(vec![pool("a", "10.1.0.0/25", reserve)]);
    assert_eq!(fixture.actions(S), ["claim 10.1.0.64/26 of a"]);
    fixture.block("10.1.0.64/26", "a", "n1");
    fixture.requests.insert(request(&[], &["10.1.0.5"]));
    assert_eq!(fixture.actions(S), ["claim 10.1.0.0/26 of a"], "a pod asks for an address of it");
    fixture.block("10.1.0.0/26", "a", "n1");
    fixture.hold(&["10.1.0.5", "10.1.0.70"]);
    assert!(fixture.actions(S).is_empty());
}

#[test]
fn lost_block_with_pods_is_claimed_again() {
    let mut fixture = Fixture::new(two()[..1].to_vec());
    fixture.block("10.1.0.64/26", "a", "n1");
    fixture.hold(&["10.1.0.9"]);
    assert_eq!(fixture.actions(S), ["claim 10.1.0.0/26 of a"]);
    fixture.block("10.1.0.0/26", "a", "n2");
    assert_eq!(fixture.decide(S).problems, ["address 10.1.0.9 of a pod of this node is in a block of node n2"]);
}

#[test]
fn blocks_of_another_size_are_not_overlapped() {
    let mut fixture = Fixture::new(two()[..1].to_vec());
    fixture.block("10.1.0.0/27", "a", "n2");
    assert_eq!(fixture.actions(S), ["claim 10.1.0.64/26 of a"]);
    fixture.block("10.1.0.96/27", "old", "n2");
    assert_eq!(fixture.decide(S).problems, ["no free address and no free block in a"]);
}

#[test]
fn blocks_of_deleted_nodes_are_collected() {
    let mut fixture = Fixture::new(vec![]);
    for cidr in ["10.1.0.0/26", "10.1.0.64/26", "10.1.0.128/26", "10.1.0.192/26", "10.2.0.0/26", "10.2.0.64/26"] {
        fixture.block(cidr, "a", "n9");
    }
    fixture.block("10.3.0.0/26", "a", "n2");
    assert!(fixture.actions(S).is_empty(), "seen once");
    let soon = fixture.actions(S + GONE);
    assert!(!soon.is_empty() && soon.len() < 6, "other nodes are responsible for the rest: {soon:?}");
    assert_eq!(fixture.actions(S + GONE * 3).len(), 6, "the responsible nodes have not acted");
    let name = block_name("10.1.0.0/26".parse().unwrap());
    fixture.blocks.get_mut(&name).unwrap().state.version = "2".into();
    assert_eq!(fixture.actions(S + GONE * 3).len(), 5, "a changed block starts another observation");
    fixture.nodes.insert("n9".into());
    assert!(fixture.actions(S + GONE * 4).is_empty());
    fixture.nodes.remove("n9");
    assert!(fixture.actions(S + GONE * 5).is_empty(), "the node existed in between");
}
