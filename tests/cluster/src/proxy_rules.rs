//! Finds the rules of another service proxy, or of the reference port mapper, in a node's tables.
//!
//! Reads the text of `nft list ruleset` and of `iptables-legacy-save`. The names are those that
//! kube-proxy writes in its iptables and IPVS modes (`pkg/proxy/iptables/proxier.go` and
//! `pkg/proxy/ipvs/proxier.go` of Kubernetes) and in its nftables mode (`pkg/proxy/nftables`), and
//! those of the `portmap` plugin.

/// Chains of kubelet, which it makes whatever proxy serves the node
/// (`pkg/kubelet/kubelet_network_linux.go`).
const KUBELET: [&str; 3] = ["KUBE-KUBELET-CANARY", "KUBE-IPTABLES-HINT", "KUBE-FIREWALL"];

/// Lists the tables of a node in the form that [`find`] reads: nftables, then the tables of
/// iptables-legacy for both families. A kernel without legacy tables has no such files in /proc.
pub(super) const LIST: &str = r"
nft list ruleset || exit 1
for table in $(cat /proc/net/ip_tables_names 2>/dev/null); do iptables-legacy-save -t $table || exit 1; done
for table in $(cat /proc/net/ip6_tables_names 2>/dev/null); do ip6tables-legacy-save -t $table || exit 1; done
";

/// Returns the first table or chain that another proxy or port mapper has made.
pub(super) fn find(tables: &str) -> Option<&str> {
    tables.lines().find_map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        match *words.as_slice() {
            ["table", _, name @ ("kube-proxy" | "cni_hostport"), ..] => Some(name),
            ["chain", name, "{"] if is_foreign(name) => Some(name),
            [name, ..] => name.strip_prefix(':').filter(|name| is_foreign(name)),
            [] => None,
        }
    })
}

fn is_foreign(chain: &str) -> bool {
    let proxy = chain.starts_with("KUBE-") && !KUBELET.contains(&chain);
    proxy || chain.starts_with("CNI-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxy_chains_are_found_in_every_mode() {
        for (tables, found) in [
            ("table ip nat {\n\tchain KUBE-POSTROUTING {\n\t}\n}", "KUBE-POSTROUTING"),
            ("table ip6 kube-proxy {\n}", "kube-proxy"),
            ("table ip nat {\n\tchain KUBE-MARK-MASQ {\n\t}\n}", "KUBE-MARK-MASQ"),
            ("*nat\n:PREROUTING ACCEPT [0:0]\n:KUBE-LOAD-BALANCER - [0:0]\nCOMMIT", "KUBE-LOAD-BALANCER"),
            ("*filter\n:KUBE-IPVS-FILTER - [0:0]", "KUBE-IPVS-FILTER"),
            ("table ip nat {\n\tchain CNI-HOSTPORT-DNAT {\n\t}\n}", "CNI-HOSTPORT-DNAT"),
            ("table inet cni_hostport {\n}", "cni_hostport"),
        ] {
            assert_eq!(find(tables), Some(found), "{tables}");
        }
    }

    #[test]
    fn chains_of_kubelet_and_of_the_host_are_ignored() {
        let tables = "table ip mangle {\n\tchain KUBE-KUBELET-CANARY {\n\t}\n\tchain KUBE-IPTABLES-HINT {\n\t}\n}\ntable ip filter {\n\tchain KUBE-FIREWALL \
                      {\n\t}\n}\n*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -m comment --comment kube-proxy -j ACCEPT\n";
        assert_eq!(find(tables), None);
    }
}
