//! Attaches the programs to the node's cgroup, uplinks, tunnels and pods.
//!
//! A job of the node's task, which calls [`Attachments::apply`] once the maps are complete:
//! programs that take a predecessor's place must not run on empty maps. The CNI plugin attaches the
//! programs of new pods; the check here repairs what was removed. Other programs are never
//! detached.

use std::path::PathBuf;

use dataplane_host::netlink::{Link, Socket};
use dataplane_host::pins::Pins;

use crate::config::UplinkAttach;
use crate::load::programs::Programs;
use crate::load::{LoadError, attach, foreign, migrate};

/// The programs, and their attachments that are still to be checked.
#[derive(Debug)]
pub(super) struct Attachments {
    pub(super) pins: Pins,
    pub(super) programs: Programs,
    pub(super) cgroup: PathBuf,
    pub(super) uplink_attach: UplinkAttach,
    /// Programs of another ABI are attached: their maps are migrated and their pins removed once.
    pub(super) predecessor: bool,
    /// The pods' links are checked at the next call of [`Self::apply`].
    pub(super) pods_due: bool,
}

impl Attachments {
    /// Returns descriptions of the programs of others at the hooks of [`Self::apply`].
    pub(super) fn foreign(&self, socket: &mut Socket, uplinks: &[Link], tunnels: &[Link]) -> Vec<String> {
        let devices: Vec<_> = uplinks.iter().chain(tunnels).cloned().collect();
        foreign::programs(&self.programs, &self.cgroup, &devices, socket)
    }

    /// Attaches what is missing and returns the number of operations. `detach`: all uplinks and
    /// tunnels are known, so other devices lose their programs.
    pub(super) fn apply(
        &mut self,
        socket: &mut Socket,
        (uplinks, tunnels): (&[Link], &[Link]),
        detach: bool,
    ) -> Result<usize, LoadError> {
        let Self { pins, programs, .. } = self;
        let mut operations = 0;
        // Before the programs: they must find the flows of their predecessor.
        if self.predecessor {
            operations += migrate::migrate_maps(pins)?;
        }
        operations += attach::cgroup(pins, programs, &self.cgroup)?;
        // Packets from a tunnel are treated like packets from an uplink.
        let devices: Vec<_> = uplinks.iter().chain(tunnels).cloned().collect();
        let attached = attach::uplinks(pins, programs, &devices, self.uplink_attach, socket)?;
        operations += attached.operations;
        if detach {
            operations += attached.detach_others(pins, socket)?;
        }
        if self.pods_due {
            operations += attach::pods(pins, programs, socket)?;
            self.pods_due = false;
        }
        // After ours are attached: until then the predecessor's programs serve the traffic.
        if std::mem::take(&mut self.predecessor) {
            operations += attach::remove_predecessors(pins)?;
        }
        Ok(operations)
    }
}
