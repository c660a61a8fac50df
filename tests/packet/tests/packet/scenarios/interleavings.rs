//! Every interleaving of two connections that want one key, up to a bound, on the model.
//!
//! One client uses one port for two frontends of one backend. It, the backend, and somebody who
//! forges its address send in any order, and time passes. A breadth-first search visits every state
//! of the flow table that they can reach, and checks after each packet:
//!
//! 1. Both halves of a pair exist, or none.
//! 2. A pair in use stays as it is, unless its own client ends it.
//! 3. A packet of a pair in use is delivered to the other end of that pair.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;

use dataplane_common::types::address::V4;
use dataplane_common::types::flow::{Flow, FlowKey, flow_flags, flow_state};
use dataplane_common::types::pod::NodeConfig;
use dataplane_common::types::service::proto;

use super::{FROM_A, FROM_B, FROM_UPLINK, POD_A, SNAT_MIN, UPLINK, at, config, node, service};
use crate::frame::{Kind, frame_with_seq, verify};
use crate::model::Model;
use crate::testbed::{Action, Hook, Testbed, flow_key};

type Flows = HashMap<FlowKey<V4>, Flow<V4>>;

const CLOSING: u32 = 30;
const OTHER: u32 = 1000;
/// A sequence number far from those of the connections.
const GUESSED: u32 = 0x4000_0000;
/// Length of the longest interleaving.
const DEPTH: usize = 6;

/// A packet, or a pause.
#[derive(Clone, Copy, Debug)]
enum Event {
    Packet { hook: (Hook, u32), kind: Kind, from: SocketAddr, to: SocketAddr, seq: u32 },
    Pause(u32),
}

/// The node, and who takes part.
struct World {
    model: Model,
    client: SocketAddr,
    is_pod: bool,
    to: SocketAddr,
    events: Vec<Event>,
}

impl World {
    fn new(is_pod: bool, tcp: bool) -> Self {
        let mut model = Model::default();
        model.set_now(1_000_000);
        let families = node(&mut model);
        let timeouts = NodeConfig { udp_ticks: OTHER, tcp_ticks: OTHER, closing_ticks: CLOSING, ..config(&families) };
        // One port to translate to, so that states are few.
        model.put_config(NodeConfig { snat_port_max: SNAT_MIN, ..timeouts });
        let [net, _] = families;
        let (client, to) = (at(if is_pod { net.a } else { net.outside }, 40000), at(net.b, 8080));
        let fronts = if is_pod { [80, 81].map(|p| at(net.vip, p)) } else { [30080, 30081].map(|p| at(net.node, p)) };
        for front in fronts {
            service(&mut model, front, to);
        }
        let own = if is_pod { FROM_A } else { FROM_UPLINK };
        let mut events = vec![Event::Pause(CLOSING + 1), Event::Pause(OTHER + 1)];
        let mut packet = |hook, kind, from, to, seq| events.push(Event::Packet { hook, kind, from, to, seq });
        let (first, there, back): (_, &[_], &[_]) = if tcp {
            let ends = [(Kind::Ack, 1), (Kind::Rst, 1), (Kind::Fin, 1), (Kind::Rst, GUESSED)];
            (Kind::Syn, &ends.clone(), &[ends[0], ends[1], ends[2], (Kind::SynAck, 1)])
        } else {
            (Kind::Udp, &[], &[(Kind::Udp, 1)])
        };
        for front in fronts {
            packet(own, first, client, front, 1);
            there.iter().for_each(|&(kind, seq)| packet(own, kind, client, front, seq));
            // Somebody outside, with the client's address.
            packet(FROM_UPLINK, first, client, front, GUESSED);
        }
        packet(own, first, client, to, 1);
        packet(FROM_UPLINK, first, client, to, GUESSED);
        for port in [client.port(), SNAT_MIN] {
            back.iter().for_each(|&(kind, seq)| packet(FROM_B, kind, to, at(client.ip(), port), seq));
        }
        Self { model, client, is_pod, to, events }
    }

    /// Returns the keys of both halves of each pair that is in use, with the forward half. What was
    /// opened from outside with the pod's address is nobody's.
    fn pairs_in_use(&self, flows: &Flows) -> Vec<(FlowKey<V4>, FlowKey<V4>, Flow<V4>)> {
        let now = self.model.now();
        let forward = flows.iter().filter(|(_, flow)| flow.flags & flow_flags::REPLY == 0);
        let pairs = forward.map(|(key, there)| (*key, there.reverse_key(key), *there));
        let in_use = |(key, other, there): &(FlowKey<V4>, FlowKey<V4>, Flow<V4>)| {
            if self.is_pod && there.iif == 0 {
                return false;
            }
            let back = flows[other];
            let short = there.state == flow_state::NEW || there.state.max(back.state) >= flow_state::CLOSING;
            let (tcp, closing) = (key.proto == proto::TCP, there.state.min(back.state) >= flow_state::CLOSING);
            // If no port is free, a pair gives its own to another connection sooner.
            let holds_port = there.sport != key.sport;
            let limit = match (tcp, there.state.max(back.state)) {
                (true, flow_state::RESET) if holds_port => CLOSING.div_ceil(12),
                (true, _) if holds_port && closing => CLOSING.div_ceil(12),
                (true, _) if holds_port && there.state == flow_state::NEW => CLOSING.div_ceil(2),
                (false, flow_state::NEW) if holds_port => CLOSING.div_ceil(2),
                (true, _) if short => CLOSING,
                _ => OTHER,
            };
            (now - there.last_seen).min(now - back.last_seen) <= limit
        };
        pairs.filter(in_use).collect()
    }

