//! Resolves a pod's address ranges and MTU: the configuration, completed by what the agent wrote
//! about the node and by what the runtime requests for this pod.
//!
//! [`resolve`] is the only entry point. ADD, GC and STATUS call it once per call. Only blocks of IP
//! pools change while a call runs, so [`Ranges::choices`] reads them again each time; callers hold
//! the store's lock when they act on the answer. This module never opens the address store.

mod pools;

use std::net::IpAddr;
use std::path::PathBuf;

use dataplane_common::types::ip_family::IpFamily;
use dataplane_host::contract::{AgentFile, FileError, NodeFile};
use dataplane_host::netlink;
use dataplane_host::store::{Choice, Range};
use ipnetwork::IpNetwork;

use crate::capabilities::{Capabilities, Span};
use crate::config::{NetworkConfig, least_mtu};
use crate::error::CniError;

/// The MTU of pods if neither configuration nor agent gives one: Ethernet's.
const DEFAULT_MTU: u32 = 1500;

/// The pod of a call, if the call is about one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PodRequest<'a> {
    /// `<namespace>/<name>`, if the runtime gave it.
    pub(crate) name: Option<&'a str>,
    /// Parts of the ranges that its addresses must come from, at most one set of each family.
    pub(crate) ranges: &'a [Vec<Span>],
    /// Addresses that it must get, at most one of each family.
    pub(crate) ips: &'a [IpAddr],
}

impl<'a> PodRequest<'a> {
    pub(crate) fn new(name: Option<&'a str>, capabilities: &'a Capabilities) -> Self {
        Self { name, ranges: &capabilities.ranges, ips: &capabilities.ips }
    }
}

/// The ranges for a pod's addresses, and its MTU.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ranges {
    origin: Origin,
    state_dir: PathBuf,
    pub(crate) mtu: u32,
    /// The kernel has IPv6. Without it pods get no IPv6 address, whatever ranges there are.
    ipv6: bool,
}

/// The origin of the ranges.
#[derive(Clone, Debug, PartialEq)]
enum Origin {
    /// The configuration's `ranges`: one choice per family.
    Configuration(Vec<Choice>),
    /// The node's podCIDRs, as the agent read them from the Kubernetes API: one choice per family.
    PodCidrs(Vec<Choice>),
    /// This node's blocks of IP pools, which the agent claims and returns.
    Pools(pools::PodPools),
}

/// Resolves the ranges of a call. `node` is what the agent wrote
/// ([`NetworkConfig::node_defaults`]).
pub(crate) fn resolve(
    config: &NetworkConfig,
    node: Option<&NodeFile>,
    pod: PodRequest<'_>,
) -> Result<Ranges, CniError> {
    let no_data = || CniError::NoNodeData { path: config.state_dir.join(NodeFile::NAME).display().to_string() };
    let origin = if config.ranges.is_empty() {
        let node = node.ok_or_else(no_data)?;
        if node.pools {
            Origin::Pools(pools::request(config.runtime.as_ref(), pod.name, &config.state_dir)?)
        } else {
            Origin::PodCidrs(by_family(pod_cidrs(config, node)?))
        }
    } else {
        Origin::Configuration(by_family(config.ranges.clone()))
    };
    let mtu = [config.mtu, node.map_or(0, |node| node.mtu)].into_iter().find(|mtu| *mtu != 0).unwrap_or(DEFAULT_MTU);
    let ranges = Ranges { origin, state_dir: config.state_dir.clone(), mtu, ipv6: netlink::has_ipv6() };
    let choices = ranges.choices()?;
    if choices.is_empty() {
        return Err(no_data());
    }
    check_mtu(mtu, &choices)?;
    ranges.restricted_to(pod.ranges)?.with_addresses(pod.ips)
}

fn pod_cidrs(config: &NetworkConfig, node: &NodeFile) -> Result<Vec<Range>, CniError> {
    let path = config.state_dir.join(NodeFile::NAME);
    let range = |network: &IpNetwork| {
        Range::new(*network).map_err(|e| FileError::field(&path, "podCIDRs", e.to_string()).into())
    };
    node.pod_cidrs.iter().map(range).collect()
}

fn check_mtu(mtu: u32, choices: &[Choice]) -> Result<(), CniError> {
    let ipv6 = choices.iter().flat_map(|choice| &choice.ranges).any(|range| range.network().is_ipv6());
    let least = least_mtu(ipv6);
    if (least..=65535).contains(&mtu) {
        Ok(())
    } else {
        Err(CniError::config("mtu", format!("{mtu} is not between {least} and 65535")))
    }
}

impl Ranges {
    /// Returns one choice per address of the pod, from the ranges of this moment. Call it again
    /// after each time the store was locked: the agent takes blocks away under that lock.
    pub(crate) fn choices(&self) -> Result<Vec<Choice>, CniError> {
        let choices = match &self.origin {
            Origin::Configuration(choices) | Origin::PodCidrs(choices) => choices.clone(),
            Origin::Pools(request) => pools::choices(request, &self.state_dir)?,
        };
        supported(choices, self.ipv6)
    }

    /// Returns all ranges from which this node gives out addresses.
    pub(crate) fn all(&self) -> Result<Vec<Range>, CniError> {
        match &self.origin {
            Origin::Configuration(choices) | Origin::PodCidrs(choices) => {
                Ok(choices.iter().flat_map(|choice| choice.ranges.iter().copied()).collect())
            }
            Origin::Pools(_) => pools::blocks(&self.state_dir),
        }
    }

