//! Random histories of a cluster with IP pools: agents that see different parts of the past, rounds
//! that are cut off, requests that are executed late, nodes that leave and come back, pods that get
//! an address at any moment.
//!
//! [`oracle`] says after each step what must hold, and in the end that nothing was leaked.

mod cluster;
mod oracle;

use dataplane_host::contract::pools::PoolEntry;
use proptest::prelude::*;

use self::cluster::{Cluster, KINDS, name};
use super::*;

/// One step of a random history. The first field is the node.
#[derive(Clone, Debug)]
enum Step {
    /// A watch shows so many eighths of what is new.
    Watch(usize, usize, usize),
    /// All watches show all that is new.
    Refresh(usize),
    /// The agent does the next part of its round; a request may be late.
    Part(usize, bool),
    /// The agent decides and does all that follows.
    Round(usize),
    /// The API server executes late requests.
    Deliver(usize),
    /// The agent is killed and started again; late requests have arrived or have not.
    Kill(usize, bool),
    /// A pod is added, with one of the requests.
    Pod(usize, usize),
    /// The oldest pod is removed.
    End(usize),
    /// The machine is switched off, and the Node deleted.
    Leave(usize),
    /// The machine is back, with its disk or an empty one.
    Return(usize, bool),
    /// The Node is deleted for less than the grace period, and the machine goes on.
    Unlist(usize),
    /// The node is in another zone now.
    Relabel(usize, bool),
    /// A pool is disabled or enabled.
    Toggle(usize),
    /// Time passes, in seconds.
    Wait(u32),
    /// All agents see everything and act, twice, far apart.
    Quiet,
}

/// The pools of pods that ask for none.
const DEFAULT: [&str; 3] = ["a", "b", "s"];

/// Rounds of all agents after which none has anything to do.
const ENOUGH: usize = 40;

/// What pods may ask for.
fn request(kind: usize) -> PoolRequest {
    let none = PoolRequest::default();
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    match kind {
        0 => PoolRequest { ipv4_pools: Some(vec!["c".into()]), ..none },
        1 => PoolRequest { addresses: vec![address("10.3.0.5")], ..none },
        2 => PoolRequest { ipv4_pools: Some(vec!["b".into(), "a".into()]), ..none },
        _ => none,
    }
}

impl Cluster {
    /// Returns a cluster with more blocks than nodes, of both families, with one pool for a zone
    /// and one that is used on request only.
    fn new(nodes: usize) -> Self {
        let pools = vec![
            pool("a", "10.1.0.0/27", |s| {
                s.block_size = Some(30);
                s.reserved = vec!["10.1.0.8/30".into(), "10.1.0.13/32".into()];
            }),
            pool("b", "10.2.0.0/28", |s| {
                s.block_size = Some(30);
                s.node_selector = Some(LabelSelector {
                    match_labels: [("zone".into(), "b".into())].into(),
                    ..LabelSelector::default()
                });
            }),
            pool("c", "10.3.0.0/28", |s| (s.block_size, s.allow_fixed_addresses) = (Some(30), true)),
            pool("s", "fd00:1::/122", |s| s.block_size = Some(126)),
        ];
        Self::with(nodes, pools)
    }

