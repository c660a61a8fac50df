//! From what is in the tries to what should be.

use std::net::IpAddr;

use bytemuck::Pod;
use dataplane_common::types::address::{Prefix, V4, V6};
use dataplane_common::types::pod::Network;
use dataplane_host::map::{MapError, Table};
use dataplane_host::pins::Pins;
use ipnetwork::IpNetwork;

use super::NetworkEntries;

/// An address family's form of a network.
pub trait NetworkKey: Into<IpAddr> {
    /// The trie.
    const MAP: &'static str;
    /// From an address of this family.
    fn from_ip(ip: IpAddr) -> Option<Self>;
}

impl NetworkKey for V4 {
    const MAP: &'static str = "networks4";

    fn from_ip(ip: IpAddr) -> Option<Self> {
        if let IpAddr::V4(a) = ip { Some(a.into()) } else { None }
    }
}

impl NetworkKey for V6 {
    const MAP: &'static str = "networks6";

    fn from_ip(ip: IpAddr) -> Option<Self> {
        if let IpAddr::V6(a) = ip { Some(a.into()) } else { None }
    }
}

/// What has to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkChanges {
    /// New or different, the longest prefixes first: no packet finds a network before it can find the exceptions from it.
    pub set: Vec<(IpNetwork, Network)>,
    /// No longer wanted, the shortest prefixes first.
    pub remove: Vec<IpNetwork>,
}

impl NetworkChanges {
    /// From what is there to what should be.
    #[must_use]
    pub fn between(present: &NetworkEntries, wanted: &NetworkEntries) -> Self {
        let mut set: Vec<_> =
            wanted.iter().filter(|(range, net)| present.get(range) != Some(net)).map(|(r, n)| (*r, *n)).collect();
        set.sort_by_key(|(range, _)| std::cmp::Reverse(range.prefix()));
        let mut remove: Vec<_> = present.keys().filter(|range| !wanted.contains_key(range)).copied().collect();
        remove.sort_by_key(IpNetwork::prefix);
        Self { set, remove }
    }

    /// How many operations that is.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.set.len() + self.remove.len()
    }

    /// Whether everything is right.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What is in the tries.
///
/// # Errors
/// A trie can't be read.
pub fn read(pins: &Pins) -> Result<NetworkEntries, MapError> {
    let mut nets = read_family::<V4>(pins)?;
    nets.extend(read_family::<V6>(pins)?);
    Ok(nets)
}

fn read_family<A: NetworkKey>(pins: &Pins) -> Result<NetworkEntries, MapError>
where
    Prefix<A>: Pod,
{
    let entries = Table::<Prefix<A>, Network>::open(pins, A::MAP)?.entries()?;
    let network = |(key, net): (Prefix<A>, Network)| {
        let length = u8::try_from(key.len).ok()?;
        Some((IpNetwork::new(key.data.into(), length).ok()?, net))
    };
    Ok(entries.into_iter().filter_map(network).collect())
}

/// Does the changes; the entries of each family in as few system calls as possible.
///
/// # Errors
/// A trie is full, or the kernel refused. What was done before stays.
pub fn write(pins: &Pins, changes: &NetworkChanges) -> Result<(), MapError> {
    write_family::<V4>(pins, changes)?;
    write_family::<V6>(pins, changes)
}

fn write_family<A: NetworkKey>(pins: &Pins, changes: &NetworkChanges) -> Result<(), MapError>
where
    Prefix<A>: Pod,
{
    let key = |range: &IpNetwork| Some(Prefix { len: range.prefix().into(), data: A::from_ip(range.network())? });
    let (keys, values): (Vec<_>, Vec<_>) = changes.set.iter().filter_map(|(r, net)| Some((key(r)?, *net))).unzip();
    let gone: Vec<_> = changes.remove.iter().filter_map(key).collect();
    if keys.is_empty() && gone.is_empty() {
        return Ok(());
    }
    let table = Table::<Prefix<A>, Network>::open(pins, A::MAP)?;
    table.insert_batch(&keys, &values).map_err(|(e, _)| e)?;
    // One by one: a batch ends at an entry that somebody else has removed.
    gone.iter().try_for_each(|key| table.remove(key).map(|_| ()))
}
