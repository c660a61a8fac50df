//! A cluster in memory: an API server with its past, and nodes with agent, plugin and disk.
//!
//! Agents see the API server's past, each kind of object up to another point. A round of an agent
//! is one step for the decision, one for the plugin's file and one for each request, so anything
//! may happen in between. The plugin gives out addresses by the file alone.

use super::*;

/// Kinds of objects, each with a watch.
pub(super) const KINDS: usize = 3;
const BLOCKS: usize = 0;
const NODES: usize = 1;
const POOLS: usize = 2;

/// The objects of the API server at one time.
#[derive(Clone, Default)]
pub(super) struct Objects {
    pub(super) blocks: BTreeMap<String, Block>,
    /// Names of nodes with their zones.
    pub(super) nodes: BTreeMap<Box<str>, char>,
    pub(super) pools: Vec<Pool>,
}

/// A round of an agent that has not ended.
#[derive(Clone)]
struct Round {
    decision: PoolDecision,
    /// The plugin's file is written.
    written: bool,
    /// Number of requests that were sent.
    sent: usize,
}

/// The agent of a node, from its start to its end.
struct Agent {
    memory: PlannerMemory,
    /// The point in the API server's past up to which it has seen each kind.
    seen: [usize; KINDS],
    round: Option<Round>,
    /// Requests that the API server has not executed yet, and of which the agent believes that they
    /// failed.
    late: Vec<BlockAction>,
}

/// A pod with the addresses that the plugin gave it.
pub(super) struct Pod {
    pub(super) request: PoolRequest,
    pub(super) held: Vec<IpAddr>,
}

/// A node's machine. Its disk has the plugin's file and the records of pods.
#[derive(Default)]
pub(super) struct Machine {
    /// None while the machine is off.
    agent: Option<Agent>,
    pub(super) pods: Vec<Pod>,
    file: PoolDecision,
    /// False after a start of the machine, until the agent has written the file again.
    file_is_of_this_boot: bool,
    /// When the Node object was deleted while the machine was on.
    pub(super) unlisted: Option<Duration>,
    /// The Node object was deleted at any time.
    was_away: bool,
}

pub(super) struct Cluster {
    /// All states of the API server; the last one is the present.
    past: Vec<Objects>,
    pub(super) machines: Vec<Machine>,
    pub(super) now: Duration,
    version: u64,
}

pub(super) fn name(node: usize) -> String {
    format!("n{node}")
}

impl Cluster {
    pub(super) fn with(nodes: usize, pools: Vec<Pool>) -> Self {
        let zone = |n: usize| if n.is_multiple_of(2) { 'a' } else { 'b' };
        let nodes: BTreeMap<Box<str>, char> = (0..nodes).map(|n| (name(n).into(), zone(n))).collect();
        let machines = nodes.iter().map(|_| Machine::default()).collect();
        let first = Objects { nodes, pools, ..Objects::default() };
        let mut cluster = Self { past: vec![first], machines, now: S, version: 0 };
        (0..cluster.machines.len()).for_each(|n| cluster.start_agent(n));
        cluster.machines.iter_mut().for_each(|machine| machine.file_is_of_this_boot = true);
        cluster
    }

    pub(super) fn objects(&self) -> &Objects {
        &self.past[self.past.len() - 1]
    }

    pub(super) fn change(&mut self, change: impl FnOnce(&mut Objects)) {
        let mut objects = self.objects().clone();
        change(&mut objects);
        self.past.push(objects);
    }

    /// Returns the nodes whose machines are on.
    pub(super) fn running(&self) -> Vec<usize> {
        (0..self.machines.len()).filter(|n| self.machines[*n].agent.is_some()).collect()
    }

    fn is_listed(&self, node: &str) -> bool {
        self.objects().nodes.contains_key(node)
    }

    /// Starts an agent. It lists blocks at their newest version; the other lists may come from a
    /// cache that is behind.
    fn start_agent(&mut self, n: usize) {
        let mut seen = self.machines[n].agent.take().map_or([0; KINDS], |agent| agent.seen);
        seen[BLOCKS] = self.past.len() - 1;
        self.machines[n].agent = Some(Agent { memory: PlannerMemory::default(), seen, round: None, late: Vec::new() });
    }

    /// A watch shows a part of what the agent has not seen yet: so many of 8.
    pub(super) fn watch(&mut self, n: usize, kind: usize, eighths: usize) {
        let present = self.past.len() - 1;
        if let Some(agent) = &mut self.machines[n].agent {
            agent.seen[kind] += ((present - agent.seen[kind]) * eighths).div_ceil(8);
        }
    }

    pub(super) fn refresh(&mut self, n: usize) {
        (0..KINDS).for_each(|kind| self.watch(n, kind, 8));
    }

