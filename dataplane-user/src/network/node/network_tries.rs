//! The tries of networks, kept as the plan says.

use dataplane_common::types::pod::network_flags;
use dataplane_host::map::MapError;
use dataplane_host::pins::Pins;
use ipnetwork::IpNetwork;

use crate::config::Config;
use crate::network::networks::{self, Changes, Inputs, Nets};
use crate::network::routes::Plan;
use crate::network::tunnel::Devices;

/// What the entries depend on besides the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// Where the blocks and addresses of nodes are.
    pub plan: &'a Plan,
    /// The tunnels.
    pub devices: Devices,
    /// The networks of IP pools.
    pub pools: &'a [IpNetwork],
    /// The ranges of cluster IPs.
    pub service_ranges: &'a [IpNetwork],
}

/// What is in the tries, as far as this agent knows.
#[derive(Debug, Default)]
pub struct Networks {
    present: Option<Nets>,
    features: Option<u32>,
    settled: bool,
}

/// What should be in the tries.
#[derive(Debug)]
pub struct Pending {
    wanted: Nets,
    changes: Changes,
}

impl Pending {
    /// The networks of Services.
    #[must_use]
    pub fn services(&self) -> Vec<IpNetwork> {
        self.wanted.iter().filter(|(_, net)| net.flags & network_flags::SERVICE != 0).map(|(range, _)| *range).collect()
    }
}

impl Networks {
    /// Reads the tries again next time.
    pub fn doubt(&mut self) {
        self.present = None;
    }

    /// From now on a range of cluster IPs that nobody tells of is gone. Before, it may be one that has not been told of yet.
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
    pub fn compare(&mut self, pins: &Pins, config: &Config, known: &Known<'_>) -> Result<Pending, MapError> {
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
        Ok(Pending { changes: Changes::between(&present, &wanted), wanted })
    }

    /// Brings the tries there; says how many entries changed.
    ///
    /// # Errors
    /// A trie is full, or the kernel refused: then they are read again next time.
    pub fn write(&mut self, pins: &Pins, config: &Config, pending: Pending) -> Result<usize, MapError> {
        let Pending { wanted, changes } = pending;
        networks::write(pins, &changes)?;
        self.features = Some(networks::features(&wanted, config.masquerade, config.service_proxy));
        self.present = Some(wanted);
        Ok(changes.len())
    }
}
