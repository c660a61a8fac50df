//! The core on the host: the same functions that the kernel programs are made of, over byte slices and ordinary maps.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use dataplane_common::addr::{Address, Be16, Be32, V4, V6};
use dataplane_common::checksum::{self, Change};
use dataplane_common::event::{Counter, DropReason};
use dataplane_common::flow::{Flow, FlowKey, FragmentKey, Ports};
use dataplane_common::forward::Verdict;
use dataplane_common::hooks;
use dataplane_common::packet::{Flows, Node, Packet, Tables};
use dataplane_common::pod::{Addr, NodeConfig, Pod, PodNetns};
use dataplane_common::rewrite::Family;
use dataplane_common::service::{Affinity, AffinityKey, Backend, Frontend, FrontendKey, SockPeer, SockPeerKey};

use crate::world::{Action, FlowView, Hook, World, flow_key, octets, view};

struct Bytes<'a>(&'a mut Vec<u8>);

impl Bytes<'_> {
    fn read<const N: usize>(&self, offset: usize) -> Option<[Be32; N]> {
        let bytes = self.0.get(offset..offset + N * 4)?;
        Some(std::array::from_fn(|i| Be32(u32::from_ne_bytes(bytes[i * 4..][..4].try_into().unwrap()))))
    }
    fn write(&mut self, offset: usize, bytes: &[u8]) -> Option<()> {
        self.0.get_mut(offset..offset + bytes.len())?.copy_from_slice(bytes);
        Some(())
    }
}

impl Packet for Bytes<'_> {
    fn words<const N: usize>(&self, offset: usize) -> Option<[Be32; N]> {
        self.read(offset)
    }
    fn half(&self, offset: usize) -> Option<Be16> {
        self.0.get(offset..offset + 2).map(|b| Be16(u16::from_ne_bytes(b.try_into().unwrap())))
    }
    fn words_at<const N: usize>(&self, offset: usize, _usual: usize) -> Option<[Be32; N]> {
        self.read(offset)
    }
    fn words_far<const N: usize>(&self, offset: usize) -> Option<[Be32; N]> {
        self.read(offset)
    }
    fn store_words<const N: usize>(&mut self, offset: usize, words: &[Be32; N]) -> Option<()> {
        words.iter().enumerate().try_for_each(|(i, w)| self.write(offset + i * 4, &w.0.to_ne_bytes()))
    }
    fn store_half(&mut self, offset: usize, half: Be16) -> Option<()> {
        self.write(offset, &half.0.to_ne_bytes())
    }
    fn store_half_at(&mut self, offset: usize, _usual: usize, half: Be16) -> Option<()> {
        self.store_half(offset, half)
    }
    fn l4_checksum(&mut self, offset: usize, difference: u32, _change: Change, udp: bool) -> Option<()> {
        let field = self.half(offset)?;
        if udp && field.0 == 0 {
            return Some(());
        }
        let sum = checksum::apply(field, difference);
        self.store_half(offset, if udp && sum.0 == 0 { Be16(0xffff) } else { sum })
    }
}

/// The tables of one family.
#[derive(Default)]
pub struct Maps<A> {
    addrs: HashMap<A, Addr>,
    frontends: HashMap<FrontendKey<A>, Frontend>,
    affinity: HashMap<AffinityKey<A>, Affinity>,
    fragments: HashMap<FragmentKey<A>, Ports>,
    sock_peers: HashMap<SockPeerKey<A>, SockPeer<A>>,
}

/// The tables without a family.
#[derive(Default)]
pub struct Shared {
    pods: HashMap<u32, Pod>,
    slots: HashMap<u32, u32>,
    backends: HashMap<u32, Backend>,
    config: NodeConfig,
}

/// One node.
#[derive(Default)]
pub struct Model {
    shared: Shared,
    v4: Maps<V4>,
    v6: Maps<V6>,
    flows4: HashMap<FlowKey<V4>, Flow<V4>>,
    flows6: HashMap<FlowKey<V6>, Flow<V6>>,
    drops: HashMap<&'static str, u64>,
    target: Option<u32>,
}

struct View<'a, A>(&'a mut Shared, &'a mut Maps<A>);
struct FlowTable<'a, A>(&'a mut HashMap<FlowKey<A>, Flow<A>>);

impl<A> Node for View<'_, A> {
    fn now(&self) -> u32 {
        1000
    }
    fn random(&self) -> u32 {
        rand::random()
    }
    fn config(&self) -> Option<&NodeConfig> {
        Some(&self.0.config)
    }
    fn pod(&self, ifindex: u32) -> Option<&Pod> {
        self.0.pods.get(&ifindex)
    }
    fn pod_netns(&self, _cookie: u64) -> Option<&PodNetns> {
        None
    }
    fn slot(&self, index: u32) -> Option<u32> {
        self.0.slots.get(&index).copied()
    }
    fn backend(&self, id: u32) -> Option<&Backend> {
        self.0.backends.get(&id)
    }
    fn count_connection(&mut self, _backend: u32) {}
    fn count(&mut self, _counter: Counter) {}
}

