//! Detects rules that kube-proxy has left in the packet filter or in IPVS, and logs them.
//!
//! Ropeway translates packets before the packet filter sees them, so most rules have no effect.
//! They still match packets that Ropeway leaves alone, such as those to the address of a deleted
//! Service. Rules are never removed here: another kube-proxy may still use them.

use std::convert::Infallible;
use std::time::Duration;

use dataplane_host::netlink::{NftChain, chains};
use tokio::task::{JoinError, spawn_blocking};
use tracing::{debug, info, warn};

/// Interval between checks.
const PAUSE: Duration = Duration::from_secs(60);
/// Kernel file that lists IPVS services.
const IPVS: &str = "/proc/net/ip_vs";

/// Logs when such rules are found and when they are gone; checks at intervals, for ever.
///
/// # Errors
/// A check has panicked.
pub async fn watch() -> Result<Infallible, JoinError> {
    let mut said = None;
    loop {
        let found = spawn_blocking(look).await?;
        if found != said {
            if let Some(what) = &found {
                warn!(
                    "kube-proxy has left rules ({what}): they still match packets that Ropeway does not translate; make sure that no kube-proxy runs, then \
                     remove them by `kube-proxy --cleanup` or a reboot"
                );
            } else {
                info!("kube-proxy rules are gone");
            }
        }
        said = found;
        tokio::time::sleep(PAUSE).await;
    }
}

fn look() -> Option<String> {
    let chains = chains().unwrap_or_else(|e| {
        debug!(error = %e, "the packet filter can't be read");
        Vec::new()
    });
    let services = std::fs::read_to_string(IPVS).unwrap_or_default();
    rules(&chains).or_else(|| ipvs(&services))
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
    fn ipvs_services_are_counted() {
        let heading = "IP Virtual Server version 1.2.1 (size=4096)\nProt LocalAddress:Port Scheduler Flags\n  -> RemoteAddress:Port Forward\n";
        assert_eq!(ipvs(heading), None);
        let full = format!("{heading}TCP  0A600001:01BB rr\n  -> C0A8320A:192B Masq 1 0 0\nUDP  0A60000A:0035 rr\n");
        assert_eq!(ipvs(&full).unwrap(), "2 services of IPVS");
    }
}
