//! Property tests: several nodes with outdated views, an API server that rejects late writes, and
//! pods, nodes and pools that come and go.
//!
//! After every step no address may belong to two nodes. In the end no block may be left over.

use proptest::prelude::*;

use super::*;

/// One step of a random history.
#[derive(Clone, Debug)]
enum Step {
    /// A node's watches catch up with the API server.
    Refresh(usize),
    /// A node decides on its last view and executes the actions.
    Act(usize),
    /// A pod is added to a node.
    Pod(usize),
    /// The oldest pod of a node is removed.
    End(usize),
    /// A node is deleted with its pods.
    Die(usize),
    /// A pool is disabled or enabled.
    Toggle(usize),
    /// Time passes, in seconds.
    Wait(u32),
}

#[derive(Default)]
struct Node {
    alive: bool,
    seen: BTreeMap<String, Block>,
    nodes: BTreeSet<Box<str>>,
    pools: Vec<Pool>,
    memory: PlannerMemory,
    /// Ranges that the plugin may use.
    usable: Vec<IpNetwork>,
    held: Vec<IpAddr>,
}

struct Cluster {
    blocks: BTreeMap<String, Block>,
    pools: Vec<Pool>,
    nodes: Vec<Node>,
    now: Duration,
    version: u64,
}

fn name(node: usize) -> String {
    format!("n{node}")
}

impl Cluster {
    fn new(nodes: usize) -> Self {
        let small = |s: &mut IpPoolSpec| s.block_size = Some(30);
        Self::with(nodes, vec![pool("a", "10.1.0.0/27", small), pool("b", "10.2.0.0/28", small)])
    }

    /// Returns a cluster in which all nodes share two blocks.
    fn borrowing(nodes: usize) -> Self {
        let borrow = |s: &mut IpPoolSpec| (s.block_size, s.borrow) = (Some(29), true);
        let disabled = |s: &mut IpPoolSpec| (s.block_size, s.disabled) = (Some(30), true);
        Self::with(nodes, vec![pool("a", "10.1.0.0/28", borrow), pool("b", "10.2.0.0/28", disabled)])
    }

    fn with(nodes: usize, pools: Vec<Pool>) -> Self {
        let new = || Node { alive: true, ..Node::default() };
        Self { blocks: BTreeMap::new(), pools, nodes: (0..nodes).map(|_| new()).collect(), now: S, version: 0 }
    }

    fn alive(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|n| self.nodes[*n].alive).collect()
    }

    fn refresh(&mut self, n: usize) {
        let names = self.alive().into_iter().map(|i| name(i).into()).collect();
        let node = &mut self.nodes[n];
        (node.seen, node.nodes, node.pools) = (self.blocks.clone(), names, self.pools.clone());
    }

    fn decide(&mut self, n: usize) -> PoolDecision {
        let node = &mut self.nodes[n];
        let (held, labels) = (node.held.iter().copied().collect(), BTreeMap::new());
        let input = PlannerInput {
            node: &name(n),
            labels: Some(&labels),
            pools: &node.pools,
            blocks: &node.seen,
            nodes: Some(&node.nodes),
            default: &[],
            requests: &BTreeSet::new(),
            held: &held,
            now: self.now,
            grace: GracePeriods::default(),
        };
        decide(&input, &mut node.memory)
    }

    /// Acts in the writer's order: first the plugin's file, then the API server.
    fn act(&mut self, n: usize) {
        let decision = self.decide(n);
        self.nodes[n].usable = decision.pools.iter().flat_map(|p| p.blocks.clone()).collect();
        for action in decision.actions {
            self.version += 1;
            match action {
                BlockAction::Claim { pool, cidr } => {
                    let state = ObjectVersion { uid: self.version.to_string(), version: self.version.to_string() };
                    let created = format!("{:09}", self.version);
                    let sharing = Sharing::default();
                    let block = Block { cidr, pool, node: name(n), created, state, sharing };
                    self.blocks.entry(block_name(cidr)).or_insert(block);
                }
                BlockAction::Release { name: object, state, .. } => {
                    self.blocks.retain(|name, block| *name != object || block.state != state);
                }
                BlockAction::Collect { name: object, state, nodes } => {
                    // The writer asks the API server for the nodes once more.
                    let back = self.alive().into_iter().any(|i| nodes.contains(&name(i)));
                    self.blocks.retain(|name, block| back || *name != object || block.state != state);
                }
                BlockAction::Share { name: object, sharing, state, gone, .. } => {
                    let back = self.alive().into_iter().any(|i| gone.contains(&name(i)));
                    let version = self.version.to_string();
                    let same = self.blocks.get_mut(&object).filter(|block| !back && block.state == state);
                    if let Some(block) = same {
                        block.sharing = sharing;
                        block.state.version = version;
                    }
                }
            }
        }
    }

    fn pod(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        let free = node.usable.iter().flat_map(IpNetwork::iter).find(|a| !node.held.contains(a));
        node.held.extend(free);
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Wait(seconds) => self.now += S * seconds,
            Step::Toggle(p) => self.pools[p].disabled = !self.pools[p].disabled,
            Step::Refresh(n) if self.nodes[n].alive => self.refresh(n),
            Step::Act(n) if self.nodes[n].alive => self.act(n),
            Step::Pod(n) if self.nodes[n].alive => self.pod(n),
            Step::End(n) if !self.nodes[n].held.is_empty() => drop(self.nodes[n].held.remove(0)),
            // The last node stays, to clean up.
            Step::Die(n) if self.alive().len() > 1 => self.nodes[n] = Node::default(),
            _ => {}
        }
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let used: Vec<_> = self.blocks.values().flat_map(Block::users).collect();
        for (i, a) in used.iter().enumerate() {
            prop_assert!(used[..i].iter().all(|b| !overlap(a.1, b.1)), "{:?} overlaps another range", a);
        }
        for (n, node) in self.nodes.iter().enumerate() {
            for address in &node.held {
                let owned = used.iter().any(|(node, range)| *node == name(n) && range.contains(*address));
                prop_assert!(owned, "{} of {} is in no range of its node", address, name(n));
            }
        }
        Ok(())
    }

    /// Lets all nodes refresh and act until no action is left.
    fn settle(&mut self) {
        for _ in 0..40 {
            for n in self.alive() {
                self.refresh(n);
                self.act(n);
            }
            self.now += IDLE;
        }
    }
}

