//! Finds programs of others at the hooks where Ropeway's programs are attached.
//!
//! Left by another network plugin, they may translate addresses before Ropeway sees them. The
//! node's task asks at each refresh; nothing is detached here, because the owner may still run.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use dataplane_host::netlink::{Link, NetlinkError, Socket};
use dataplane_host::sys;

use super::attach::UPLINK_HOOKS;
use super::programs::{Programs, SOCKET_PROGRAMS};

/// Returns descriptions of the programs of others at the hooks of the cgroup and of these devices,
/// sorted. A hook that cannot be listed has none: the kernel may not know it.
pub fn programs(programs: &Programs, cgroup: &Path, devices: &[Link], socket: &mut Socket) -> Vec<String> {
    let ours: BTreeSet<u32> = programs.ids().collect();
    let mut found = BTreeSet::new();
    if let Ok(dir) = File::open(cgroup) {
        for (name, attach_type) in SOCKET_PROGRAMS {
            let ids = sys::cgroup_programs(dir.as_fd(), attach_type).unwrap_or_default();
            let hook = name.trim_start_matches("sock_");
            found.extend(others(&ids, &ours, |name| format!("{name} at {hook} of cgroup {}", cgroup.display())));
        }
    }
    for device in devices {
        for (_, direction, attach_type) in UPLINK_HOOKS {
            let ids = sys::device_programs(device.index.0, attach_type).unwrap_or_default();
            let hook = format!("{direction:?}").to_lowercase();
            found.extend(others(&ids, &ours, |name| format!("{name} at tcx {hook} of {}", device.name)));
        }
        found.extend(filters(device, socket).unwrap_or_default());
    }
    found.into_iter().collect()
}

/// Returns descriptions of the programs that are not ours.
fn others(ids: &[u32], ours: &BTreeSet<u32>, describe: impl Fn(String) -> String) -> Vec<String> {
    ids.iter().filter(|id| !ours.contains(id)).filter_map(|id| name(*id).ok()).map(describe).collect()
}

/// Returns the name of a program, or its id if it has none.
///
/// # Errors
/// The program is gone.
fn name(id: u32) -> io::Result<String> {
    let info = sys::program_info(sys::program_by_id(id)?.as_fd())?;
    let name = String::from_utf8_lossy(&info.name).trim_end_matches('\0').to_owned();
    Ok(if name.is_empty() { format!("program {id}") } else { name })
}

/// Returns descriptions of the programs in other filters than ours.
fn filters(device: &Link, socket: &mut Socket) -> Result<Vec<String>, NetlinkError> {
    let filters = socket.filters(device.index)?;
    let others = filters.into_iter().filter(|f| !f.is_ours() && f.program.is_some());
    let describe = |f: dataplane_host::netlink::Filter| {
        let hook = format!("{:?}", f.direction).to_lowercase();
        format!("{} at tc {hook} of {}", f.name.unwrap_or_else(|| "program".into()), device.name)
    };
    Ok(others.map(describe).collect())
}