    /// Restricts the choices to parts of the ranges. Rejects parts of ranges that the agent
    /// manages: it alone decides which addresses of these are used.
    fn restricted_to(mut self, sets: &[Vec<Span>]) -> Result<Self, CniError> {
        let managed = |what| {
            let reason = format!("addresses of this node's pods come from its {what}, which its agent manages");
            Err(CniError::config("runtimeConfig.ipRanges", reason))
        };
        match &mut self.origin {
            _ if sets.is_empty() => {}
            Origin::Configuration(choices) => sets.iter().flatten().try_for_each(|span| restrict(choices, span))?,
            Origin::PodCidrs(_) => return managed("podCIDRs"),
            Origin::Pools(_) => return managed("blocks of pools"),
        }
        Ok(self)
    }

    /// Fixes the addresses that the runtime asks for.
    fn with_addresses(mut self, ips: &[IpAddr]) -> Result<Self, CniError> {
        for ip in ips {
            match &mut self.origin {
                Origin::Configuration(choices) | Origin::PodCidrs(choices) => fix(choices, *ip)?,
                Origin::Pools(pools::PodPools { request, .. }) => match request.address(IpFamily::of(*ip)) {
                    Some(other) if other != *ip => {
                        return Err(rejected(format!("address {ip}: an annotation of the pod asks for {other}")));
                    }
                    Some(_) => {}
                    None => request.addresses.push(*ip),
                },
            }
        }
        Ok(self)
    }

    /// Returns whether the agent may claim more addresses when these are used up.
    pub(crate) const fn agent_may_claim_more(&self) -> bool {
        matches!(self.origin, Origin::Pools(_))
    }
}

/// Leaves out the choices of a family that the kernel does not have. None left is an error.
fn supported(mut choices: Vec<Choice>, ipv6: bool) -> Result<Vec<Choice>, CniError> {
    let any = !choices.is_empty();
    choices.retain(|choice| ipv6 || choice.ranges.iter().all(|range| range.network().is_ipv4()));
    if any && choices.is_empty() {
        let reason = "all are IPv6, which this kernel does not have (ipv6.disable=1)";
        return Err(CniError::config("ranges", reason.to_owned()));
    }
    Ok(choices)
}

/// Groups ranges into one choice per family. The family of the first range comes first, in the
/// pod's addresses too.
fn by_family(ranges: Vec<Range>) -> Vec<Choice> {
    let first_is_4 = ranges.first().is_some_and(|r| r.network().is_ipv4());
    let (first, second): (Vec<_>, Vec<_>) = ranges.into_iter().partition(|r| r.network().is_ipv4() == first_is_4);
    let families = [first, second].into_iter().filter(|f| !f.is_empty());
    families.map(|ranges| Choice { ranges, ..Choice::default() }).collect()
}

/// Restricts the choice of the span's family. The span must lie in a configured range: only for
/// those is it known that no other node gives out the same addresses.
fn restrict(choices: &mut [Choice], span: &Span) -> Result<(), CniError> {
    let holds = |whole: IpNetwork| whole.contains(span.subnet.ip()) && whole.prefix() <= span.subnet.prefix();
    let has = |range: &Range| holds(range.network()) && range.slot(span.first).is_some();
    let Some(choice) = choices.iter_mut().find(|choice| choice.ranges.iter().any(has)) else {
        let reason = format!("{} is in none of the ranges of the configuration", span.subnet);
        return Err(CniError::config("runtimeConfig.ipRanges", reason));
    };
    choice.within.push(span.first..=span.last);
    Ok(())
}

/// Fixes the address of one choice. It must be an address that the choice could also have drawn
/// without a request.
fn fix(choices: &mut [Choice], ip: IpAddr) -> Result<(), CniError> {
    let range = |choice: &Choice| choice.ranges.iter().find(|range| range.slot(ip).is_some()).copied();
    let Some((choice, range)) =
        choices.iter_mut().find_map(|choice| Some(range(choice)).flatten().map(|range| (choice, range)))
    else {
        return Err(rejected(format!("address {ip} is in none of this node's ranges")));
    };
    if range.slot(ip).is_none_or(|slot| range.is_reserved(slot)) {
        return Err(rejected(format!(
            "address {ip} is not for pods: it is the first or the last one of range {range}"
        )));
    }
    if !choice.is_within(ip) {
        return Err(rejected(format!("address {ip} is in none of the ranges of runtimeConfig.ipRanges")));
    }
    choice.fixed = Some(ip);
    Ok(())
}

fn rejected(reason: String) -> CniError {
    CniError::config("runtimeConfig.ips", reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_without_ipv6_gives_pods_ipv4_only() {
        let choices =
            |ranges: &[&str]| by_family(ranges.iter().map(|r| Range::new(r.parse().unwrap()).unwrap()).collect());
        let both = choices(&["fd00:1::/64", "10.1.0.0/24"]);
        assert_eq!(supported(both.clone(), true).unwrap(), both);
        assert_eq!(supported(both, false).unwrap(), choices(&["10.1.0.0/24"]));
        let error = supported(choices(&["fd00:1::/64"]), false).unwrap_err().to_string();
        assert!(error.contains("ipv6.disable=1"), "{error}");
        assert!(supported(vec![], false).unwrap().is_empty(), "no range yet");
    }
}
