//! Settings of a device under `/proc/sys/net`, in the network namespace of the calling thread.
//!
//! Only those that netlink cannot set; the others are in `quiet_link`.

use std::io;

use crate::error::CniError;

/// Settings of the host's end: no router advertisements and no redirects, so that pods cannot
/// change the node's routes (CVE-2020-10749 and similar). The rest is set by netlink
/// (`quiet_link`).
const HOST_IPV6: [(&str, &str); 3] = [("accept_ra", "0"), ("accept_redirects", "0"), ("autoconf", "0")];

/// Sets what [`HOST_IPV6`] says. A kernel without IPv6 has nothing to set.
pub(crate) fn quiet_ipv6(device: &str) -> Result<(), CniError> {
    for (name, value) in HOST_IPV6 {
        match write(device, name, value) {
            Ok(()) => {}
            Err((_, e)) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err((path, e)) => return Err(CniError::io(format!("write {path}"), e)),
        }
    }
    Ok(())
}

/// Lets a device have IPv6 where the namespace's default is to have none.
pub(crate) fn enable_ipv6(device: &str) -> Result<(), CniError> {
    write(device, "disable_ipv6", "0").map_err(|(path, e)| CniError::io(format!("write {path}"), e))
}

fn write(device: &str, name: &str, value: &str) -> Result<(), (String, io::Error)> {
    // Device names are checked or made by us: they contain no slash.
    let path = format!("/proc/sys/net/ipv6/conf/{device}/{name}");
    std::fs::write(&path, value).map_err(|e| (path, e))
}
