//! Schedulers that compare connection counts: the agent's counts, and those of the programs.
//!
//! The formulas are tested in `dataplane-common/src/balance/least_connections/tests.rs`.

use std::collections::HashMap;

use dataplane_common::types::load::EXACT;
use dataplane_common::types::service::BackendLoad;
use dataplane_common::types::service::scheduler::{LC, NQ, SED, WLC};

use super::schedulers::{BASE, Scheduled, fresh_port};
use super::*;

const ALL: [u8; 4] = [LC, WLC, SED, NQ];

/// Returns a `backend_loads` entry as the agent writes it, for a backend of generation 1.
fn found(active: u32, inactive: u32) -> BackendLoad {
    BackendLoad { generation: 1, active, inactive, flows: 0 }
}

pub(crate) fn least_connections_picks_the_least_loaded_backend<T: Testbed>(t: &mut T) {
    for net in node(t) {
        for (rule, weights, loads, expected) in [
            (LC, [1, 1, 1], [(3, 0), (2, 1), (2, 0)], 3),
            (LC, [9, 1, 1], [(3, 0), (2, 1), (2, 0)], 3),
            (LC, [1, 1, 1], [(1, 0), (0, 255), (1, 0)], 2),
            (WLC, [9, 1, 1], [(8, 0), (2, 0), (1, 0)], 1),
            (SED, [1, 1, 4], [(0, 0), (1, 0), (2, 0)], 3),
            (NQ, [1, 1, 4], [(0, 0), (1, 0), (2, 0)], 1),
        ] {
            for from_outside in [false, true] {
                let mut s = Scheduled::new(t, net, rule, 0, &weights, &[1, 2, 3]);
                for (id, (active, inactive)) in (1..).zip(loads) {
                    // The flows counted so far are included in the agent's counts.
                    let flows = s.testbed.flows_of(id);
                    s.testbed.put_load(id, BackendLoad { flows, ..found(active, inactive) });
                }
                let got = if from_outside { s.open_from(at(net.outside, fresh_port())) } else { s.open() };
                assert_eq!(got, expected, "{rule} {weights:?} {loads:?}");
            }
        }
    }
}

pub(crate) fn new_connections_are_counted_at_once<T: Testbed>(t: &mut T) {
    for net in node(t) {
        // Weights, number of connections, connections of each backend.
        for (rule, weights, times, expected) in [
            (LC, [1, 3], 8, [4, 4]),
            (WLC, [1, 3], 8, [2, 6]),
            (SED, [1, 3], 8, [2, 6]),
            (NQ, [1, 9], 2, [1, 1]),
            (NQ, [1, 3], 8, [2, 6]),
        ] {
            let mut s = Scheduled::new(t, net, rule, 0, &weights, &[1, 2]);
            for id in [1, 2] {
                let flows = s.testbed.flows_of(id);
                s.testbed.put_load(id, BackendLoad { flows, ..found(0, 0) });
            }
            let counts = s.counts(times);
            assert_eq!(counts, HashMap::from([(1, expected[0]), (2, expected[1])]), "{rule} {weights:?}");
        }
        // A retransmitted SYN is no further connection.
        let mut s = Scheduled::new(t, net, LC, 0, &[1, 1], &[1, 2]);
        let before = [1, 2].map(|id| s.testbed.flows_of(id));
        let client = at(net.a, fresh_port());
        for _ in 0..3 {
            s.connect(FROM_A, client, at(net.vip, 80));
        }
        let after = [1, 2].map(|id| s.testbed.flows_of(id));
        assert_eq!(after[0] + after[1] - before[0] - before[1], 1);
    }
}

/// A UDP flow counts as an active connection until it times out. Otherwise `sed` and `nq` would
/// give all datagrams to one backend.
pub(crate) fn udp_flows_count_as_connections<T: Testbed>(t: &mut T) {
    for net in node(t) {
        for rule in ALL {
            let s = Scheduled::new(t, net, rule, 0, &[1, 1], &[1, 2]);
            let key = FrontendKey { addr: net.vip, port: 53, proto: proto::UDP, pad: 0 };
            let table = frontend(BASE, 2);
            s.testbed.put_frontend(key, Frontend { scheduler: rule, ..table });
            let before = [1, 2].map(|id| s.testbed.flows_of(id));
            for (id, flows) in (1..).zip(before) {
                s.testbed.put_load(id, BackendLoad { flows, ..found(0, 0) });
            }
            for _ in 0..6 {
                let mut f = frame(Kind::Udp, at(net.a, fresh_port()), at(net.vip, 53));
                assert_eq!(s.testbed.run(FROM_A.0, FROM_A.1, &mut f), Action::Redirect);
            }
            assert_eq!([1, 2].map(|id| s.testbed.flows_of(id)), before.map(|flows| flows + 3), "{rule}");
        }
    }
}

pub(crate) fn zero_weight_backend_gets_no_connection<T: Testbed>(t: &mut T) {
    for net in node(t) {
        for rule in ALL {
            let mut s = Scheduled::new(t, net, rule, 0, &[0, 1, 0], &[1, 2, 3]);
            assert_eq!(s.counts(20), HashMap::from([(2, 20)]), "{rule}");
            let s = Scheduled::new(t, net, rule, 0, &[0, 0], &[1, 2]);
            let mut f = frame(Kind::Syn, at(net.a, fresh_port()), at(net.vip, 80));
            let refused = s.testbed.drops(DropReason::NoBackend);
            s.testbed.run(FROM_A.0, FROM_A.1, &mut f);
            assert_eq!(s.testbed.drops(DropReason::NoBackend), refused + 1, "{rule}: no backend takes connections");
        }
    }
}

pub(crate) fn counts_of_an_older_generation_are_ignored<T: Testbed>(t: &mut T) {
    for (net, next) in node(t).into_iter().zip(2..) {
        let mut s = Scheduled::new(t, net, LC, 0, &[1, 1], &[1, 2]);
        for id in [1, 2] {
            let flows = s.testbed.flows_of(id);
            s.testbed.put_load(id, BackendLoad { flows, ..found(if id == 1 { 10 } else { 5 }, 0) });
        }
        assert_eq!(s.open(), 2);
        // The id has another endpoint now, without connections.
        s.testbed.put_backend(1, backend(at(net.remote, 8001), BOTH_SETS, next));
        assert_eq!(s.opened(6), [1; 6]);
        assert_eq!(s.testbed.flows_of(1), 6, "counted from zero");
    }
}

/// Checks the search in the kernel. The unit tests of the search check how evenly it samples.
pub(crate) fn long_slot_table_is_sampled<T: Testbed>(t: &mut T) {
    let count = 4 * EXACT;
    for net in node(t) {
        let table: Vec<u32> = (1..=count).collect();
        let mut s = Scheduled::new(t, net, LC, 0, &vec![1; table.len()], &table);
        for id in &table {
            let flows = s.testbed.flows_of(*id);
            s.testbed.put_load(*id, BackendLoad { flows, ..found(0, 0) });
        }
        let counts = s.counts(count as usize * 3);
        assert!(table.iter().all(|id| (2..=4).contains(&counts[id])), "{counts:?}");
    }
}
