//! What a person can set: one struct, read from flags, from environment variables and from the configuration file.
//!
//! Every field is optional here, so that the three can be laid over each other; defaults and checks are in the parent.
//! The first line of a field's doc is its `--help`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use super::types::{Ipam, LogFormat, NodePortRange, PortRange, RouteMode, Scheduler, SourceKind, UplinkAttach};

const TABLES: &str = "Table sizes (defaults: those of the eBPF object)";

macro_rules! options {
    ($($(#[$meta:meta])* $field:ident: $ty:ty,)*) => {
        /// The settings as given; the names in the file are those of the flags in camel case (`nodeName` for `--node-name`).
        #[derive(Clone, Debug, Default, PartialEq, clap::Args, Deserialize, Serialize)]
        #[serde(deny_unknown_fields, rename_all = "camelCase")]
        pub struct Options {
            $($(#[$meta])* #[serde(skip_serializing_if = "Option::is_none")] pub $field: Option<$ty>,)*
        }

        impl Options {
            /// Fills what is not set from `below`.
            #[must_use]
            pub fn over(self, below: Self) -> Self {
                Self { $($field: self.$field.or(below.$field),)* }
            }
        }
    };
}

options! {
    /// Where Services and their endpoints come from [default: kubernetes]
    #[arg(long, env = "ROPEWAY_SOURCE", value_name = "SOURCE", help_heading = "Source")]
    source: SourceKind,
    /// Directory of manifests (YAML or JSON), watched for changes; for --source manifests
    #[arg(long, env = "ROPEWAY_MANIFESTS", value_name = "DIR", help_heading = "Source")]
    manifests: PathBuf,
    /// Kubeconfig file; without it the pod's service account is used
    #[arg(long, env = "ROPEWAY_KUBECONFIG", value_name = "FILE", help_heading = "Source")]
    kubeconfig: PathBuf,
    /// URL of the API server, in place of the one in the kubeconfig; several are tried in turn
    #[arg(long, env = "ROPEWAY_APISERVER", value_name = "URL", value_delimiter = ',', help_heading = "Source")]
    apiserver: Vec<String>,

    /// Name of this node's Node object [default: the host name in lower case]
    #[arg(long, env = "ROPEWAY_NODE_NAME", value_name = "NAME", help_heading = "Node")]
    node_name: String,
    /// Address of this node, one for each family [default: from the Node object, else from the uplink]
    #[arg(long, env = "ROPEWAY_NODE_IP", value_name = "ADDRESS", value_delimiter = ',', help_heading = "Node")]
    #[serde(rename = "nodeIPs")]
    node_ip: Vec<IpAddr>,
    /// Device that leads out of the node; can be repeated [default: the device of the default route, else of the node's address]
    #[arg(long, env = "ROPEWAY_UPLINK", value_name = "DEVICE", value_delimiter = ',', help_heading = "Node")]
    #[serde(rename = "uplinks")]
    uplink: Vec<String>,
    /// Where this node's pods get addresses from [default: configured with --pod-cidr, else podcidr]
    #[arg(long, env = "ROPEWAY_IPAM", value_name = "MODE", help_heading = "Node")]
    ipam: Ipam,
    /// Pools of pods that ask for none by annotation, used up in this order; for --ipam pools [default: all, by name]
    #[arg(long, env = "ROPEWAY_IP_POOL", value_name = "NAME", value_delimiter = ',', help_heading = "Node")]
    #[serde(rename = "ipPools")]
    ip_pool: Vec<String>,
    /// Range from which this node's pods get addresses, one for each family [default: spec.podCIDRs of the Node object]
    #[arg(long, env = "ROPEWAY_POD_CIDR", value_name = "CIDR", value_delimiter = ',', help_heading = "Node")]
    #[serde(rename = "podCIDRs")]
    pod_cidr: Vec<IpNetwork>,
    /// Ranges of all pods of the cluster: traffic to them is never masqueraded
    #[arg(long, env = "ROPEWAY_CLUSTER_CIDR", value_name = "CIDR", value_delimiter = ',', help_heading = "Node")]
    #[serde(rename = "clusterCIDRs")]
    cluster_cidr: Vec<IpNetwork>,
    /// Ranges of cluster IPs besides those that the API server tells, which it does from Kubernetes 1.33
    #[arg(long, env = "ROPEWAY_SERVICE_CIDR", value_name = "CIDR", value_delimiter = ',', help_heading = "Node")]
    #[serde(rename = "serviceCIDRs")]
    service_cidr: Vec<IpNetwork>,
    /// Where node ports are served: at this node's addresses in these ranges, or at its `primary` ones [default: primary]
    #[arg(long, env = "ROPEWAY_NODEPORT_ADDRESSES", value_name = "CIDR", value_delimiter = ',', help_heading = "Node")]
    nodeport_addresses: Vec<NodePortRange>,
    /// Serve Services [default: true]; false: kube-proxy does, and packets of pods pass through the host's stack
    #[arg(long, env = "ROPEWAY_SERVICE_PROXY", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", help_heading = "Node")]
    service_proxy: bool,
    /// Give the node's address to what pods send out of the cluster [default: true if --cluster-cidr is set]
    #[arg(long, env = "ROPEWAY_MASQUERADE", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", help_heading = "Node")]
    masquerade: bool,
    /// Other networks that see the addresses of pods: traffic to them is not masqueraded; can be repeated
    #[arg(long, env = "ROPEWAY_NON_MASQUERADE_CIDR", value_name = "CIDR", value_delimiter = ',', help_heading = "Node")]
    #[serde(rename = "nonMasqueradeCIDRs")]
    non_masquerade_cidr: Vec<IpNetwork>,
    /// Zone of this node, for topology-aware routing [default: label topology.kubernetes.io/zone of the Node object]
    #[arg(long, env = "ROPEWAY_ZONE", value_name = "ZONE", help_heading = "Node")]
    zone: String,
    /// MTU of the pods' interfaces [default: that of the uplink, less what the tunnel takes where there is one]
    #[arg(long, env = "ROPEWAY_MTU", value_name = "BYTES", help_heading = "Node")]
    mtu: u32,
    /// Metric of the routes to other nodes' pods [default: the kernel's]
    #[arg(long, env = "ROPEWAY_ROUTE_METRIC", value_name = "METRIC", help_heading = "Node")]
    route_metric: u32,
    /// Which nodes' pods are reached by the VXLAN tunnel: those behind a router (auto), none (direct) or all (vxlan) [default: auto]
    #[arg(long, env = "ROPEWAY_ROUTE_MODE", value_name = "MODE", help_heading = "Node")]
    route_mode: RouteMode,
    /// UDP port of the VXLAN tunnel, the same on all nodes [default: 4789]
    #[arg(long, env = "ROPEWAY_VXLAN_PORT", value_name = "PORT", help_heading = "Node")]
    vxlan_port: u16,

    /// How a backend is picked where a Service does not say (annotation ropeway.dev/scheduler) [default: random]
    #[arg(long, env = "ROPEWAY_SCHEDULER", value_name = "NAME", help_heading = "Services")]
    scheduler: Scheduler,
    /// Slots of a Maglev table where a Service does not say (annotation ropeway.dev/maglev-table-size) [default: 4093]
    #[arg(long, env = "ROPEWAY_MAGLEV_TABLE_SIZE", value_name = "N", help_heading = "Services")]
    maglev_table_size: u32,

    /// Directory for pinned programs, maps and links; must lie in a bpf file system [default: /sys/fs/bpf/ropeway]
    #[arg(long, env = "ROPEWAY_PIN_ROOT", value_name = "DIR", help_heading = "Kernel")]
    pin_root: PathBuf,
    /// Cgroup (version 2) whose processes get Services by their sockets [default: where cgroup2 is mounted]
    #[arg(long, env = "ROPEWAY_CGROUP_ROOT", value_name = "DIR", help_heading = "Kernel")]
    cgroup_root: PathBuf,
    /// Directory for durable state, shared with the CNI plugin [default: /var/lib/ropeway]
    #[arg(long, env = "ROPEWAY_STATE_DIR", value_name = "DIR", help_heading = "Kernel")]
    state_dir: PathBuf,
    /// Where to write the CNI plugin's configuration list once this node can serve pods [default: nowhere]
    #[arg(long, env = "ROPEWAY_CNI_CONFLIST", value_name = "FILE", help_heading = "Kernel")]
    cni_conflist: PathBuf,
    /// How programs are attached to uplinks [default: auto, which is tcx from Linux 6.6 and clsact before]
    #[arg(long, env = "ROPEWAY_UPLINK_ATTACH", value_name = "HOW", help_heading = "Kernel")]
    uplink_attach: UplinkAttach,
    /// File with the eBPF programs, in place of those that were built in
    #[arg(long, env = "ROPEWAY_EBPF_OBJECT_FILE", value_name = "FILE", help_heading = "Kernel")]
    ebpf_object: PathBuf,
    /// Ports for the node's address as the source of translated traffic [default: 61000-65535]
    #[arg(long, env = "ROPEWAY_SNAT_PORT_RANGE", value_name = "FIRST-LAST", help_heading = "Kernel")]
    snat_port_range: PortRange,
    /// Seconds after which an idle flow other than TCP is forgotten [default: 120]
    #[arg(long, env = "ROPEWAY_UDP_TIMEOUT", value_name = "SECONDS", help_heading = "Kernel")]
    udp_timeout: u32,
    /// Seconds after which an idle TCP connection is forgotten [default: 86400]
    #[arg(long, env = "ROPEWAY_TCP_TIMEOUT", value_name = "SECONDS", help_heading = "Kernel")]
    tcp_timeout: u32,
    /// Seconds after which a TCP connection that has seen FIN or RST is forgotten [default: 60]
    #[arg(long, env = "ROPEWAY_TCP_CLOSING_TIMEOUT", value_name = "SECONDS", help_heading = "Kernel")]
    tcp_closing_timeout: u32,

    /// Frontends (address, port, protocol) for each address family: the table grows up to this [default: 1048576]
    #[arg(long, env = "ROPEWAY_MAX_FRONTENDS", value_name = "N", help_heading = TABLES)]
    max_frontends: u32,
    /// Backends (endpoints, counted once for each service port): the table grows up to this [default: 1048576]
    #[arg(long, env = "ROPEWAY_MAX_BACKENDS", value_name = "N", help_heading = TABLES)]
    max_backends: u32,
    /// Slots (the sum of the lengths of all tables of backends): the table grows up to this [default: 4194304]
    #[arg(long, env = "ROPEWAY_MAX_SLOTS", value_name = "N", help_heading = TABLES)]
    max_slots: u32,
    /// Service ports: the table grows up to this [default: 1048576]
    #[arg(long, env = "ROPEWAY_MAX_SERVICES", value_name = "N", help_heading = TABLES)]
    max_services: u32,
    /// Flow entries for each address family; a connection takes two [default: by the node's memory, at least 131072]
    #[arg(long, env = "ROPEWAY_MAX_FLOWS", value_name = "N", help_heading = TABLES)]
    max_flows: u32,
    /// Clients remembered for session affinity, for each address family [default: half as many as flows]
    #[arg(long, env = "ROPEWAY_MAX_AFFINITY", value_name = "N", help_heading = TABLES)]
    max_affinity: u32,
    /// Sockets remembered for showing them the Service's address, for each address family [default: half as many as flows]
    #[arg(long, env = "ROPEWAY_MAX_SOCKETS", value_name = "N", help_heading = TABLES)]
    max_sockets: u32,

    /// Where /metrics, /healthz, /proxyMode and /configz are served [default: 127.0.0.1:10249]
    #[arg(long, env = "ROPEWAY_METRICS_BIND_ADDRESS", value_name = "ADDRESS:PORT", help_heading = "Observation")]
    metrics_bind_address: SocketAddr,
    /// Where /healthz and /livez are served [default: 0.0.0.0:10256]
    #[arg(long, env = "ROPEWAY_HEALTHZ_BIND_ADDRESS", value_name = "ADDRESS:PORT", help_heading = "Observation")]
    healthz_bind_address: SocketAddr,
    /// Least severe messages that are logged: error, warn, info, debug or trace [default: info]
    #[arg(long, env = "ROPEWAY_LOG_LEVEL", value_name = "LEVEL", help_heading = "Observation")]
    log_level: String,
    /// Form of the log on standard error [default: text]
    #[arg(long, env = "ROPEWAY_LOG_FORMAT", value_name = "FORMAT", help_heading = "Observation")]
    log_format: LogFormat,
    /// Load the programs with tracing on: a log message for each packet and connect, for debugging only
    #[arg(long, env = "ROPEWAY_TRACE", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", help_heading = "Observation")]
    trace: bool,
}
