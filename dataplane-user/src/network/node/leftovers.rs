//! Detects what kube-proxy has left on the node, and logs it: rules in the packet filter or in
//! IPVS, and the sysctl `route_localnet`.
//!
//! Ropeway translates packets before the packet filter sees them, so most rules have no effect.
//! They still match packets that Ropeway leaves alone, such as those to the address of a deleted
//! Service. Nothing is removed or reset here: another kube-proxy, or another program that
//! translates to loopback addresses, may still need it.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use dataplane_host::netlink::{NetlinkError, NftChain, chains};
use tokio::task::{JoinError, spawn_blocking};
use tracing::{info, warn};

use super::status::{NodeStatus, PeriodicTask};

/// Interval between checks.
const PAUSE: Duration = Duration::from_secs(60);
/// Kernel file that lists IPVS services.
const IPVS: &str = "/proc/net/ip_vs";
/// Kernel file of the sysctl that kube-proxy's iptables mode sets to 1 for node ports at loopback
/// addresses, and that its cleanup leaves.
const ROUTE_LOCALNET: &str = "/proc/sys/net/ipv4/conf/all/route_localnet";

/// Error of a check.
#[derive(Debug, thiserror::Error)]
enum LeftoversError {
    #[error(transparent)]
    PacketFilter(#[from] NetlinkError),
    #[error("cannot read {IPVS}: {0}")]
    Ipvs(io::Error),
}

/// Logs when something is found and when it is gone; checks at intervals, for ever. A check that
/// fails says nothing about rules.
///
/// # Errors
/// A check has panicked.
pub async fn watch(status: Arc<NodeStatus>) -> Result<Infallible, JoinError> {
    let (mut said, mut failed, mut said_open) = (None, false, false);
    loop {
        let result = spawn_blocking(look).await?;
        let fails = result.is_err();
        match result {
            Ok(found) => {
                report(said.as_deref(), found.as_deref());
                said = found;
            }
            Err(error) => {
                status.round_failed(PeriodicTask::Leftovers);
                // Logged once, until a check succeeds again.
                if !failed {
                    warn!(%error, "cannot look for rules of kube-proxy");
                }
            }
        }
        failed = fails;
        let open = is_localnet_routed();
        if open && !said_open {
            warn!(
                "net.ipv4.conf.all.route_localnet is 1: the node's loopback addresses can be reached from other machines by devices without Ropeway's \
                 programs; set it to 0, unless another program needs it"
            );
        }
        said_open = open;
        tokio::time::sleep(PAUSE).await;
    }
}

fn is_localnet_routed() -> bool {
    std::fs::read_to_string(ROUTE_LOCALNET).is_ok_and(|value| value.trim() == "1")
}

fn report(said: Option<&str>, found: Option<&str>) {
    if found == said {
        return;
    }
    if let Some(what) = found {
        warn!(
            "kube-proxy has left rules ({what}): they still match packets that Ropeway does not translate; make sure that no kube-proxy runs, then \
             remove them by `kube-proxy --cleanup` or a reboot"
        );
    } else {
        info!("kube-proxy rules are gone");
    }
}

fn look() -> Result<Option<String>, LeftoversError> {
    look_at(chains(), std::fs::read_to_string(IPVS))
}

fn look_at(
    chains: Result<Vec<NftChain>, NetlinkError>,
    services: io::Result<String>,
) -> Result<Option<String>, LeftoversError> {
    let services = match services {
        // The module is not loaded.
        Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
        services => services.map_err(LeftoversError::Ipvs)?,
    };
    Ok(rules(&chains?).or_else(|| ipvs(&services)))
}

/// Returns a description of kube-proxy's rules. Its nftables mode has a table named `kube-proxy`;
/// its iptables mode starts from the chain `KUBE-SERVICES`. Other chains named `KUBE-*` are
/// kubelet's.
fn rules(chains: &[NftChain]) -> Option<String> {
    let entry = |c: &&NftChain| c.table == "kube-proxy" || c.name == "KUBE-SERVICES";
    chains.iter().find(entry).map(|c| format!("chain {} of table {}", c.name, c.table))
}

/// Counts IPVS services: one line each, after three lines of headings (`ip_vs_info_seq_show` in the
/// kernel).
fn ipvs(text: &str) -> Option<String> {
    let services = text.lines().filter(|l| ["TCP ", "UDP ", "SCTP "].iter().any(|p| l.starts_with(p))).count();
    (services > 0).then(|| format!("{services} services of IPVS"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kube_proxy_chains_are_recognized_and_kubelet_chains_are_not() {
        let chain = |table: &str, name: &str| NftChain { table: table.into(), name: name.into() };
        let harmless = [chain("mangle", "KUBE-KUBELET-CANARY"), chain("nat", "POSTROUTING"), chain("filter", "INPUT")];
        assert_eq!(rules(&harmless), None);
        let with = |c| rules(&[&harmless[..], &[c]].concat());
        assert_eq!(with(chain("nat", "KUBE-SERVICES")).unwrap(), "chain KUBE-SERVICES of table nat");
        assert_eq!(with(chain("kube-proxy", "services")).unwrap(), "chain services of table kube-proxy");
    }

    #[test]
    fn unreadable_source_of_rules_is_an_error_and_a_missing_one_has_none() {
        let missing = || Err(io::ErrorKind::NotFound.into());
        assert_eq!(look_at(Ok(Vec::new()), missing()).unwrap(), None);
        assert!(look_at(Ok(Vec::new()), Err(io::ErrorKind::PermissionDenied.into())).is_err());
        let failed = NetlinkError::Interrupted { attempt: "list chains".into() };
        assert!(look_at(Err(failed), missing()).is_err());
    }

    #[test]
    fn ipvs_services_are_counted() {
        let heading = "IP Virtual Server version 1.2.1 (size=4096)\nProt LocalAddress:Port Scheduler Flags\n  -> RemoteAddress:Port Forward\n";
        assert_eq!(ipvs(heading), None);
        let full = format!("{heading}TCP  0A600001:01BB rr\n  -> C0A8320A:192B Masq 1 0 0\nUDP  0A60000A:0035 rr\n");
        assert_eq!(ipvs(&full).unwrap(), "2 services of IPVS");
    }
}