impl<A: Address> Tables<A> for View<'_, A> {
    fn addr(&self, addr: &A) -> Option<Addr> {
        self.1.addrs.get(addr).copied()
    }
    fn frontend(&self, key: &FrontendKey<A>) -> Option<&Frontend> {
        self.1.frontends.get(key)
    }
    fn affinity(&self, key: &AffinityKey<A>) -> Option<&Affinity> {
        self.1.affinity.get(key)
    }
    fn set_affinity(&mut self, key: &AffinityKey<A>, affinity: &Affinity) {
        self.1.affinity.insert(*key, *affinity);
    }
    fn fragment(&self, key: &FragmentKey<A>) -> Option<Ports> {
        self.1.fragments.get(key).copied()
    }
    fn set_fragment(&mut self, key: &FragmentKey<A>, ports: &Ports) {
        self.1.fragments.insert(*key, *ports);
    }
    fn sock_peer(&self, key: &SockPeerKey<A>) -> Option<&SockPeer<A>> {
        self.1.sock_peers.get(key)
    }
    fn set_sock_peer(&mut self, key: &SockPeerKey<A>, peer: &SockPeer<A>) -> bool {
        self.1.sock_peers.insert(*key, *peer);
        true
    }
}

impl<A: Address> Flows<A> for FlowTable<'_, A> {
    fn get(&mut self, key: &FlowKey<A>) -> Option<&mut Flow<A>> {
        self.0.get_mut(key)
    }
    fn insert(&mut self, key: &FlowKey<A>, flow: &Flow<A>) -> bool {
        self.0.insert(*key, *flow);
        true
    }
    fn insert_new(&mut self, key: &FlowKey<A>, flow: &Flow<A>) -> bool {
        !self.0.contains_key(key) && self.insert(key, flow)
    }
    fn remove(&mut self, key: &FlowKey<A>) {
        self.0.remove(key);
    }
}

fn run<A: Family>(
    hook: Hook,
    ifindex: u32,
    frame: &mut Vec<u8>,
    mut flows: FlowTable<'_, A>,
    mut tables: View<'_, A>,
) -> Verdict {
    let mut packet = Bytes(frame);
    match hook {
        Hook::FromPod => hooks::from_pod::<A, _, _, _>(&mut packet, &mut flows, &mut tables, ifindex),
        Hook::FromUplink => hooks::from_uplink::<A, _, _, _>(&mut packet, &mut flows, &mut tables, ifindex),
        Hook::ToPod | Hook::ToUplink => hooks::from_host::<A, _, _, _>(&mut packet, &mut flows, &mut tables),
    }
}

impl World for Model {
    fn put_pod(&mut self, ifindex: u32, pod: Pod) {
        self.shared.pods.insert(ifindex, pod);
    }
    fn put_addr(&mut self, addr: IpAddr, entry: Addr) {
        match addr {
            IpAddr::V4(a) => drop(self.v4.addrs.insert(a.into(), entry)),
            IpAddr::V6(a) => drop(self.v6.addrs.insert(a.into(), entry)),
        }
    }
    fn put_frontend(&mut self, key: FrontendKey<IpAddr>, frontend: Frontend) {
        let FrontendKey { addr, port, proto, pad } = key;
        if addr.is_ipv4() {
            self.v4.frontends.insert(FrontendKey { addr: octets(addr), port, proto, pad }, frontend);
        } else {
            self.v6.frontends.insert(FrontendKey { addr: octets(addr), port, proto, pad }, frontend);
        }
    }
    fn put_slot(&mut self, index: u32, backend: u32) {
        self.shared.slots.insert(index, backend);
    }
    fn put_backend(&mut self, id: u32, backend: Backend) {
        self.shared.backends.insert(id, backend);
    }
    fn put_config(&mut self, config: NodeConfig) {
        self.shared.config = config;
    }
    fn flow(&mut self, from: SocketAddr, to: SocketAddr, proto: u8) -> Option<FlowView> {
        if from.is_ipv4() {
            self.flows4.get(&flow_key(from, to, proto)).copied().map(view)
        } else {
            self.flows6.get(&flow_key(from, to, proto)).copied().map(view)
        }
    }
    fn drops(&mut self, reason: DropReason) -> u64 {
        self.drops.get(reason.label()).copied().unwrap_or(0)
    }
    fn run(&mut self, hook: Hook, ifindex: u32, frame: &mut Vec<u8>) -> Action {
        let verdict = match frame[12..14] {
            [0x86, 0xdd] => {
                let view = View(&mut self.shared, &mut self.v6);
                run(hook, ifindex, frame, FlowTable(&mut self.flows6), view)
            }
            [8, 0] => {
                let view = View(&mut self.shared, &mut self.v4);
                run(hook, ifindex, frame, FlowTable(&mut self.flows4), view)
            }
            // the entry points decide this: see `dataplane-ebpf`
            _ if hook == Hook::FromPod => Verdict::Drop(DropReason::ForbiddenControl),
            _ => Verdict::Pass,
        };
        self.target = None;
        match verdict {
            Verdict::Pass => Action::Pass,
            Verdict::Drop(reason) => {
                *self.drops.entry(reason.label()).or_default() += 1;
                Action::Drop
            }
            Verdict::ToPod(ifindex) | Verdict::ToUplink(ifindex) => {
                self.target = Some(ifindex);
                Action::Redirect
            }
        }
    }
    fn target(&self) -> Option<u32> {
        self.target
    }
}
