//! Keeps the LPM tries of networks in step with the route plan.
//!
//! Called by `routing`, which compares first and writes after the routes, because a packet that the
//! programs send into the tunnel needs its route. `network::networks` derives and writes the
//! entries.

use dataplane_common::types::pod::network_flags;
use dataplane_host::map::MapError;
use dataplane_host::pins::Pins;
use ipnetwork::IpNetwork;

use crate::config::Config;
use crate::network::networks::{self, Inputs, NetworkChanges, NetworkEntries};
use crate::network::routes::RoutePlan;
use crate::network::tunnel::Devices;

/// Values that the entries depend on besides the configuration.
#[derive(Clone, Copy, Debug)]
pub struct NetworkInputs<'a> {
    /// Next hops of the nodes' blocks and addresses.
    pub plan: &'a RoutePlan,
    /// Tunnel devices.
    pub devices: Devices,
    /// Networks of all IP pools.
    pub pools: &'a [IpNetwork],
    /// IPv4 link-local networks that the host's routes lead to other devices than uplinks.
    pub link_local: &'a [IpNetwork],
    /// Ranges of cluster IPs.
    pub service_ranges: &'a [IpNetwork],
}

/// The last known content of the tries.
#[derive(Debug, Default)]
pub struct NetworkTries {
    present: Option<NetworkEntries>,
    features: Option<u32>,
    settled: bool,
}

/// The desired entries, and the changes that lead to them.
#[derive(Debug)]
pub struct PendingNetworks {
    wanted: NetworkEntries,
    changes: NetworkChanges,
}

impl PendingNetworks {
    /// Returns the networks of Services.
    #[must_use]
    pub fn services(&self) -> Vec<IpNetwork> {
        self.wanted.iter().filter(|(_, net)| net.flags & network_flags::SERVICE != 0).map(|(range, _)| *range).collect()
    }
}

impl NetworkTries {
    /// Forgets the known content, so that the next comparison reads the tries.
    pub fn invalidate(&mut self) {
        self.present = None;
    }

    /// Notes that the `ServiceCIDR` list has had time to arrive. From then on a missing range means
    /// deleted; before, it may not have arrived yet.
    pub const fn settle(&mut self) {
        self.settled = true;
    }

    /// Returns the bits of `NodeConfig::features`; `None` until the tries have been written once.
    #[must_use]
    pub const fn features(&self) -> Option<u32> {
        self.features
    }

    /// Computes the desired entries and compares them with the tries.
    ///
    /// # Errors
    /// The tries could not be read.
    pub fn compare(
        &mut self,
        pins: &Pins,
        config: &Config,
        known: &NetworkInputs<'_>,
    ) -> Result<PendingNetworks, MapError> {
        let mut wanted = networks::desired(&Inputs {
            plan: known.plan,
            devices: known.devices,
            pod_networks: &[&config.cluster_cidrs, known.pools],
            non_masquerade: &config.non_masquerade_cidrs,
            link_local: known.link_local,
            masquerade: config.masquerade,
            service_ranges: known.service_ranges,
            service_proxy: config.service_proxy,
        });
        let present = match self.present.take() {
            Some(present) => present,
            None => networks::read(pins)?,
        };
        if !self.settled && config.service_proxy {
            for (range, _) in present.iter().filter(|(_, net)| net.flags & network_flags::SERVICE != 0) {
                wanted.entry(*range).or_default().flags |= network_flags::SERVICE;
            }
        }
        Ok(PendingNetworks { changes: NetworkChanges::between(&present, &wanted), wanted })
    }

    /// Writes the changes; returns the number of entries.
    ///
    /// # Errors
    /// A trie is full, or the kernel refused a write. The next comparison reads the tries again. A
    /// full trie has all that fits, so the features that need the tries are on.
    pub fn write(&mut self, pins: &Pins, config: &Config, pending: PendingNetworks) -> Result<usize, MapError> {
        let PendingNetworks { wanted, changes } = pending;
        let written = networks::write(pins, &changes);
        if matches!(written, Ok(()) | Err(MapError::Full { .. })) {
            self.features = Some(networks::features(&wanted, config.masquerade, config.service_proxy));
        }
        written?;
        self.present = Some(wanted);
        Ok(changes.len())
    }
}