fn steps(nodes: usize) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..nodes).prop_map(Step::Refresh),
        6 => (0..nodes).prop_map(Step::Act),
        6 => (0..nodes).prop_map(Step::Pod),
        4 => (0..nodes).prop_map(Step::End),
        1 => (0..nodes).prop_map(Step::Die),
        1 => (0..2_usize).prop_map(Step::Toggle),
        2 => (1..400_u32).prop_map(Step::Wait),
    ];
    proptest::collection::vec(step, 0..120)
}

fn borrowing_ends_well(steps: &[Step]) -> Result<(), TestCaseError> {
    let mut cluster = Cluster::borrowing(4);
    for step in steps {
        // The second pool only adds blocks while it is enabled.
        cluster.step(step);
        cluster.check()?;
    }
    cluster.pools = Cluster::borrowing(0).pools;
    cluster.settle();
    cluster.check()?;
    cluster.nodes.iter_mut().for_each(|node| node.held.clear());
    cluster.settle();
    cluster.check()?;
    for n in cluster.alive() {
        let reserved = &cluster.pools[0].reserved;
        let free = |a: &IpAddr| !reserved.iter().any(|r| r.contains(*a));
        let usable = &cluster.nodes[n].usable;
        prop_assert!(
            usable.iter().flat_map(IpNetwork::iter).any(|a| free(&a)),
            "{} has none: {:?}",
            name(n),
            cluster.blocks
        );
        cluster.refresh(n);
        prop_assert_eq!(cluster.decide(n).actions, vec![]);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn histories_never_share_or_leak_addresses(steps in steps(4)) {
        let mut cluster = Cluster::new(4);
        for step in &steps {
            cluster.step(step);
            cluster.check()?;
        }
        cluster.settle();
        cluster.check()?;
        cluster.pools.iter_mut().for_each(|pool| pool.disabled = false);
        cluster.nodes.iter_mut().for_each(|node| node.held.clear());
        cluster.settle();
        for (n, node) in cluster.nodes.iter().enumerate() {
            let own = cluster.blocks.values().filter(|b| b.node == name(n)).count();
            prop_assert_eq!(own, usize::from(node.alive), "blocks of {} in the end", name(n));
        }
        // Another round on a fresh view has nothing to do.
        for n in cluster.alive() {
            cluster.refresh(n);
            prop_assert_eq!(cluster.decide(n).actions, vec![]);
        }
    }

    #[test]
    fn histories_with_borrowing_leave_every_node_an_address(steps in steps(4)) {
        borrowing_ends_well(&steps)?;
    }
}

/// Both halves of one block are lent and the other block is whole: a node without addresses must
/// not ask for the first one for ever.
#[test]
fn wholly_lent_block_is_not_asked_for_a_part() {
    use Step::{Act, Pod, Refresh, Toggle};
    let steps = [Refresh(2), Act(2), Refresh(2), Act(2), Pod(2), Act(2), Toggle(0), Toggle(0)];
    borrowing_ends_well(&steps).unwrap();
}