    /// Returns a cluster in which all nodes share two blocks of each family.
    fn borrowing(nodes: usize) -> Self {
        let borrow = |bits| move |s: &mut IpPoolSpec| (s.block_size, s.borrow) = (Some(bits), true);
        let disabled = |s: &mut IpPoolSpec| (s.block_size, s.disabled) = (Some(30), true);
        let pools = vec![
            pool("a", "10.1.0.0/28", borrow(29)),
            pool("b", "10.2.0.0/28", disabled),
            pool("s", "fd00:1::/124", borrow(125)),
        ];
        Self::with(nodes, pools)
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Watch(n, kind, eighths) => self.watch(n, kind, eighths),
            Step::Refresh(n) => self.refresh(n),
            Step::Part(n, late) => self.part(n, late),
            Step::Round(n) => self.round(n),
            Step::Deliver(n) => self.deliver(n),
            Step::Kill(n, arrives) => self.kill(n, arrives),
            Step::Pod(n, kind) => self.pod(n, request(kind)),
            Step::End(n) => self.end(n),
            Step::Leave(n) => self.leave(n),
            Step::Return(n, has_its_disk) => self.come_back(n, has_its_disk),
            Step::Unlist(n) => self.unlist(n),
            Step::Relabel(n, first) => self.relabel(n, if first { 'a' } else { 'b' }),
            Step::Toggle(p) => self.change(|objects| objects.pools[p].disabled ^= true),
            Step::Wait(seconds) => self.wait(S * seconds),
            Step::Quiet => self.settle(2),
        }
    }

    /// Lets all agents see everything and act, so many times.
    fn settle(&mut self, rounds: usize) {
        for _ in 0..rounds {
            for n in self.running() {
                self.deliver(n);
                self.refresh(n);
                self.round(n);
            }
            self.wait(IDLE);
        }
    }

    /// Runs a history, lets its pods run on, ends them, and checks what is left.
    fn run(mut self, steps: &[Step]) -> Result<(), TestCaseError> {
        let pools = self.objects().pools.clone();
        for step in steps {
            self.step(step);
            oracle::check(&self)?;
        }
        self.settle(ENOUGH);
        oracle::check(&self)?;
        self.change(|objects| objects.pools = pools);
        self.machines.iter_mut().for_each(|machine| machine.pods.clear());
        self.settle(ENOUGH);
        oracle::check_end(&self)?;
        for n in self.running() {
            self.refresh(n);
            prop_assert_eq!(self.decide(n).actions, vec![], "{} has something to do", name(n));
        }
        Ok(())
    }
}

fn steps(nodes: usize) -> impl Strategy<Value = Vec<Step>> {
    let n = || 0..nodes;
    let step = prop_oneof![
        4 => (n(), 0..KINDS, 1..9_usize).prop_map(|(n, kind, eighths)| Step::Watch(n, kind, eighths)),
        4 => n().prop_map(Step::Refresh),
        12 => (n(), prop::bool::weighted(0.2)).prop_map(|(n, late)| Step::Part(n, late)),
        6 => n().prop_map(Step::Round),
        2 => n().prop_map(Step::Deliver),
        1 => (n(), any::<bool>()).prop_map(|(n, arrives)| Step::Kill(n, arrives)),
        8 => (n(), 0..8_usize).prop_map(|(n, kind)| Step::Pod(n, kind)),
        5 => n().prop_map(Step::End),
        2 => n().prop_map(Step::Leave),
        2 => (n(), any::<bool>()).prop_map(|(n, has_its_disk)| Step::Return(n, has_its_disk)),
        1 => n().prop_map(Step::Unlist),
        1 => (n(), any::<bool>()).prop_map(|(n, first)| Step::Relabel(n, first)),
        1 => (0..2_usize).prop_map(Step::Toggle),
        3 => (1..400_u32).prop_map(Step::Wait),
        2 => Just(Step::Quiet),
    ];
    proptest::collection::vec(step, 0..160)
}

/// 256 histories each, 26 s of processor time; `PROPTEST_CASES` sets another number.
fn config() -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn histories_never_share_or_leak_addresses(steps in steps(4)) {
        Cluster::new(4).run(&steps)?;
    }

    #[test]
    fn histories_with_borrowing_leave_every_node_an_address(steps in steps(4)) {
        Cluster::borrowing(4).run(&steps)?;
    }
}

/// Both halves of one block are lent and the other block is whole: a node without addresses must
/// not ask for the first one for ever.
#[test]
fn wholly_lent_block_is_not_asked_for_a_part() {
    use Step::{Pod, Refresh, Round, Toggle};
    let steps = [Refresh(2), Round(2), Refresh(2), Round(2), Pod(2, 7), Round(2), Toggle(0), Toggle(0)];
    Cluster::borrowing(4).run(&steps).unwrap();
}

/// The blocks in the file on its disk were collected while the machine was off.
#[test]
fn machine_that_was_off_gives_out_no_address_of_its_former_blocks() {
    use Step::{Leave, Pod, Quiet, Return};
    let steps = [Quiet, Leave(3), Quiet, Return(3, true), Pod(3, 7), Quiet, Pod(3, 7)];
    Cluster::new(4).run(&steps).unwrap();
}
