//! Brings running pods to the node's MTU when that has changed.
//!
//! The agent writes the node's MTU to a file but may not enter pods' namespaces; the plugin may,
//! and runs often. After the answer of each verb, it compares the node's MTU with the one that all
//! pods already have ([`journal`]); usually they are equal. If they differ, a child process goes
//! through the pods. It locks each pod's record, as ADD and DEL do. A pod that fails does not delay
//! the others, and the next call tries it again.
//!
//! The pod's end is never larger than the host's, not even for a moment: a veth silently drops
//! packets that the receiving end does not accept, and the pod's packets all pass it. (Packets to
//! the pod do not: the programs redirect them past that check.)

mod journal;
mod namespaces;

use dataplane_host::netlink::{Link, Socket, set_mtu};
use dataplane_host::netns::Netns;
use dataplane_host::store::{AddressStore, AttachmentClaim, AttachmentRecord, LOCK_DEADLINE};

use crate::background;
use crate::config::{NetworkConfig, least_mtu};
use crate::error::CniError;
use crate::log::log;
use journal::Journal;
use namespaces::NamespaceFinder;

/// One end of a pod's veth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum VethEnd {
    Host,
    Pod,
}

/// Starts the change of running pods to the node's MTU, if any pod needs it. Called after a verb
/// has answered. `used`: the MTU that ADD gave its pod; the agent may have written another one
/// meanwhile.
pub(crate) fn follow(config: &NetworkConfig, used: Option<u32>) {
    if let Err(error) = follow_or_say(config, used) {
        log(&format!("MTU of running pods: {error}"));
    }
}

fn follow_or_say(config: &NetworkConfig, used: Option<u32>) -> Result<(), CniError> {
    if config.own_mtu().is_some() {
        return Ok(());
    }
    let journal = Journal::read(&config.state_dir);
    let done = journal.as_ref().filter(|journal| journal.done).map(|journal| journal.mtu);
    if used.is_some() && used == done {
        return Ok(());
    }
    let node = config.node_mtu()?;
    if node.is_none() || used.is_none() && node == done || !AddressStore::exists(&config.state_dir) {
        return Ok(());
    }
    // The child has no log; its predecessor's errors stand in the journal.
    journal.iter().flat_map(|journal| &journal.failed).for_each(|error| log(error));
    background::run("MTU of running pods", || bring_all(config))
}

/// Brings all pods of the node to its MTU, unless another process is at it.
fn bring_all(config: &NetworkConfig) -> Result<(), CniError> {
    let Some(file) = journal::lock(&config.state_dir)? else { return Ok(()) };
    let Some(wanted) = config.node_mtu()? else { return Ok(()) };
    // Before the search for pods: an ADD that the search misses reads the new value.
    let mut journal = Journal::read(&config.state_dir).unwrap_or_default().towards(wanted);
    journal.write(&file)?;
    let store = AddressStore::open(&config.state_dir)?;
    let mut locked = store.lock(LOCK_DEADLINE)?;
    let all_seen = !locked.is_reserving();
    let records = locked.attachments()?;
    drop(locked);
    let mut host = Host { socket: Socket::open()?, home: home()?, namespaces: NamespaceFinder::default() };
    let links = host.socket.links()?;
    let link_of = |record: &AttachmentRecord| links.iter().find(|link| link.name == record.host_ifname);
    let following = records.iter().filter(|record| follows(record, wanted));
    let pods: Vec<_> = following.filter_map(|record| link_of(record).map(|link| (record, link.mtu))).collect();
    if journal.add_sizes(pods.iter().map(|(_, mtu)| *mtu)) {
        journal.write(&file)?;
    }
    let mut failed = Vec::new();
    if !all_seen {
        failed.push("an ADD is at work".to_owned());
    }
    // If only the host's end is left, its MTU is decisive.
    for (record, _) in pods.iter().filter(|(_, mtu)| *mtu != wanted || !journal.left.is_empty()) {
        if let Err(error) = host.bring(&store, record, wanted, &journal) {
            failed.push(format!("container {}: {error}", record.id.container));
        }
    }
    journal.end(failed).write(&file)
}

/// Returns whether the pod follows the node's MTU, and that MTU is large enough for its address
/// families.
fn follows(record: &AttachmentRecord, wanted: u32) -> bool {
    let ipv6 = record.addresses.iter().any(std::net::IpAddr::is_ipv6);
    record.mtu.is_none() && (least_mtu(ipv6)..=65535).contains(&wanted)
}

fn home() -> Result<Netns, CniError> {
    Netns::current().map_err(|e| CniError::io("network namespaces", e))
}

/// The node's namespace, links and records, read once for all pods.
struct Host {
    socket: Socket,
    home: Netns,
    namespaces: NamespaceFinder,
}