    /// Checks that both halves of each pair exist.
    fn check_halves(flows: &Flows, context: &str) {
        for (key, flow) in flows {
            let other = flows.get(&flow.reverse_key(key));
            assert!(other.is_some_and(|other| other.is_reverse_of(key)), "half a pair: {key:?}: {context}");
        }
    }

    /// Runs an event on a flow table, checks what it did, and returns the table after it.
    fn step(&mut self, flows: &Flows, event: Event, context: &str) -> Flows {
        self.model.set_flows4(flows.clone());
        let Event::Packet { hook, kind, from, to, seq } = event else {
            let Event::Pause(ticks) = event else { unreachable!() };
            self.model.advance(ticks);
            return flows.clone();
        };
        let before = self.pairs_in_use(flows);
        let mut f = frame_with_seq(kind, from, to, seq);
        let action = self.model.run(hook.0, hook.1, &mut f);
        let after = self.model.flows4().clone();
        Self::check_halves(&after, context);
        let is_own = from == self.client && (hook.0 == Hook::FromPod || !self.is_pod);
        let opens_direct = self.is_pod && is_own && to == self.to;
        let key = flow_key::<V4>(from, to, if kind == Kind::Udp { proto::UDP } else { proto::TCP });
        for (there, back, flow) in before {
            // A client opens its connection again. Others cannot do that to an answered one.
            let is_answered = flows[&back].state == flow_state::ESTABLISHED;
            let opens_again = key == there && is_own && (self.is_pod || !is_answered);
            if !(opens_again || opens_direct && back == key.reversed()) {
                let stays = |key, old: &Flow<V4>| {
                    after.get(key).is_some_and(|new| {
                        (new.src, new.dst, new.sport, new.dport, new.iif, new.oif)
                            == (old.src, old.dst, old.sport, old.dport, old.iif, old.oif)
                    })
                };
                assert!(stays(&there, &flow) && stays(&back, &flows[&back]), "a pair in use was changed: {context}");
            }
            let now = self.model.now();
            let is_current = |key: &FlowKey<V4>| {
                let limit = if flows[key].state >= flow_state::CLOSING { CLOSING } else { OTHER };
                now - flows[key].last_seen <= limit
            };
            if key == back && hook == FROM_B && is_current(&back) {
                let target = if self.is_pod { POD_A } else { UPLINK };
                assert_eq!((action, self.model.target()), (Action::Redirect, Some(target)), "{context}");
                assert_eq!(verify(&f, 0).1, self.client, "{context}");
                assert_eq!(verify(&f, 0).0.port(), there.dport, "{context}");
            }
            if key == there && is_own && is_current(&there) {
                assert_eq!(action, Action::Redirect, "{context}");
                assert_eq!(verify(&f, 0), (at(self.client.ip(), back.dport), self.to), "{context}");
            }
        }
        after
    }

    /// Returns a text that is equal for tables that differ in the time only.
    fn state(&self, flows: &Flows) -> String {
        let now = self.model.now();
        let mut all: Vec<_> = flows
            .iter()
            .map(|(key, flow)| {
                let age = (now - flow.last_seen).min(OTHER + 1);
                format!("{key:?} {:?}", Flow { last_seen: age, ..*flow })
            })
            .collect();
        all.sort();
        all.join("\n")
    }

    /// Visits all states; returns their number.
    fn explore(&mut self) -> usize {
        let mut seen = HashSet::from([String::new()]);
        let mut queue = VecDeque::from([(Flows::new(), self.model.now(), Vec::new())]);
        while let Some((flows, now, path)) = queue.pop_front() {
            if path.len() == DEPTH {
                continue;
            }
            for number in 0..self.events.len() {
                self.model.set_now(now);
                let path: Vec<usize> = path.iter().copied().chain([number]).collect();
                let context = format!("{:#?}", path.iter().map(|n| self.events[*n]).collect::<Vec<_>>());
                let after = self.step(&flows, self.events[number], &context);
                if seen.insert(self.state(&after)) {
                    queue.push_back((after, self.model.now(), path));
                }
            }
        }
        seen.len()
    }
}

#[test]
fn host_every_interleaving_keeps_pairs_whole_and_owned() {
    for (is_pod, tcp, least) in [(true, true, 100), (false, true, 100), (true, false, 5), (false, false, 5)] {
        let states = World::new(is_pod, tcp).explore();
        println!("{states} states, client is a pod: {is_pod}, TCP: {tcp}");
        assert!(states >= least, "only {states} states");
    }
}
