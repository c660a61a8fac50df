//! Random worlds: the interpreter of the compiled tables decides as the reference evaluator does,
//! with the same reason, about every pair of a local pod and an address.

mod generate;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use self::generate::{ADDRESSES, NODE, any_world};
use crate::policy::compile::compile;
use crate::policy::evaluate::{Connection, may_pass};
use crate::policy::object::{Direction, Key};
use crate::policy::tables::{Decision, Tables, judge};
use crate::policy::world::World;

/// TCP, UDP, SCTP, ICMP and UDP-Lite: the last two have no ports here.
const PROTOCOLS: [u8; 5] = [6, 17, 132, 1, 136];
/// Ports that are tried; rules name 1 to 8.
const PORTS: u16 = 10;
/// Number of protocols and ports that are tried of each pair of addresses.
const TRIES: usize = 5;

/// Returns the peers that are tried: all addresses of the universe of one family, and one outside.
fn peers(own: IpAddr) -> Vec<IpAddr> {
    let offsets = (0..ADDRESSES).chain([1000]);
    let address = |offset: u16| match own {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from_bits(generate::BASE4 + u32::from(offset))),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(generate::BASE6 + u128::from(offset))),
    };
    offsets.map(address).collect()
}

/// Protocols and ports in a fixed order in which each follows each other sooner or later.
struct Probes(usize);

impl Probes {
    fn next(&mut self) -> (u8, u16) {
        let combinations = PROTOCOLS.len() * usize::from(PORTS);
        self.0 = (self.0 + 7) % combinations;
        let protocol = PROTOCOLS[self.0 / usize::from(PORTS)];
        let port = (self.0 % usize::from(PORTS)) as u16;
        (protocol, if matches!(protocol, 1 | 136) { 0 } else { port })
    }
}

/// Compares the decisions about one local pod; returns the number of denied and all connections.
fn compare(world: &World, tables: &Tables, key: &Key, probes: &mut Probes) -> (usize, usize) {
    let (mut denied, mut all) = (0, 0);
    // An address belongs to one pod; the kernel knows a pod by its interface.
    let own = |address: &&IpAddr| world.pod_at(**address).is_some_and(|(owner, _)| owner == key);
    for own in world.pods[key].addresses.iter().filter(own) {
        for (peer, direction) in peers(*own).into_iter().flat_map(|peer| Direction::ALL.map(|d| (peer, d))) {
            for attempt in 0..TRIES {
                let (protocol, port) = probes.next();
                let (source, destination) = match direction {
                    Direction::Ingress => (peer, *own),
                    Direction::Egress => (*own, peer),
                };
                let from_own_node = direction == Direction::Ingress && attempt == 0 && port == 3;
                let connection = Connection { source, destination, from_own_node, protocol, port };
                let expected = may_pass(world, &connection, direction);
                let (allowed, reason) = match tables.pods.get(key) {
                    // No entry: no program judges, which is right if no policy isolates the pod.
                    None => {
                        assert!(expected.allowed, "{key} has no entry: {connection:?}, {expected:?}");
                        continue;
                    }
                    Some(pod) => {
                        let Decision { allowed, reason } = judge(tables, pod, &connection, direction);
                        (allowed, &tables.reasons[reason as usize])
                    }
                };
                assert_eq!((allowed, reason), (expected.allowed, &expected.reason), "{direction:?} {connection:?}");
                denied += usize::from(!expected.allowed);
                all += 1;
            }
        }
    }
    (denied, all)
}

fn check(world: &World) -> (usize, usize) {
    let tables = compile(world, NODE);
    let local = world.pods.iter().filter(|(_, pod)| &*pod.node == NODE && pod.is_selectable());
    let mut probes = Probes(world.pods.len() + world.policies.len());
    let counts = local.map(|(key, _)| compare(world, &tables, key, &mut probes));
    counts.fold((0, 0), |sum, counts| (sum.0 + counts.0, sum.1 + counts.1))
}

/// Number of worlds of one run, shared by all tests. `PROPTEST_CASES` sets the number of each test
/// instead.
const WORLDS: u32 = 10_000;
/// Number of tests among which they are divided, so that they run on several processors.
const TESTS: u32 = 4;

/// The worlds are the same in each run, and others in each test, unless `PROPTEST_CASES` asks for a
/// number of random ones.
fn config(test: u64) -> ProptestConfig {
    let default = ProptestConfig::default();
    let is_search = std::env::var_os("PROPTEST_CASES").is_some();
    ProptestConfig {
        cases: if is_search { default.cases } else { WORLDS.div_ceil(TESTS) },
        rng_seed: if is_search { default.rng_seed } else { RngSeed::Fixed(test) },
        max_shrink_iters: 5000,
        failure_persistence: None,
        ..default
    }
}

macro_rules! tests {
    ($($name:ident $number:literal)*) => {
        $(
            proptest! {
                #![proptest_config(config($number))]
                #[test]
                fn $name(world in any_world()) {
                    check(&world);
                }
            }
        )*
    };
}

mod tables_decide_as_the_evaluator_does {
    use super::*;

    tests! { first 1 second 2 third 3 fourth 4 }
}

/// The random worlds are not empty: many connections are judged, and both decisions are frequent.
#[test]
fn random_worlds_deny_and_allow() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    let mut runner = TestRunner::new(config(5));
    let mut sums = (0, 0);
    for _ in 0..100 {
        let world = any_world().new_tree(&mut runner).unwrap().current();
        let counts = check(&world);
        sums = (sums.0 + counts.0, sums.1 + counts.1);
    }
    let (denied, all) = sums;
    assert!(all > 10_000 && denied > all / 5 && denied < all * 4 / 5, "{denied} of {all} denied");
}