impl Host {
    /// Changes one pod. A pod that is being deleted, or is gone, is not an error.
    fn bring(
        &mut self,
        store: &AddressStore,
        seen: &AttachmentRecord,
        wanted: u32,
        journal: &Journal,
    ) -> Result<(), CniError> {
        let mut locked = store.lock(LOCK_DEADLINE)?;
        let claim = locked.claim(&seen.id)?;
        drop(locked);
        let attachment = match claim {
            AttachmentClaim::Owned(attachment) if !attachment.releasing => attachment,
            AttachmentClaim::Absent | AttachmentClaim::Owned(_) | AttachmentClaim::Busy { releasing: true } => {
                return Ok(());
            }
            AttachmentClaim::Busy { .. } => {
                return Err(CniError::io("another call works on it", std::io::ErrorKind::WouldBlock.into()));
            }
        };
        let record = &attachment.record;
        let Some(host) = self.socket.link_by_name(&record.host_ifname)?.filter(|_| follows(record, wanted)) else {
            return Ok(());
        };
        let mut inside = self.enter(&host)?;
        let Some(pod) = inside.link_by_name(&record.id.ifname)?.filter(|pod| Some(pod.index) == host.lower) else {
            return Ok(()); // The pod has renamed it, so it is the pod's own affair.
        };
        for end in steps(host.mtu, pod.mtu, wanted, &journal.left) {
            match end {
                VethEnd::Host => self.socket.run(&[set_mtu(host.index, wanted)])?,
                VethEnd::Pod => inside.run(&[set_mtu(pod.index, wanted)])?,
            }
        }
        Ok(())
    }

    /// Opens a socket in the namespace of a device's peer.
    fn enter(&mut self, host: &Link) -> Result<Socket, CniError> {
        let found = match host.peer_netns {
            Some(number) => self.namespaces.find(&mut self.socket, number)?,
            None => None,
        };
        let not_found = || CniError::io(format!("namespace of {}'s other end", host.name), missing());
        let netns = found.ok_or_else(not_found)?;
        let socket = netns.within(&self.home, Socket::open).map_err(|e| CniError::io("network namespaces", e))?;
        Ok(socket?)
    }
}

fn missing() -> std::io::Error {
    std::io::ErrorKind::NotFound.into()
}

/// Returns the ends to set, in this order. `left`: the sizes that pods are being changed from. If
/// the ends differ and neither size is one of these, another program (a later plugin in the chain,
/// the pod) set them, and they stay.
fn steps(host: u32, pod: u32, wanted: u32, left: &[u32]) -> impl Iterator<Item = VethEnd> {
    let ours = |mtu: u32| mtu == wanted || left.contains(&mtu);
    let order = match (host == pod || ours(host) && ours(pod), wanted < pod) {
        (false, _) => &[][..],
        (true, true) => &[VethEnd::Pod, VethEnd::Host],
        (true, false) => &[VethEnd::Host, VethEnd::Pod],
    };
    order.iter().copied().filter(move |end| if *end == VethEnd::Host { host != wanted } else { pod != wanted })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pod_end_mtu_never_exceeds_host_end() {
        const SIZES: [u32; 4] = [1400, 1450, 1500, 9000];
        let mut seen = 0;
        for (host, pod, wanted) in
            SIZES.iter().flat_map(|h| SIZES.iter().flat_map(move |p| SIZES.iter().map(move |w| (*h, *p, *w))))
        {
            if pod > host {
                continue; // This is never left behind.
            }
            let (mut host_now, mut pod_now) = (host, pod);
            for end in steps(host, pod, wanted, &SIZES) {
                *(if end == VethEnd::Host { &mut host_now } else { &mut pod_now }) = wanted;
                assert!(pod_now <= host_now, "{host}/{pod} to {wanted}: {host_now}/{pod_now}");
                // If this process is killed here, the next call completes the change.
                let rest = steps(host_now, pod_now, wanted, &SIZES).count();
                assert_eq!(rest, usize::from(host_now != wanted) + usize::from(pod_now != wanted));
                seen += 1;
            }
            assert_eq!((host_now, pod_now), (wanted, wanted));
        }
        assert_eq!(seen, 10 * (3 + 3), "of ten pairs, both ends to each of three other sizes");
    }

    #[test]
    fn mtu_set_by_others_is_kept() {
        let all = |host, pod, wanted, left: &[u32]| steps(host, pod, wanted, left).collect::<Vec<_>>();
        assert_eq!(all(1500, 1500, 1500, &[]), []);
        assert_eq!(all(1500, 1300, 1400, &[1500]), [], "a plugin behind this one has set the pod's");
        assert_eq!(all(1500, 1400, 1500, &[]), [], "as long as no change of the plugin is in progress");
        assert_eq!(all(1500, 1400, 1500, &[1400]), [VethEnd::Pod]);
        assert_eq!(all(1500, 1400, 1400, &[1500]), [VethEnd::Host]);
        assert_eq!(all(1450, 1450, 1400, &[]), [VethEnd::Pod, VethEnd::Host]);
        assert_eq!(all(1450, 1450, 1500, &[]), [VethEnd::Host, VethEnd::Pod]);
    }
}
