//! The rules, each in one line, and where they say nothing.

use super::Path::{Node, OtherNode, Outside, Pod};
use super::{Cells, Path, Rule};
use crate::pod::IpFamily;

const BOTH: &[IpFamily] = &IpFamily::BOTH;
const EVERYWHERE: &[Path] = &Path::ALL;

const CLUSTER_ADDRESS: Cells = Cells {
    paths: &[Outside],
    families: BOTH,
    why: "it is about cluster IPs, which machines outside the cluster are not promised",
};

/// All of them, in order.
pub const RULES: &[Rule] = &[
    Rule {
        number: "2.1.1",
        title: "Services and slices of other proxies, headless ones and Endpoints objects are not read",
        absent: &[],
        gaps: &[],
    },
    Rule {
        number: "2.1.2",
        title: "A Service of type ExternalName is not served, whatever addresses it has",
        absent: &[],
        gaps: &[],
    },
    Rule {
        number: "2.1.3",
        title: "Nothing is written before both Services and slices are known",
        absent: &[],
        gaps: &[],
    },
    Rule {
        number: "2.1.4",
        title: "Cluster IPs, external IPs, load-balancer IPs that are VIPs, and node ports are served",
        absent: &[],
        gaps: &[],
    },
    Rule { number: "2.1.5", title: "Families are independent of each other", absent: &[], gaps: &[] },
    Rule {
        number: "2.1.6",
        title: "Slices: defaults of conditions, first address, ports without number, twins, wrong family",
        absent: &[],
        gaps: &[],
    },
    Rule {
        number: "2.1.7",
        title: "Ready is taken as it is given, for endpoints that terminate, too",
        absent: &[],
        gaps: &[],
    },
    Rule {
        number: "2.2.1",
        title: "Ready endpoints, else those that terminate and still serve; the local set for itself",
        absent: &[],
        gaps: &[],
    },
    Rule {
        number: "2.2.2",
        title: "Hints of node and zone count if all have them and one is here; a local policy goes first",
        absent: &[],
        gaps: &[],
    },
    Rule {
        number: "2.2.3",
        title: "Only new connections are given to endpoints, evenly; the others stay where they are",
        absent: &[],
        gaps: &[],
    },
    Rule {
        number: "2.2.4",
        title: "An endpoint that terminates, or is gone, keeps the connections that it has",
        absent: &[],
        gaps: &[],
    },
    Rule { number: "2.3.1", title: "Without endpoints: refused, at every kind of address", absent: &[], gaps: &[] },
    Rule {
        number: "2.3.2",
        title: "External policy Local without a local endpoint: silence",
        absent: &[Cells {
            paths: &[Pod, Node],
            families: BOTH,
            why: "the node's own clients have all endpoints at external addresses (2.3.4)",
        }],
        gaps: &[],
    },
    Rule {
        number: "2.3.3",
        title: "Internal policy Local without a local endpoint: silence",
        absent: &[CLUSTER_ADDRESS],
        gaps: &[],
    },
    Rule {
        number: "2.3.4",
        title: "Pods and nodes have all endpoints at external addresses with policy Local; pods keep their source",
        absent: &[Cells {
            paths: &[Outside],
            families: BOTH,
            why: "it is about clients in the cluster; others: 2.3.2",
        }],
        gaps: &[],
    },
    Rule {
        number: "2.3.5",
        title: "Policy Local without a local endpoint: nothing reaches a remote one, as it does with IPVS",
        absent: &[Cells {
            paths: &[Pod, Node],
            families: BOTH,
            why: "the node's own clients have all endpoints at external addresses (2.3.4)",
        }],
        gaps: &[],
    },
    Rule { number: "2.3.6", title: "External policy Local keeps the client's address", absent: &[], gaps: &[] },
    Rule {
        number: "2.3.7",
        title: "The source is translated where replies need it: hairpin, loopback, a remote endpoint",
        absent: &[],
        gaps: &[],
    },
    Rule {
        number: "2.3.8",
        title: "Cluster IPs are reached from all pods and nodes",
        absent: &[CLUSTER_ADDRESS],
        gaps: &[],
    },
    Rule {
        number: "2.3.9",
        title: "Other ports of a cluster IP are refused; addresses that no Service has lead nowhere",
        absent: &[],
        gaps: &[],
    },
    Rule {
        number: "2.3.10",
        title: "Other ports of a load-balancer IP are left alone, and nobody answers for it on the link",
        absent: &[],
        gaps: &[],
    },
    Rule {
        number: "2.3.11",
        title: "Source ranges hold at load-balancer IPs and nowhere else",
        absent: &[],
        gaps: &[],
    },
    Rule {
        number: "2.3.12",
        title: "A load balancer without node ports: its IP and its health check work",
        absent: &[],
        gaps: &[],
    },
    Rule {
        number: "2.3.13",
        title: "Node ports are at the node's primary addresses, and no process listens there",
        absent: &[],
        gaps: &[],
    },
    Rule {
        number: "2.3.14",
        title: "Node ports of another node are reached; hints that no ready endpoint has do not count",
        absent: &[],
        gaps: &[],
    },
    Rule {
        number: "2.4.1",
        title: "One endpoint for a client, whichever address of the Service it asks",
        absent: &[],
        gaps: &[],
    },
    Rule {
        number: "2.4.2",
        title: "It lasts as long as it is used, else the timeout; another one when the endpoint leaves",
        absent: &[],
        gaps: &[],
    },
    Rule { number: "2.4.3", title: "Each node remembers for itself", absent: &[], gaps: &[] },
    Rule { number: "2.4.4", title: "It is switched on and off at cluster IPs and node ports", absent: &[], gaps: &[] },
    Rule {
        number: "2.5.1",
        title: "healthz and livez of port 10256, and a node that is about to leave",
        absent: &[],
        gaps: &[],
    },
    Rule {
        number: "2.5.2",
        title: "The health check's node port counts local endpoints that are ready",
        absent: &[],
        gaps: &[],
    },
    Rule {
        number: "2.5.3",
        title: "Port 10249 of loopback: healthz, metrics, proxyMode, configz, and for nobody else",
        absent: &[Cells {
            paths: &[Node],
            families: &[IpFamily::V6],
            why: "the address is 127.0.0.1, as kube-proxy's is",
        }],
        gaps: &[],
    },
    Rule {
        number: "2.5.4",
        title: "Metrics have the names that dashboards of kube-proxy ask for",
        absent: &[
            Cells {
                paths: &[Pod, OtherNode, Outside],
                families: BOTH,
                why: "they are at the node's loopback address (2.5.3)",
            },
            Cells { paths: &[Node], families: &[IpFamily::V6], why: "the address is 127.0.0.1, as kube-proxy's is" },
        ],
        gaps: &[],
    },
    Rule {
        number: "2.6.1",
        title: "Datagrams leave an endpoint that is gone, also when it was the last or the Service is deleted",
        absent: &[],
        gaps: &[],
    },
    Rule {
        number: "2.6.2",
        title: "Datagrams that were refused are answered as soon as there is an endpoint",
        absent: &[],
        gaps: &[],
    },
    Rule {
        number: "2.6.3",
        title: "A restart of the agent changes nothing for connections and datagrams",
        absent: &[],
        gaps: &[],
    },
    Rule {
        number: "2.6.4",
        title: "Segments out of the window do not show the endpoint's address to the client",
        absent: &[Cells {
            paths: &[Node],
            families: BOTH,
            why: "its sockets are connected to the endpoint itself, and no packet is translated",
        }],
        gaps: &[],
    },
    Rule { number: "2.6.5", title: "Connections that were there before the agent go on", absent: &[], gaps: &[] },
    Rule {
        number: "2.6.6",
        title: "TCP timeouts of nf_conntrack",
        absent: &[Cells {
            paths: EVERYWHERE,
            families: BOTH,
            why: "flows are remembered in tables of the programs' own, with timeouts of their own (--tcp-closing-timeout)",
        }],
        gaps: &[],
    },
];