    pub(super) fn decide(&mut self, n: usize) -> PoolDecision {
        let machine = &mut self.machines[n];
        let Some(agent) = &mut machine.agent else { return PoolDecision::default() };
        let [blocks, nodes, pools] = [BLOCKS, NODES, POOLS].map(|kind| &self.past[agent.seen[kind]]);
        let labels = nodes.nodes.get(name(n).as_str()).map(|zone| [("zone".to_owned(), zone.to_string())].into());
        let nodes: BTreeSet<Box<str>> = nodes.nodes.keys().cloned().collect();
        let held = machine.pods.iter().flat_map(|pod| pod.held.iter().copied()).collect();
        let requests = machine.pods.iter().map(|pod| pod.request.clone()).filter(|r| !r.is_empty()).collect();
        let default: Vec<_> = DEFAULT.iter().map(|name| (*name).to_owned()).collect();
        let input = PlannerInput {
            node: &name(n),
            labels: labels.as_ref(),
            pools: &pools.pools,
            blocks: &blocks.blocks,
            nodes: (!nodes.is_empty()).then_some(&nodes),
            default: &default,
            requests: &requests,
            held: &held,
            now: self.now,
            grace: GracePeriods::default(),
        };
        decide(&input, &mut agent.memory)
    }

    /// Does the next part of the agent's round: decides, writes the plugin's file, or sends a
    /// request. A `late` request is executed later, or never if the agent or the machine ends.
    pub(super) fn part(&mut self, n: usize, late: bool) {
        let Some(agent) = &mut self.machines[n].agent else { return };
        let next = match agent.round.take() {
            None => Some(Round { decision: self.decide(n), written: false, sent: 0 }),
            Some(round) if !round.written => self.machines[n].write(round),
            Some(round) => self.send(n, round, late),
        };
        self.machines[n].agent.iter_mut().for_each(|agent| agent.round.clone_from(&next));
    }

    /// Sends the next request of a round. After one without an answer the rest is left out.
    fn send(&mut self, n: usize, round: Round, late: bool) -> Option<Round> {
        let action = round.decision.actions.get(round.sent).cloned()?;
        // The check that a node is gone and the removal follow each other at once.
        if late && !matches!(action, BlockAction::Collect { .. }) {
            self.machines[n].agent.iter_mut().for_each(|agent| agent.late.push(action.clone()));
            return None;
        }
        self.execute(n, action);
        Some(Round { sent: round.sent + 1, ..round })
    }

    /// Drops what is left of a round, and does a whole one.
    pub(super) fn round(&mut self, n: usize) {
        let Some(agent) = &mut self.machines[n].agent else { return };
        agent.round = None;
        loop {
            self.part(n, false);
            if self.machines[n].agent.as_ref().is_none_or(|agent| agent.round.is_none()) {
                return;
            }
        }
    }

    /// The API server executes the requests that are late.
    pub(super) fn deliver(&mut self, n: usize) {
        let agent = self.machines[n].agent.as_mut();
        let late = agent.map(|agent| std::mem::take(&mut agent.late)).unwrap_or_default();
        late.into_iter().for_each(|action| self.execute(n, action));
    }

    /// Does what the API server does with a request: it compares UID and version.
    fn execute(&mut self, n: usize, action: BlockAction) {
        self.version += 1;
        let version = self.version.to_string();
        match action {
            BlockAction::Claim { pool, cidr } => {
                let state = ObjectVersion { uid: version.clone(), version };
                let created = format!("{:09}", self.version);
                let block = Block { cidr, pool, node: name(n), created, state, sharing: Sharing::default() };
                self.change(|objects| {
                    objects.blocks.entry(block_name(cidr)).or_insert(block);
                });
            }
            BlockAction::Release { name, state, .. } => self.remove(&name, &state),
            BlockAction::Collect { name, state, nodes } => {
                if !nodes.iter().any(|node| self.is_listed(node)) {
                    self.remove(&name, &state);
                }
            }
            BlockAction::Share { name, sharing, state, gone, .. } => {
                let is_back = gone.iter().any(|node| self.is_listed(node));
                self.change(|objects| {
                    let block = objects.blocks.get_mut(&name).filter(|block| !is_back && block.state == state);
                    if let Some(block) = block {
                        block.sharing = sharing;
                        block.state.version = version;
                    }
                });
            }
        }
    }

    fn remove(&mut self, name: &str, state: &ObjectVersion) {
        self.change(|objects| objects.blocks.retain(|object, block| object != name || block.state != *state));
    }

    /// The agent is killed and started again. What it sent last may or may not have arrived.
    pub(super) fn kill(&mut self, n: usize, arrives: bool) {
        if self.machines[n].agent.is_some() {
            if arrives {
                self.deliver(n);
            }
            self.start_agent(n);
        }
    }

