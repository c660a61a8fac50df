//! Keeps the node's facts between refreshes.
//!
//! The node's task calls [`FactsTracker::look`] at the start of a refresh and
//! [`FactsTracker::publish`] at its end. The tracker logs changes, passes the node's context to the
//! controller, and tells which netlink events can change the facts. It never changes the kernel.

use std::net::IpAddr;

use dataplane_host::netlink::{IfIndex, NetlinkEvent, PROTOCOL};
use ipnetwork::IpNetwork;
use tracing::{info, warn};

use super::discover::{self, KernelSnapshot, NodeFacts};
use crate::config::Config;
use crate::network::routes;
use crate::proxy::controller::Nodes;
use crate::proxy::desired::NodeContext;

/// Names the node's DNS servers. A pod on the host's network has a copy of the node's file.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Receives the node's context, at first and whenever it changes.
pub type Publish = Box<dyn Fn(NodeContext) + Send>;

/// The facts and the context of the last complete refresh.
pub(super) struct FactsTracker {
    last: Option<NodeFacts>,
    context: Option<NodeContext>,
    publish: Publish,
}

impl FactsTracker {
    pub(super) const fn new(publish: Publish) -> Self {
        Self { last: None, context: None, publish }
    }

    /// Computes the facts, and logs them if they differ from the last ones (second value).
    pub(super) fn look(&self, config: &Config, snapshot: &KernelSnapshot, nodes: &Nodes) -> (NodeFacts, bool) {
        let facts = discover::facts(config, snapshot, nodes);
        let changed = self.last.as_ref() != Some(&facts);
        if changed {
            report(&facts);
            let known = self.last.as_ref().map_or(&[][..], |last| &last.warnings);
            facts.warnings.iter().filter(|warning| !known.contains(warning)).for_each(|warning| warn!("{warning}"));
        }
        (facts, changed)
    }

    /// Keeps the facts, and publishes the context if it has changed. `pools`: networks of IP pools;
    /// `None` while the Node objects are not known: nothing is published then, because the node's
    /// own object decides which address is the primary one.
    pub(super) fn publish(&mut self, config: &Config, facts: NodeFacts, pools: Option<&[IpNetwork]>) {
        let Some(pools) = pools else {
            self.last = Some(facts);
            return;
        };
        let mut context = facts.context(config);
        context.pod_ranges.extend(pools);
        context.resolvers = resolvers(&std::fs::read_to_string(RESOLV_CONF).unwrap_or_default());
        if self.context.as_ref() != Some(&context) {
            (self.publish)(context.clone());
            self.context = Some(context);
        }
        self.last = Some(facts);
    }

    /// Returns true if no facts are known yet: every event is relevant then.
    pub(super) const fn is_empty(&self) -> bool {
        self.last.is_none()
    }

    /// Returns true if a device of the node carries an address of these ranges of cluster IPs.
    pub(super) fn carries_cluster_ip(&self, ranges: &[IpNetwork]) -> bool {
        self.last.as_ref().is_some_and(|facts| facts.addresses.iter().any(|a| ranges.iter().any(|r| r.contains(*a))))
    }

    /// Returns true if processes of the node listen at other addresses than at the last refresh.
    pub(super) fn listening_changed(&self) -> bool {
        let Some(facts) = &self.last else { return false };
        let now = discover::listening();
        !facts.addresses.iter().filter(|a| now.contains(a)).eq(&facts.listening)
    }

    /// Returns true if an event can change the facts.
    pub(super) fn is_relevant(&self, event: &NetlinkEvent, config: &Config) -> bool {
        self.last.as_ref().is_some_and(|facts| is_relevant(event, facts, config))
    }
}

/// Returns the DNS servers that a file in the form of resolv.conf(5) names.
fn resolvers(text: &str) -> Vec<IpAddr> {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        let address = (words.next() == Some("nameserver")).then(|| words.next())??;
        // A link-local address may have a zone.
        address.split('%').next()?.parse::<IpAddr>().ok()
    };
    text.lines().filter_map(server).collect()
}

fn report(facts: &NodeFacts) {
    let uplinks: Vec<_> = facts.uplinks.iter().map(|l| l.name.as_str()).collect();
    info!(?uplinks, node_ips = ?facts.node_ips, pod_cidrs = ?facts.pod_cidrs, mtu = facts.uplink_mtu, "node discovered");
    for name in &facts.missing {
        warn!(uplink = name, "--uplink: no such device; it is attached when it appears");
    }
    if facts.uplinks.is_empty() && facts.missing.is_empty() && facts.warnings.is_empty() {
        warn!("no uplink: no default route, node address or route to another node has a device; set --uplink");
    }
}

/// Returns true if an event can change the facts. Links and routes of pods cannot.
pub(super) fn is_relevant(event: &NetlinkEvent, facts: &NodeFacts, config: &Config) -> bool {
    let uplink = |name: &str, index: IfIndex| {
        config.uplinks.iter().any(|u| u == name) || facts.uplinks.iter().any(|l| l.index == index || l.name == name)
    };
    match event {
        NetlinkEvent::Link(link) => uplink(&link.name, link.index) && !facts.uplinks.iter().any(|known| known == link),
        NetlinkEvent::LinkGone(link) => uplink(&link.name, link.index),
        NetlinkEvent::Address(_) | NetlinkEvent::AddressGone(_) | NetlinkEvent::Lost => true,
        NetlinkEvent::Route(route) => route.protocol != PROTOCOL,
        NetlinkEvent::RouteGone(route) => route.protocol != PROTOCOL || routes::is_ours(route),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::config::Options;

    #[test]
    fn context_is_published_once_the_nodes_are_known_and_when_it_changes() {
        let (sender, contexts) = mpsc::channel();
        let mut tracker = FactsTracker::new(Box::new(move |context| sender.send(context).unwrap()));
        let config = Config::new(Options { node_name: Some("n1".into()), ..Options::default() }).unwrap();
        let (facts, changed) = tracker.look(&config, &KernelSnapshot::default(), &Nodes::new());
        assert!(changed && tracker.is_empty());
        tracker.publish(&config, facts.clone(), None);
        assert_eq!(contexts.try_iter().count(), 0, "the node's own object is not known");
        tracker.publish(&config, facts, Some(&[]));
        assert_eq!(contexts.try_iter().count(), 1);
        let (facts, changed) = tracker.look(&config, &KernelSnapshot::default(), &Nodes::new());
        assert!(!changed && !tracker.is_empty());
        tracker.publish(&config, facts.clone(), Some(&[]));
        assert_eq!(contexts.try_iter().count(), 0);
        let pool = "10.1.0.0/16".parse().unwrap();
        tracker.publish(&config, facts, Some(&[pool]));
        assert!(contexts.try_recv().unwrap().pod_ranges.contains(&pool));
    }

    #[test]
    fn resolvers_are_read_from_resolv_conf() {
        let text = "# nameserver 192.0.2.9\nsearch example.org\nnameserver 192.0.2.53\n\tnameserver\tfe80::1%eth0 \n\
                    nameserver\nnameservers 192.0.2.8\nnameserver dns.example.org\n";
        let expected: [IpAddr; 2] = ["192.0.2.53".parse().unwrap(), "fe80::1".parse().unwrap()];
        assert_eq!(resolvers(text), expected);
    }
}
