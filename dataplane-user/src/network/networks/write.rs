//! Reads the tries `networks4` and `networks6` and writes the difference to the desired entries.
//!
//! Called by the node task. Writes in an order in which a packet never finds a network without the
//! exceptions from it.

use std::net::IpAddr;

use bytemuck::Pod;
use dataplane_common::types::address::{Prefix, V4, V6};
use dataplane_common::types::pod::Network;
use dataplane_host::map::{MapError, PinnedMap};
use dataplane_host::pins::Pins;
use ipnetwork::IpNetwork;

use super::NetworkEntries;

/// The address of a network in the form of one address family's trie.
pub trait NetworkKey: Into<IpAddr> {
    /// Name of the family's map.
    const MAP: &'static str;
    /// Converts an address; `None` if it is of the other family.
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

/// The writes that turn the present entries into the desired ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkChanges {
    /// New or different entries, longest prefixes first, so that the exceptions from a network are
    /// written before the network.
    pub set: Vec<(IpNetwork, Network)>,
    /// Unwanted entries, shortest prefixes first, for the same reason.
    pub remove: Vec<IpNetwork>,
}

impl NetworkChanges {
    /// Computes the difference between two sets of entries.
    #[must_use]
    pub fn between(present: &NetworkEntries, wanted: &NetworkEntries) -> Self {
        let mut set: Vec<_> =
            wanted.iter().filter(|(range, net)| present.get(range) != Some(net)).map(|(r, n)| (*r, *n)).collect();
        set.sort_by_key(|(range, _)| std::cmp::Reverse(range.prefix()));
        let mut remove: Vec<_> = present.keys().filter(|range| !wanted.contains_key(range)).copied().collect();
        remove.sort_by_key(IpNetwork::prefix);
        Self { set, remove }
    }

    /// Returns the number of entries to write and to remove.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.set.len() + self.remove.len()
    }

    /// Returns true if nothing differs.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Reads the entries of both tries.
///
/// # Errors
/// A trie can't be opened or read.
pub fn read(pins: &Pins) -> Result<NetworkEntries, MapError> {
    let mut entries = read_family::<V4>(pins)?;
    entries.extend(read_family::<V6>(pins)?);
    Ok(entries)
}

fn read_family<A: NetworkKey>(pins: &Pins) -> Result<NetworkEntries, MapError>
where
    Prefix<A>: Pod,
{
    let entries = PinnedMap::<Prefix<A>, Network>::open(pins, A::MAP)?.entries()?;
    let network = |(key, net): (Prefix<A>, Network)| {
        let length = u8::try_from(key.len).ok()?;
        Some((IpNetwork::new(key.data.into(), length).ok()?, net))
    };
    Ok(entries.into_iter().filter_map(network).collect())
}

/// Writes the changes, the entries of each family in as few system calls as possible.
///
/// # Errors
/// A trie is full, or the kernel rejects an entry. Entries written before the failure stay.
pub fn write(pins: &Pins, changes: &NetworkChanges) -> Result<(), MapError> {
    let (four, six) = (write_family::<V4>(pins, changes), write_family::<V6>(pins, changes));
    four.and(six)
}

fn write_family<A: NetworkKey>(pins: &Pins, changes: &NetworkChanges) -> Result<(), MapError>
where
    Prefix<A>: Pod,
{
    let key = |range: &IpNetwork| Some(Prefix { len: range.prefix().into(), data: A::from_ip(range.network())? });
    let (keys, values): (Vec<_>, Vec<_>) = changes.set.iter().filter_map(|(r, net)| Some((key(r)?, *net))).unzip();
    let gone: Vec<_> = changes.remove.iter().filter_map(key).collect();
    // A family without changes needs no open map.
    if keys.is_empty() && gone.is_empty() {
        return Ok(());
    }
    let table = PinnedMap::<Prefix<A>, Network>::open(pins, A::MAP)?;
    let insert = || table.insert_batch(&keys, &values).map_err(|(e, _)| e);
    let mut inserted = insert();
    // One by one: a batch ends at the first missing entry, which another process may have removed.
    gone.iter().try_for_each(|key| table.remove(key).map(|_| ()))?;
    if matches!(inserted, Err(MapError::Full { .. })) && !gone.is_empty() {
        inserted = insert();
    }
    inserted
}