    /// The machine is switched off, its pods end, and its Node is deleted.
    pub(super) fn leave(&mut self, n: usize) {
        // The last node stays, to clean up.
        if self.running().len() > 1 && self.machines[n].agent.is_some() {
            self.deliver(n);
            let machine = &mut self.machines[n];
            (machine.agent, machine.unlisted, machine.file_is_of_this_boot) = (None, None, false);
            machine.was_away = true;
            machine.pods.clear();
            self.delete_node(n);
        }
    }

    /// The machine is back under its name, with its disk or with an empty one.
    pub(super) fn come_back(&mut self, n: usize, has_its_disk: bool) {
        if self.machines[n].agent.is_none() {
            if !has_its_disk {
                self.machines[n].file = PoolDecision::default();
            }
            self.list(n, 'a');
            self.start_agent(n);
        }
    }

    fn list(&mut self, n: usize, zone: char) {
        self.machines[n].unlisted = None;
        self.change(|objects| objects.nodes.extend([(name(n).into(), zone)]));
    }

    /// The Node object is deleted, and the machine goes on. Only the first time: to an agent that
    /// is behind, two absences look like one that is longer than the grace period.
    pub(super) fn unlist(&mut self, n: usize) {
        let machine = &mut self.machines[n];
        if machine.agent.is_some() && !machine.was_away {
            (machine.was_away, machine.unlisted) = (true, Some(self.now));
            self.delete_node(n);
        }
    }

    fn delete_node(&mut self, n: usize) {
        self.change(|objects| objects.nodes.retain(|node, _| **node != *name(n)));
    }

    /// Time passes. A Node that was deleted while its machine was on is created again in time.
    pub(super) fn wait(&mut self, time: Duration) {
        for n in self.running() {
            if self.machines[n].unlisted.is_some_and(|since| self.now + time >= since + GONE) {
                self.list(n, 'b');
            }
        }
        self.now += time;
    }

    pub(super) fn relabel(&mut self, n: usize, zone: char) {
        self.change(|objects| objects.nodes.get_mut(name(n).as_str()).into_iter().for_each(|old| *old = zone));
    }

    /// The runtime calls the plugin for a new pod, and for those that have waited.
    pub(super) fn pod(&mut self, n: usize, request: PoolRequest) {
        let machine = &mut self.machines[n];
        if machine.agent.is_none() {
            return;
        }
        machine.pods.push(Pod { request, held: Vec::new() });
        for i in 0..machine.pods.len() {
            if machine.pods[i].held.is_empty() {
                let chosen = machine.choose(&machine.pods[i].request);
                machine.pods[i].held = chosen.unwrap_or_default();
            }
        }
    }

    /// The oldest pod of a node ends.
    pub(super) fn end(&mut self, n: usize) {
        if !self.machines[n].pods.is_empty() {
            self.machines[n].pods.remove(0);
        }
    }
}

impl Machine {
    /// Writes the plugin's file, under the store's lock. A pod may have got an address since the
    /// decision; then the round begins again.
    fn write(&mut self, round: Round) -> Option<Round> {
        let given: Vec<_> = round.decision.actions.iter().filter_map(BlockAction::given).collect();
        let mut held = self.pods.iter().flat_map(|pod| &pod.held);
        if held.any(|address| given.iter().any(|range| range.contains(*address))) {
            return None;
        }
        (self.file, self.file_is_of_this_boot) = (round.decision.clone(), true);
        Some(Round { written: true, ..round })
    }

    /// Returns the ranges that the plugin may use.
    pub(super) fn usable(&self) -> impl Iterator<Item = IpNetwork> {
        let is_on = self.agent.is_some() && self.file_is_of_this_boot;
        self.file.pools.iter().filter(move |_| is_on).flat_map(|pool| pool.blocks.iter().copied())
    }

    /// Returns an address of each family for a pod, or none.
    fn choose(&self, request: &PoolRequest) -> Option<Vec<IpAddr>> {
        let is_free = |address: &IpAddr| !self.pods.iter().any(|pod| pod.held.contains(address));
        let choose = |family: IpFamily| {
            let names = request.pools(family).unwrap_or(&self.file.default);
            let of_family = |pool: &&PoolEntry| family.has(pool.cidr.ip());
            let pools = names.iter().filter_map(|name| self.file.pools.iter().find(|pool| pool.name == *name));
            let free = pools.filter(of_family).flat_map(|pool| {
                let addresses = pool.blocks.iter().flat_map(IpNetwork::iter);
                addresses.filter(|address| !pool.reserved.iter().any(|range| range.contains(*address)))
            });
            let asked = request.address(family).map(|address| {
                let pool = self.file.pools.iter().filter(|pool| pool.allow_fixed_addresses);
                pool.flat_map(|pool| &pool.blocks).any(|block| block.contains(address)).then_some(address)
            });
            asked.unwrap_or_else(|| free.into_iter().find(is_free)).filter(is_free)
        };
        if !self.file_is_of_this_boot {
            return None;
        }
        IpFamily::BOTH.into_iter().map(choose).collect()
    }
}
