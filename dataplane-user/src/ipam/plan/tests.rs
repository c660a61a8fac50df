//! Tests of the decision: tables here, random histories of several nodes in `histories`.

use super::*;
use crate::ipam::crd::{IpPoolSpec, NodeSelector};

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

/// What is known, with owners for what [`World`] borrows.
pub(super) struct Known {
    pub(super) labels: Option<BTreeMap<String, String>>,
    pub(super) pools: Vec<Pool>,
    pub(super) blocks: BTreeMap<String, Block>,
    pub(super) nodes: BTreeSet<Box<str>>,
    pub(super) default: Vec<String>,
    pub(super) wishes: BTreeSet<PoolRequest>,
    pub(super) held: HashSet<IpAddr>,
    memory: PlannerMemory,
}

impl Known {
    fn new(pools: Vec<Pool>) -> Self {
        Self {
            labels: Some([("zone".to_owned(), "a".to_owned())].into()),
            pools,
            blocks: BTreeMap::new(),
            nodes: ["n1", "n2", "n3"].map(Into::into).into(),
            default: vec![],
            wishes: BTreeSet::new(),
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
        let world = World {
            node: "n1",
            labels: self.labels.as_ref(),
            pools: &self.pools,
            blocks: &self.blocks,
            nodes: Some(&self.nodes),
            default: &self.default,
            wishes: &self.wishes,
            held: &self.held,
            now,
            grace: GracePeriods::default(),
        };
        decide(&world, &mut self.memory)
    }

    /// The actions in words.
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

fn wish(pools: &[&str], address: &[&str]) -> PoolRequest {
    let names: Vec<String> = pools.iter().map(ToString::to_string).collect();
    PoolRequest {
        ipv4_pools: (!names.is_empty()).then_some(names),
        ipv6_pools: None,
        addresses: address.iter().map(|a| a.parse().unwrap()).collect(),
    }
}

/// Small pools: two blocks each.
fn two() -> Vec<Pool> {
    vec![
        pool("a", "10.1.0.0/25", |_| {}),
        pool("b", "10.2.0.0/25", |s| s.allow_fixed_addresses = true),
        pool("six", "fd00:1::/121", |_| {}),
    ]
}

#[test]
fn a_node_without_blocks_claims_one_of_each_family() {
    let mut known = Known::new(two());
    let actions = known.actions(S);
    assert_eq!(actions.len(), 2, "{actions:?}");
    assert!(actions[0].ends_with("of a") && actions[1].ends_with("of six"), "{actions:?}");
    known.labels = None;
    assert!(known.actions(S).is_empty(), "who has no Node object claims nothing");
}

#[test]
fn one_block_stays_empty_ahead_of_need() {
    let mut known = Known::new(two()[..1].to_vec());
    known.block("10.1.0.0/26", "a", "n1");
    assert!(known.actions(S).is_empty(), "the spare is there");
    known.hold(&["10.1.0.9"]);
    assert_eq!(known.actions(S), ["claim 10.1.0.64/26 of a"]);
    known.block("10.1.0.64/26", "a", "n1");
    assert!(known.actions(S).is_empty());
    let decision = known.decide(S);
    let shown: Vec<_> = decision.pools[0].blocks.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["10.1.0.0/26", "10.1.0.64/26"], "oldest first");
    assert_eq!(decision.pools[0].reserved.len(), 2, "the ends of the pool");
}

#[test]
fn the_next_pool_is_used_when_one_is_full_and_then_it_is_said() {
    let mut known = Known::new(two()[..2].to_vec());
    known.block("10.1.0.0/26", "a", "n1");
    known.block("10.1.0.64/26", "a", "n2");
    known.hold(&["10.1.0.9"]);
    assert_eq!(known.actions(S).len(), 1);
    assert!(known.actions(S)[0].ends_with("of b"));
    known.block("10.2.0.0/26", "b", "n2");
    known.block("10.2.0.64/26", "b", "n2");
    let decision = known.decide(S);
    assert!(decision.actions.is_empty() && decision.problems.is_empty(), "there are free addresses: {decision:?}");
    let all: Vec<IpAddr> = (0..64).map(|n| IpAddr::from([10, 1, 0, n])).collect();
    known.held.extend(all);
    assert_eq!(known.decide(S).problems, ["no free address and no free block in a, b"]);
}

#[test]
fn what_is_not_needed_goes_back_after_a_while() {
    let mut known = Known::new(two()[..1].to_vec());
    known.block("10.1.0.0/26", "a", "n1");
    known.block("10.1.0.64/26", "a", "n1");
    let decision = known.decide(S);
    assert_eq!((decision.actions.len(), decision.next), (0, Some(S + IDLE)));
    known.hold(&["10.1.0.70"]);
    assert!(known.actions(S * 2).is_empty(), "one is in use, one is the spare");
    known.held.clear();
    assert!(known.actions(IDLE + S).is_empty(), "it was in use meanwhile");
    assert_eq!(known.actions(IDLE * 2 + S), ["release 10.1.0.64/26"]);
    let decision = known.decide(IDLE * 2 + S);
    assert_eq!(decision.pools[0].blocks, ["10.1.0.0/26".parse().unwrap()], "the plugin must not use it");
}

#[test]
fn blocks_of_pools_that_are_not_for_this_node_are_not_used_and_go_back() {
    let disabled = |s: &mut IpPoolSpec| s.disabled = true;
    let elsewhere = |s: &mut IpPoolSpec| {
        s.node_selector =
            Some(NodeSelector { match_labels: [("zone".into(), "b".into())].into(), ..NodeSelector::default() });
    };
    for pools in [vec![], vec![pool("a", "10.1.0.0/25", disabled)], vec![pool("a", "10.1.0.0/25", elsewhere)]] {
        let mut known = Known::new(pools);
        known.block("10.1.0.0/26", "a", "n1");
        known.block("10.1.0.64/26", "a", "n1");
        known.hold(&["10.1.0.9"]);
        let decision = known.decide(S);
        assert!(decision.actions.is_empty() && decision.pools.iter().all(|p| p.blocks.is_empty()), "{decision:?}");
        assert_eq!(known.actions(S + IDLE), ["release 10.1.0.64/26"], "a pod has an address of the other one");
    }
}

#[test]
fn what_pods_ask_for_is_provided() {
    let mut known = Known::new(two()[..2].to_vec());
    known.block("10.1.0.0/26", "a", "n1");
    known.wishes.insert(wish(&["b"], &[]));
    assert!(known.actions(S)[0].ends_with("of b"));
    known.wishes = [wish(&[], &["10.2.0.99"])].into();
    assert_eq!(known.actions(S), ["claim 10.2.0.64/26 of b"]);
    known.block("10.2.0.64/26", "b", "n2");
    let decision = known.decide(S);
    let expected = "address 10.2.0.99, which a pod asks for, is in a block of node n2";
    assert_eq!((decision.actions.len(), &decision.problems[..]), (0, &[expected.to_owned()][..]));
    known.wishes = [wish(&["none"], &["10.1.0.9"])].into();
    assert_eq!(
        known.decide(S).problems,
        [
            "pool none, which a pod asks for, is not there, or disabled, or not for this node",
            "address 10.1.0.9, which a pod asks for, is in no pool that allows that",
        ]
    );
    known.default = vec!["b".into()];
    known.wishes.clear();
    let decision = known.decide(S);
    assert_eq!(decision.default, ["b"], "the setting limits the pools of pods that ask for none");
    assert_eq!(decision.actions.len(), 1);
}

#[test]
fn reserved_blocks_are_not_claimed_and_not_spare() {
    let reserve = |s: &mut IpPoolSpec| {
        s.reserved = vec!["10.1.0.0/26".into()];
        s.allow_fixed_addresses = true;
    };
    let mut known = Known::new(vec![pool("a", "10.1.0.0/25", reserve)]);
    assert_eq!(known.actions(S), ["claim 10.1.0.64/26 of a"]);
    known.block("10.1.0.64/26", "a", "n1");
    known.wishes.insert(wish(&[], &["10.1.0.5"]));
    assert_eq!(known.actions(S), ["claim 10.1.0.0/26 of a"], "for an address that is asked for");
    known.block("10.1.0.0/26", "a", "n1");
    known.hold(&["10.1.0.5", "10.1.0.70"]);
    assert!(known.actions(S).is_empty());
}

#[test]
fn a_block_that_was_taken_away_is_claimed_again() {
    let mut known = Known::new(two()[..1].to_vec());
    known.block("10.1.0.64/26", "a", "n1");
    known.hold(&["10.1.0.9"]);
    assert_eq!(known.actions(S), ["claim 10.1.0.0/26 of a"]);
    known.block("10.1.0.0/26", "a", "n2");
    assert_eq!(known.decide(S).problems, ["address 10.1.0.9 of a pod of this node is in a block of node n2"]);
}

#[test]
fn blocks_of_another_size_are_in_the_way() {
    let mut known = Known::new(two()[..1].to_vec());
    known.block("10.1.0.0/27", "a", "n2");
    assert_eq!(known.actions(S), ["claim 10.1.0.64/26 of a"]);
    known.block("10.1.0.96/27", "old", "n2");
    assert_eq!(known.decide(S).problems, ["no free address and no free block in a"]);
}

#[test]
fn blocks_of_gone_nodes_are_collected_once_and_in_time() {
    let mut known = Known::new(vec![]);
    for cidr in ["10.1.0.0/26", "10.1.0.64/26", "10.1.0.128/26", "10.1.0.192/26", "10.2.0.0/26", "10.2.0.64/26"] {
        known.block(cidr, "a", "n9");
    }
    known.block("10.3.0.0/26", "a", "n2");
    assert!(known.actions(S).is_empty(), "seen once");
    let soon = known.actions(S + GONE);
    assert!(!soon.is_empty() && soon.len() < 6, "the others are for other nodes: {soon:?}");
    assert_eq!(known.actions(S + GONE * 3).len(), 6, "they have not done it");
    let name = block_name("10.1.0.0/26".parse().unwrap());
    known.blocks.get_mut(&name).unwrap().state.version = "2".into();
    assert_eq!(known.actions(S + GONE * 3).len(), 5, "somebody has changed it: that is another observation");
    known.nodes.insert("n9".into());
    assert!(known.actions(S + GONE * 4).is_empty());
    known.nodes.remove("n9");
    assert!(known.actions(S + GONE * 5).is_empty(), "the node was back meanwhile");
}
