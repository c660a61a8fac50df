//! Keeps the LPM tries of networks as the route plan says.
//!
//! Called by the node's task: it compares first, and writes after the routes, because a packet that the programs send
//! into the tunnel needs its route. The entries are derived and written by `network::networks`.

use dataplane_common::types::pod::network_flags;
use dataplane_host::map::MapError;
use dataplane_host::pins::Pins;
use ipnetwork::IpNetwork;

use crate::config::Config;
use crate::network::networks::{self, Inputs, NetworkChanges, NetworkEntries};
use crate::network::routes::RoutePlan;
use crate::network::tunnel::Devices;

/// What the entries depend on besides the configuration.
#[derive(Clone, Copy, Debug)]
pub struct NetworkInputs<'a> {
    /// Where the blocks and addresses of nodes are.
    pub plan: &'a RoutePlan,
    /// The tunnels.
    pub devices: Devices,
    /// The networks of IP pools.
    pub pools: &'a [IpNetwork],
    /// The ranges of cluster IPs.
    pub service_ranges: &'a [IpNetwork],
}

/// The last known content of the tries.
#[derive(Debug, Default)]
pub struct NetworkTries {
    present: Option<NetworkEntries>,
    features: Option<u32>,
    settled: bool,
}

/// What should be in the tries.
#[derive(Debug)]
pub struct PendingNetworks {
    wanted: NetworkEntries,
    changes: NetworkChanges,
}

impl PendingNetworks {
    /// The networks of Services.
    #[must_use]
    pub fn services(&self) -> Vec<IpNetwork> {
        self.wanted.iter().filter(|(_, net)| net.flags & network_flags::SERVICE != 0).map(|(range, _)| *range).collect()
    }
}

impl NetworkTries {
    /// Reads the tries again next time.
    pub fn invalidate(&mut self) {
        self.present = None;
    }

    /// Called once the ServiceCIDR list has had time to arrive. From then on a missing range means deleted; before, it may
    /// just not have arrived.
    pub const fn settle(&mut self) {
        self.settled = true;
    }

    /// The bits of `NodeConfig::features`; `None` before the tries were compared with what should be in them.
    #[must_use]
    pub const fn features(&self) -> Option<u32> {
        self.features
    }

    /// What follows from the plan, and how it differs from what is in the tries.
    ///
    /// # Errors
    /// The tries can't be read.
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

    /// Brings the tries there; says how many entries changed.
    ///
    /// # Errors
    /// A trie is full, or the kernel refused: then they are read again next time.
    pub fn write(&mut self, pins: &Pins, config: &Config, pending: PendingNetworks) -> Result<usize, MapError> {
        let PendingNetworks { wanted, changes } = pending;
        networks::write(pins, &changes)?;
        self.features = Some(networks::features(&wanted, config.masquerade, config.service_proxy));
        self.present = Some(wanted);
        Ok(changes.len())
    }
}
