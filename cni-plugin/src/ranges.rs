//! What ADD needs to know of the node: where a pod's addresses come from, as the node and the runtime want it, and the MTU.

pub(crate) mod pools;

use std::net::IpAddr;
use std::path::PathBuf;

use dataplane_host::pools::Wish;
use dataplane_host::store::{Choice, Range};
use ipnetwork::IpNetwork;

use crate::capabilities::Span;
use crate::error::CniError;

/// The configuration completed by what the agent knows of the node.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings {
    source: Source,
    state_dir: PathBuf,
    pub(crate) mtu: u32,
}

/// Where addresses come from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Source {
    /// From ranges of the configuration: for each family of the node a choice.
    Configured(Vec<Choice>),
    /// The same, from ranges that the agent has from Kubernetes.
    PodCidrs(Vec<Choice>),
    /// From this node's blocks, which come and go, as the pod asks.
    Pools(Wish),
}

impl Settings {
    pub(crate) const fn new(source: Source, state_dir: PathBuf, mtu: u32) -> Self {
        Self { source, state_dir, mtu }
    }

    /// From where each address of the pod is chosen, at this moment. To be asked anew whenever the store has been locked.
    pub(crate) fn families(&self) -> Result<Vec<Choice>, CniError> {
        match &self.source {
            Source::Configured(families) | Source::PodCidrs(families) => Ok(families.clone()),
            Source::Pools(wish) => pools::families(wish, &self.state_dir),
        }
    }

    /// All ranges from which this node gives out addresses.
    pub(crate) fn ranges(&self) -> Result<Vec<Range>, CniError> {
        match &self.source {
            Source::Configured(families) | Source::PodCidrs(families) => {
                Ok(families.iter().flat_map(|f| f.ranges.iter().copied()).collect())
            }
            Source::Pools(_) => pools::blocks(&self.state_dir),
        }
    }

    /// The same for a pod whose addresses are to come from parts of the ranges, at most one set of each family. Where the
    /// agent manages the ranges, it alone decides.
    pub(crate) fn with_ranges(mut self, sets: &[Vec<Span>]) -> Result<Self, CniError> {
        let managed = |what| {
            let reason = format!("addresses of this node's pods come from its {what}, which its agent manages");
            Err(CniError::Config { field: "runtimeConfig.ipRanges", reason })
        };
        match &mut self.source {
            _ if sets.is_empty() => {}
            Source::Configured(families) => sets.iter().flatten().try_for_each(|span| narrow(families, span))?,
            Source::PodCidrs(_) => return managed("podCIDRs"),
            Source::Pools(_) => return managed("blocks of pools"),
        }
        Ok(self)
    }

    /// The same for a pod that is to have these addresses, at most one of each family.
    pub(crate) fn with_addresses(mut self, ips: &[IpAddr]) -> Result<Self, CniError> {
        for ip in ips {
            match &mut self.source {
                Source::Configured(families) | Source::PodCidrs(families) => fix(families, *ip)?,
                Source::Pools(wish) => match wish.address(ip.is_ipv6()) {
                    Some(other) if other != *ip => {
                        return Err(refused(format!("address {ip}: an annotation of the pod asks for {other}")));
                    }
                    Some(_) => {}
                    None => wish.addresses.push(*ip),
                },
            }
        }
        Ok(self)
    }

    /// Whether the agent may find more addresses when these are used up.
    pub(crate) const fn can_grow(&self) -> bool {
        matches!(self.source, Source::Pools(_))
    }
}

/// A choice for each family; the one that is named first is the pod's first.
pub(crate) fn by_family(ranges: Vec<Range>) -> Vec<Choice> {
    let first_is_4 = ranges.first().is_some_and(|r| r.network().is_ipv4());
    let (first, second): (Vec<_>, Vec<_>) = ranges.into_iter().partition(|r| r.network().is_ipv4() == first_is_4);
    let families = [first, second].into_iter().filter(|f| !f.is_empty());
    families.map(|ranges| Choice { ranges, ..Choice::default() }).collect()
}

/// Only a part of what could have been chosen as well: other nodes and the agent know of no other ranges.
fn narrow(families: &mut [Choice], span: &Span) -> Result<(), CniError> {
    let holds = |whole: IpNetwork| whole.contains(span.subnet.ip()) && whole.prefix() <= span.subnet.prefix();
    let has = |range: &Range| holds(range.network()) && range.slot(span.first).is_some();
    let Some(family) = families.iter_mut().find(|family| family.ranges.iter().any(has)) else {
        let reason = format!("{} is in none of the ranges of the configuration", span.subnet);
        return Err(CniError::Config { field: "runtimeConfig.ipRanges", reason });
    };
    family.within.push(span.first..=span.last);
    Ok(())
}

/// Only addresses that could have been chosen as well.
fn fix(families: &mut [Choice], ip: IpAddr) -> Result<(), CniError> {
    let range = |family: &Choice| family.ranges.iter().find(|range| range.slot(ip).is_some()).copied();
    let Some((family, range)) =
        families.iter_mut().find_map(|family| Some(range(family)).flatten().map(|r| (family, r)))
    else {
        return Err(refused(format!("address {ip} is in none of this node's ranges")));
    };
    if range.slot(ip).is_none_or(|slot| range.is_reserved(slot)) {
        return Err(refused(format!("address {ip} is no pod's: it is the first or the last one of range {range}")));
    }
    if !family.is_within(ip) {
        return Err(refused(format!("address {ip} is in none of the ranges of runtimeConfig.ipRanges")));
    }
    family.fixed = Some(ip);
    Ok(())
}

fn refused(reason: String) -> CniError {
    CniError::Config { field: "runtimeConfig.ips", reason }
}
