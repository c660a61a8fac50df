//! The rules of the contract, each in one line, with the cells in which it does not apply.
//!
//! [`super::Rule`] is their type; docs/service-matrix.md shows them. A rule that is known to fail
//! has a gap here, with its reason.

use super::Path::{Node, OtherNode, Outside, Pod};
use super::{Cells, Path, Rule};
use crate::pod::IpFamily;

const BOTH: &[IpFamily] = &IpFamily::BOTH;
const EVERYWHERE: &[Path] = &Path::ALL;

const CLUSTER_ADDRESS: Cells = Cells {
    paths: &[Outside],
    families: BOTH,
    why: "the rule is about cluster IPs, which are not promised to machines outside the cluster",
};

/// All rules, ordered by number.
pub const RULES: &[Rule] = &[
    Rule {
        number: "2.1.1",
        title: "Services and slices of other proxies, headless Services and Endpoints objects are ignored",
        absent: &[],
        gaps: &[],
    },
    Rule {
        number: "2.1.2",
        title: "A Service of type ExternalName is not served, even if it has addresses",
        absent: &[],
        gaps: &[],
    },
    Rule {
        number: "2.1.3",
        title: "Nothing is written before both Services and EndpointSlices are listed",
        absent: &[],
        gaps: &[],
    },
    Rule {
        number: "2.1.4",
        title: "Cluster IPs, external IPs, load-balancer IPs that are VIPs, and node ports are served",
        absent: &[],
        gaps: &[],
    },
    Rule { number: "2.1.5", title: "IPv4 and IPv6 are independent of each other", absent: &[], gaps: &[] },
    Rule {
        number: "2.1.6",
        title: "Slices: default conditions, first address, ports without number, duplicates, wrong family",
        absent: &[],
        gaps: &[],
    },
    Rule {
        number: "2.1.7",
        title: "The condition ready is used as it is, also for terminating endpoints",
        absent: &[],
        gaps: &[],
    },
    Rule {
        number: "2.2.1",
        title: "Ready endpoints, else those that terminate and serve; local ones are chosen separately",
        absent: &[],
        gaps: &[],
    },
    Rule {
        number: "2.2.2",
        title: "Hints are used if all endpoints have them and one matches; a local policy has priority",
        absent: &[],
        gaps: &[],
    },
    Rule {
        number: "2.2.3",
        title: "New connections are spread evenly over endpoints; existing ones keep their endpoint",
        absent: &[],
        gaps: &[],
    },
    Rule {
        number: "2.2.4",
        title: "A terminating or removed endpoint keeps its existing connections",
        absent: &[],
        gaps: &[],
    },
    Rule { number: "2.3.1", title: "Without endpoints: rejected, at every kind of address", absent: &[], gaps: &[] },
    Rule {
        number: "2.3.2",
        title: "External policy Local without a local endpoint: dropped",
        absent: &[Cells {
            paths: &[Pod, Node],
            families: BOTH,
            why: "clients on the node reach all endpoints at external addresses (2.3.4)",
        }],
        gaps: &[],
    },
    Rule {
        number: "2.3.3",
        title: "Internal policy Local without a local endpoint: dropped",
        absent: &[CLUSTER_ADDRESS],
        gaps: &[],
    },
    Rule {
        number: "2.3.4",
        title: "Pods and nodes reach all endpoints at external addresses with policy Local; pods keep their source",
        absent: &[Cells {
            paths: &[Outside],
            families: BOTH,
            why: "the rule is about clients in the cluster; 2.3.2 is about others",
        }],
        gaps: &[],
    },
    Rule {
        number: "2.3.5",
        title: "Policy Local without a local endpoint: nothing reaches a remote one, as it does with IPVS",
        absent: &[Cells {
            paths: &[Pod, Node],
            families: BOTH,
            why: "clients on the node reach all endpoints at external addresses (2.3.4)",
        }],
        gaps: &[],
    },
    Rule { number: "2.3.6", title: "External policy Local keeps the client's address", absent: &[], gaps: &[] },
    Rule {
        number: "2.3.7",
        title: "The source is translated where replies need it: hairpin (pod), loopback (node), remote endpoint (others)",
        absent: &[],
        gaps: &[],
    },
    Rule {
        number: "2.3.8",
        title: "Cluster IPs are reachable from all pods and nodes",
        absent: &[CLUSTER_ADDRESS],
        gaps: &[],
    },
    Rule {
        number: "2.3.9",
        title: "Other ports of a cluster IP are rejected; unallocated Service addresses are dropped",
        absent: &[],
        gaps: &[],
    },
    Rule {
        number: "2.3.10",
        title: "Other ports of a load-balancer IP are not touched; from outside: no node answers ARP or NDP for it",
        absent: &[],
        gaps: &[],
    },
    Rule { number: "2.3.11", title: "Source ranges apply to load-balancer IPs only", absent: &[], gaps: &[] },
    Rule {
        number: "2.3.12",
        title: "A load balancer without node ports: its IP and its health check work",
        absent: &[],
        gaps: &[],
    },
    Rule {
        number: "2.3.13",
        title: "Node ports are served at the node's primary addresses, without a listening process",
        absent: &[],
        gaps: &[],
    },
    Rule {
        number: "2.3.14",
        title: "Node ports of other nodes are reachable; hints that match no ready endpoint are ignored",
        absent: &[],
        gaps: &[],
    },
    Rule {
        number: "2.4.1",
        title: "A client gets the same endpoint at every address of the Service",
        absent: &[],
        gaps: &[],
    },
    Rule {
        number: "2.4.2",
        title: "Affinity lasts while it is used, then until its timeout; it ends with its endpoint",
        absent: &[],
        gaps: &[],
    },
    Rule { number: "2.4.3", title: "Each node has its affinity state", absent: &[], gaps: &[] },
    Rule {
        number: "2.4.4",
        title: "Affinity can be switched on and off, at cluster IPs and node ports",
        absent: &[],
        gaps: &[],
    },
    Rule {
        number: "2.5.1",
        title: "healthz and livez on port 10256; healthz fails on a node that is about to be deleted",
        absent: &[],
        gaps: &[],
    },
    Rule { number: "2.5.2", title: "The health check node port counts ready local endpoints", absent: &[], gaps: &[] },
    Rule {
        number: "2.5.3",
        title: "Port 10249, on loopback only: healthz, metrics, proxyMode, configz",
        absent: &[Cells {
            paths: &[Node],
            families: &[IpFamily::V6],
            why: "the address is 127.0.0.1, as kube-proxy's is",
        }],
        gaps: &[],
    },
    Rule {
        number: "2.5.4",
        title: "Metrics have the names that dashboards of kube-proxy use",
        absent: &[
            Cells {
                paths: &[Pod, OtherNode, Outside],
                families: BOTH,
                why: "the metrics are served at the node's loopback address only (2.5.3)",
            },
            Cells { paths: &[Node], families: &[IpFamily::V6], why: "the address is 127.0.0.1, as kube-proxy's is" },
        ],
        gaps: &[],
    },
    Rule {
        number: "2.6.1",
        title: "UDP flows leave a removed endpoint, also if it was the last or the Service is deleted",
        absent: &[],
        gaps: &[],
    },
    Rule {
        number: "2.6.2",
        title: "UDP requests that were rejected are answered as soon as there is an endpoint",
        absent: &[],
        gaps: &[],
    },
    Rule {
        number: "2.6.3",
        title: "A restart of the agent does not affect connections and UDP flows",
        absent: &[],
        gaps: &[],
    },
    Rule {
        number: "2.6.4",
        title: "TCP segments out of the window do not show the endpoint's address to the client",
        absent: &[Cells {
            paths: &[Node],
            families: BOTH,
            why: "sockets of the node are connected to the endpoint itself, so no packet is translated",
        }],
        gaps: &[],
    },
    Rule { number: "2.6.5", title: "Connections that exist when the agent starts survive", absent: &[], gaps: &[] },
    Rule {
        number: "2.6.6",
        title: "TCP timeouts of nf_conntrack",
        absent: &[Cells {
            paths: EVERYWHERE,
            families: BOTH,
            why: "flows are in the maps of the programs, which have other timeouts (--tcp-closing-timeout)",
        }],
        gaps: &[],
    },
];
