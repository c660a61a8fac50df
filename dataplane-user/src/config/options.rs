//! The agent's options, declared once for flags, environment variables and the configuration file.
//!
//! Every field is optional, so that the three sources can be merged; the parent module adds the
//! defaults and checks the values. The doc comment of a field is its text in `--help` and in
//! docs/configuration.md: the first paragraph says what the option sets and ends with
//! `[default: ...]` and `[range: ...]`, the second says when to change it. Tests compare both
//! annotations with the code. Nothing here reads the machine.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use super::types::{
    ExternalIpRange, Ipam, LogFormat, NodePortRange, PortRange, RouteMode, Scheduler, SocketScope, SourceKind,
    UplinkAttach,
};

const TABLES: &str = "Table sizes";

macro_rules! options {
    ($($(#[$meta:meta])* $field:ident: $ty:ty,)*) => {
        /// The options as given. A file key is the flag's name in camel case (`nodeName` for
        /// `--node-name`); lists are plural (`nodeIPs`, `podCIDRs`).
        #[derive(Clone, Debug, Default, PartialEq, clap::Args, Deserialize, Serialize)]
        #[serde(deny_unknown_fields, rename_all = "camelCase")]
        pub struct Options {
            $($(#[$meta])* #[serde(skip_serializing_if = "Option::is_none")] pub $field: Option<$ty>,)*
        }

        impl Options {
            /// Merges two sources: options that are unset here are taken from `below`.
            #[must_use]
            pub fn over(self, below: Self) -> Self {
                Self { $($field: self.$field.or(below.$field),)* }
            }
        }
    };
}

options! {
    /// Origin of Services, EndpointSlices and Nodes [default: kubernetes]
    ///
    /// Set `manifests` to serve the Services of a directory of files; --manifests names it.
    #[arg(long, env = "ROPEWAY_SOURCE", value_name = "SOURCE", help_heading = "Source")]
    source: SourceKind,
    /// Directory of manifests (YAML or JSON), watched for changes; requires --source manifests
    ///
    /// Set it for a load balancer without a cluster. The directory must exist when the agent
    /// starts.
    #[arg(long, env = "ROPEWAY_MANIFESTS", value_name = "DIR", help_heading = "Source")]
    manifests: PathBuf,
    /// Kubeconfig file [default: the pod's service account]
    ///
    /// Set it where the agent runs outside a pod, for example as a systemd unit.
    #[arg(long, env = "ROPEWAY_KUBECONFIG", value_name = "FILE", help_heading = "Source")]
    kubeconfig: PathBuf,
    /// URL of the API server, overrides the one in the kubeconfig; a list is tried in order
    ///
    /// Set it to the node addresses of the API servers. Without it, an agent in a pod uses the
    /// ClusterIP of the Service `kubernetes`, which does not work until the agent itself has
    /// loaded that Service. With several URLs the agent uses the first one that answers and moves
    /// on when that server stops answering.
    #[arg(long, env = "ROPEWAY_APISERVER", value_name = "URL", value_delimiter = ',', help_heading = "Source")]
    apiserver: Vec<String>,

    /// Name of this node's Node object [default: host name in lower case]
    ///
    /// Set it from `spec.nodeName` in a pod (downward API), or where kubelet runs with
    /// `--hostname-override`.
    #[arg(long, env = "ROPEWAY_NODE_NAME", value_name = "NAME", help_heading = "Node")]
    node_name: String,
    /// Address of this node, at most one per family [default: from the Node object, else the
    /// uplink]
    ///
    /// Set it on a node with several addresses if the Node object does not name the one that other
    /// nodes and clients use. Sources are translated to this address.
    #[arg(long, env = "ROPEWAY_NODE_IP", value_name = "ADDRESS", value_delimiter = ',', help_heading = "Node")]
    #[serde(rename = "nodeIPs")]
    node_ip: Vec<IpAddr>,
    /// Device that leads out of the node [default: found by routes and addresses]
    ///
    /// Programs are attached to every uplink; packets that arrive at other devices are not
    /// translated. Without this option, uplinks are the devices of default routes, of the node's
    /// addresses and of routes to other nodes, and all network cards that have an address. If it is
    /// set, no other device is an uplink.
    #[arg(long, env = "ROPEWAY_UPLINK", value_name = "DEVICE", value_delimiter = ',', help_heading = "Node")]
    #[serde(rename = "uplinks")]
    uplink: Vec<String>,
    /// Source of this node's pod addresses [default: configured if --pod-cidr is set, else
    /// podcidr]
    ///
    /// Set `pools` to use `IPPool` objects, and `none` if another CNI plugin attaches the pods.
    #[arg(long, env = "ROPEWAY_IPAM", value_name = "MODE", help_heading = "Node")]
    ipam: Ipam,
    /// `IPPool` for pods without a pool annotation; a list is used up in order; requires --ipam
    /// pools [default: all pools by name]
    ///
    /// Set it to reserve the remaining pools for pods and namespaces that ask for them by
    /// annotation.
    #[arg(long, env = "ROPEWAY_IP_POOL", value_name = "NAME", value_delimiter = ',', help_heading = "Node")]
    #[serde(rename = "ipPools")]
    ip_pool: Vec<String>,
    /// Range of this node's pod addresses, at most one per family; requires --ipam configured
    /// [default: spec.podCIDRs of the Node object]
    ///
    /// Set it if no controller manager assigns `spec.podCIDRs`, for example with --source
    /// manifests. Each node needs a different range.
    #[arg(long, env = "ROPEWAY_POD_CIDR", value_name = "CIDR", value_delimiter = ',', help_heading = "Node")]
    #[serde(rename = "podCIDRs")]
    pod_cidr: Vec<IpNetwork>,
    /// Range of all pod addresses of the cluster; traffic to it is never masqueraded
    ///
    /// The ranges of other nodes and of all pools are known without it. Set it for ranges of pods
    /// that neither Node nor `IPPool` objects name.
    #[arg(long, env = "ROPEWAY_CLUSTER_CIDR", value_name = "CIDR", value_delimiter = ',', help_heading = "Node")]
    #[serde(rename = "clusterCIDRs")]
    cluster_cidr: Vec<IpNetwork>,
    /// Range of cluster IPs, added to those of the `ServiceCIDR` objects
    ///
    /// Set it for Kubernetes before 1.33, which has no `ServiceCIDR` objects, and with --source
    /// manifests. Packets to an unallocated address of the range are dropped, and no Service may
    /// use an address of it as an external address.
    #[arg(long, env = "ROPEWAY_SERVICE_CIDR", value_name = "CIDR", value_delimiter = ',', help_heading = "Node")]
    #[serde(rename = "serviceCIDRs")]
    service_cidr: Vec<IpNetwork>,
    /// Ranges of the node addresses that serve node ports, or `primary` for the node's own
    /// addresses [default: primary]
    ///
    /// Set it to open node ports on further addresses of the node. Processes on the node reach
    /// every node port at `127.0.0.1` and `::1` in any case.
    #[arg(long, env = "ROPEWAY_NODEPORT_ADDRESSES", value_name = "CIDR", value_delimiter = ',', help_heading = "Node")]
    nodeport_addresses: Vec<NodePortRange>,
    /// Ranges in which `spec.externalIPs` of Services are served, or `all`, or `none` [default:
    /// all]
    ///
    /// Set the ranges that tenants may use, or `none`: with `all`, anybody who may create a Service
    /// can take over traffic of the whole cluster to any address outside it. Addresses of API
    /// servers, gateways, DNS servers of the node, nodes, pods and cluster IPs are refused in any
    /// case.
    #[arg(long, env = "ROPEWAY_EXTERNAL_IPS", value_name = "CIDR", value_delimiter = ',', help_heading = "Node")]
    #[serde(rename = "externalIPs")]
    external_ips: Vec<ExternalIpRange>,
    /// Serve Services; `false` leaves them to kube-proxy [default: true]
    ///
    /// Set `false` to use Ropeway for the pod network only. Packets of pods then pass through the
    /// host's network stack, where kube-proxy translates them.
    #[arg(long, env = "ROPEWAY_SERVICE_PROXY", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", help_heading = "Node")]
    service_proxy: bool,
    /// Translate the source of pod traffic that leaves the cluster to the node address [default:
    /// true, but false with --ipam none or without --service-proxy]
    ///
    /// Set `false` if the network routes pod addresses: clients outside the cluster reach pods
    /// directly only then. Requires --service-proxy: with kube-proxy the host's connection tracking
    /// would see only one direction.
    #[arg(long, env = "ROPEWAY_MASQUERADE", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", help_heading = "Node")]
    masquerade: bool,
    /// Range outside the cluster that routes pod addresses; traffic to it is not masqueraded
    ///
    /// Set it for networks that must see the pods' addresses, for example behind a VPN.
    #[arg(long, env = "ROPEWAY_NON_MASQUERADE_CIDR", value_name = "CIDR", value_delimiter = ',', help_heading = "Node")]
    #[serde(rename = "nonMasqueradeCIDRs")]
    non_masquerade_cidr: Vec<IpNetwork>,
    /// Zone of this node for topology-aware routing [default: label topology.kubernetes.io/zone of
    /// the Node object]
    ///
    /// Set it with --source manifests, or if the label is missing.
    #[arg(long, env = "ROPEWAY_ZONE", value_name = "ZONE", help_heading = "Node")]
    zone: String,
    /// MTU of pod interfaces [default: MTU of the uplink, minus the tunnel overhead if there is a
    /// tunnel] [range: 1280 to 65535]
    ///
    /// Lower it if the path between nodes carries less than the uplink's MTU. The tunnel takes 50
    /// bytes per packet over IPv4 and 70 over IPv6. 1280 is the minimum of IPv6.
    #[arg(long, env = "ROPEWAY_MTU", value_name = "BYTES", help_heading = "Node")]
    mtu: u32,
    /// Metric of the routes to other nodes' pods [default: the kernel's] [range: 0 to 4294967295]
    ///
    /// Set it if another program's route to the same range must win or lose against Ropeway's.
    #[arg(long, env = "ROPEWAY_ROUTE_METRIC", value_name = "METRIC", help_heading = "Node")]
    route_metric: u32,
    /// Use of the VXLAN tunnel: for nodes behind a router, for no node, or for all nodes [default:
    /// auto]
    ///
    /// Set `vxlan` where the network drops packets whose source is not a node address, as many
    /// clouds do. Set `direct` if routers know the pods' ranges. Nodes may differ in this setting.
    #[arg(long, env = "ROPEWAY_ROUTE_MODE", value_name = "MODE", help_heading = "Node")]
    route_mode: RouteMode,
    /// UDP port of the VXLAN tunnel, the same on all nodes [default: 4789] [range: 1 to 29999 or
    /// 32768 to 65535]
    ///
    /// Set it if another program uses the port. Open the port between nodes, and for nodes only: a
    /// host that can send to it can send as any pod.
    #[arg(long, env = "ROPEWAY_VXLAN_PORT", value_name = "PORT", help_heading = "Node")]
    vxlan_port: u16,

    /// Scheduler of Services without the annotation ropeway.dev/scheduler [default: random]
    ///
    /// docs/schedulers.md compares them. A change affects new connections only.
    #[arg(long, env = "ROPEWAY_SCHEDULER", value_name = "NAME", help_heading = "Services")]
    scheduler: Scheduler,
    /// Slots per Maglev table of Services without the annotation ropeway.dev/maglev-table-size
    /// [default: 4093] [range: one of 251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521,
    /// 65537, 131071]
    ///
    /// Used by the scheduler `mh`. Raise it for Services with more than 40 backends: with a
    /// hundred slots per backend the largest share is at most 1 % above the mean. Each table takes
    /// that many entries of --max-slots. The annotation may choose at most this size, or 4093.
    #[arg(long, env = "ROPEWAY_MAGLEV_TABLE_SIZE", value_name = "SLOTS", help_heading = "Services")]
    maglev_table_size: u32,

    /// Directory for pinned programs, maps and links, in a bpf file system [default:
    /// /sys/fs/bpf/ropeway]
    ///
    /// Set it if bpffs is mounted elsewhere. The CNI plugin (`pinRoot`) and the `ropeway` command
    /// need the same value.
    #[arg(long, env = "ROPEWAY_PIN_ROOT", value_name = "DIR", help_heading = "Kernel")]
    pin_root: PathBuf,
    /// cgroup2 directory at which the socket hooks are attached [default: the cgroup2 mount point]
    ///
    /// Processes in cgroups below it reach Services through the socket hooks. In a container,
    /// mount the host's /sys/fs/cgroup, or the hooks cover only the agent's own cgroup.
    #[arg(long, env = "ROPEWAY_CGROUP_ROOT", value_name = "DIR", help_heading = "Kernel")]
    cgroup_root: PathBuf,
    /// Directory for durable state, shared with the CNI plugin [default: /var/lib/ropeway]
    ///
    /// Set it if /var/lib is not persistent. The CNI plugin (`stateDir`) and the `ropeway` command
    /// need the same value. Two agents must not share it.
    #[arg(long, env = "ROPEWAY_STATE_DIR", value_name = "DIR", help_heading = "Kernel")]
    state_dir: PathBuf,
    /// CNI configuration list to write once this node can serve pods [default: no file is written]
    ///
    /// Set it to a file in the directory that the container runtime reads, such as
    /// /etc/cni/net.d/10-ropeway.conflist. kubelet reports the node Ready when the file appears.
    /// The name must sort before those of other CNI configurations.
    #[arg(long, env = "ROPEWAY_CNI_CONFLIST", value_name = "FILE", help_heading = "Kernel")]
    cni_conflist: PathBuf,
    /// Processes whose connections to Services are translated at connect(2) [default: all]
    ///
    /// Set `node` with a service mesh that redirects connections inside pods: its proxy must see
    /// the Service's address, and not the pod that the socket hook has chosen. The packets of pods
    /// are then translated one by one.
    #[arg(long, env = "ROPEWAY_TRANSLATE_SOCKETS", value_name = "WHOSE", help_heading = "Kernel")]
    translate_sockets: SocketScope,
    /// Kind of attachment of the programs to uplinks [default: auto]
    ///
    /// A tcx program runs before every tc filter of the device. Set `clsact` if another program's
    /// filter on the uplink must run first.
    #[arg(long, env = "ROPEWAY_UPLINK_ATTACH", value_name = "HOW", help_heading = "Kernel")]
    uplink_attach: UplinkAttach,
    /// File with the eBPF programs, overrides the built-in object [default: the built-in object]
    ///
    /// For development. The object must be built from the same version of Ropeway.
    #[arg(long, env = "ROPEWAY_EBPF_OBJECT_FILE", value_name = "FILE", help_heading = "Kernel")]
    ebpf_object: PathBuf,
    /// Source ports for connections that are translated to the node address [default: 4096-29999]
    /// [range: within 1-65535, without the node ports 30000-32767]
    ///
    /// Widen it if `ropeway drops` counts `snat_ports_exhausted`. Keep it apart from
    /// `net.ipv4.ip_local_port_range` (32768-60999 unless changed): the node's own sockets use
    /// those ports.
    #[arg(long, env = "ROPEWAY_SNAT_PORT_RANGE", value_name = "FIRST-LAST", help_heading = "Kernel")]
    snat_port_range: PortRange,
    /// Idle time after which a flow of UDP or another protocol than TCP is deleted [default: 120]
    /// [range: 1 to 2592000]
    ///
    /// Lower it if resolvers fill the flow table (many `datagrams` in the metric `ropeway_flows`).
    /// Raise it if clients pause for longer and must keep their backend.
    #[arg(long, env = "ROPEWAY_UDP_TIMEOUT", value_name = "SECONDS", help_heading = "Kernel")]
    udp_timeout: u32,
    /// Idle time after which an open TCP connection is deleted [default: 86400] [range: 1 to
    /// 2592000]
    ///
    /// Raise it for connections that are idle for more than a day without TCP keep-alive. Lower it
    /// if idle connections fill the flow table.
    #[arg(long, env = "ROPEWAY_TCP_TIMEOUT", value_name = "SECONDS", help_heading = "Kernel")]
    tcp_timeout: u32,
    /// Idle time after which a TCP connection that has seen FIN or RST is deleted [default: 60]
    /// [range: 1 to 2592000]
    ///
    /// Lower it if closed connections fill the flow table. Keep it above the time in which clients
    /// retransmit their last segments.
    ///
    /// A connection that both ends have closed, or one has reset, is deleted after a twelfth of it;
    /// an unanswered SYN or a single exchange of datagrams after half of it.
    #[arg(long, env = "ROPEWAY_TCP_CLOSING_TIMEOUT", value_name = "SECONDS", help_heading = "Kernel")]
    tcp_closing_timeout: u32,

    /// Limit of frontends (address, port, protocol) per address family [default: 1048576] [range:
    /// 16 to 67108864]
    ///
    /// The table starts small and doubles up to this limit. Raise it if an Event `TableFull` names
    /// the table `frontends`.
    #[arg(long, env = "ROPEWAY_MAX_FRONTENDS", value_name = "ENTRIES", help_heading = TABLES)]
    max_frontends: u32,
    /// Limit of backends: endpoints, counted once per Service port [default: 1048576] [range: 16
    /// to 67108864]
    ///
    /// The table starts small and doubles up to this limit. Raise it if an Event `TableFull` names
    /// the table `backends`.
    #[arg(long, env = "ROPEWAY_MAX_BACKENDS", value_name = "ENTRIES", help_heading = TABLES)]
    max_backends: u32,
    /// Limit of slots: the sum of the lengths of all backend tables [default: 4194304] [range: 16
    /// to 67108864]
    ///
    /// The table starts small and doubles up to this limit. Raise it if an Event `TableFull` names
    /// the table `slots`. Weights and Maglev tables take many slots.
    #[arg(long, env = "ROPEWAY_MAX_SLOTS", value_name = "ENTRIES", help_heading = TABLES)]
    max_slots: u32,
    /// Limit of Service ports [default: 1048576] [range: 16 to 67108864]
    ///
    /// The table starts small and doubles up to this limit. Raise it if an Event `TableFull` names
    /// the table `services`.
    #[arg(long, env = "ROPEWAY_MAX_SERVICES", value_name = "ENTRIES", help_heading = TABLES)]
    max_services: u32,
    /// Flow entries per address family; a connection takes two [default: by the node's memory,
    /// 131072 to 4194304] [range: 16 to 67108864]
    ///
    /// Raise it if the log says that the flow table is nearly full of live flows (metric
    /// `ropeway_flow_table_pressure` near 1). The memory is allocated when the table is created.
    /// By default the flow tables and what depends on them take 1/400 of the node's memory.
    ///
    /// A pod opens 1/256 of the entries as new flows a second, in a burst of 1/16. A network
    /// outside opens half as many, and everything outside together as many as a pod. Flows beyond
    /// that end early if there are more of them (counter `surplus_flow`): 1/8 of the entries are
    /// for those of pods, 1/8 for others.
    #[arg(long, env = "ROPEWAY_MAX_FLOWS", value_name = "ENTRIES", help_heading = TABLES)]
    max_flows: u32,
    /// Clients remembered for session affinity, per address family [default: half of the default
    /// of --max-flows] [range: 16 to 67108864]
    ///
    /// Raise it if more clients than that use Services with `sessionAffinity: ClientIP`. If the
    /// table is full, the client that was idle longest is forgotten.
    #[arg(long, env = "ROPEWAY_MAX_AFFINITY", value_name = "ENTRIES", help_heading = TABLES)]
    max_affinity: u32,
    /// Entries for sockets that use Services, per address family [default: half of the default of
    /// --max-flows] [range: 16 to 67108864]
    ///
    /// An entry shows the application the Service's address instead of the backend's
    /// (getpeername(2), recvmsg(2)) and keeps an unconnected UDP socket on its backend. Raise the
    /// limit if processes on the node have more such sockets; the entries that were idle longest
    /// are evicted first.
    #[arg(long, env = "ROPEWAY_MAX_SOCKETS", value_name = "ENTRIES", help_heading = TABLES)]
    max_sockets: u32,

    /// Address that serves /metrics, /healthz, /readyz, /proxyMode and /configz [default:
    /// 127.0.0.1:10249]
    ///
    /// Set it to let a collector on another machine read the metrics, or if kube-proxy still uses
    /// the port. The endpoint has no authentication.
    #[arg(long, env = "ROPEWAY_METRICS_BIND_ADDRESS", value_name = "ADDRESS:PORT", help_heading = "Observation")]
    metrics_bind_address: SocketAddr,
    /// Address that serves /healthz and /livez [default: [::]:10256]
    ///
    /// Load balancers outside the cluster query it. Set it if kube-proxy still uses the port.
    /// `[::]` means all addresses of both families, on a kernel without IPv6 those of IPv4.
    #[arg(long, env = "ROPEWAY_HEALTHZ_BIND_ADDRESS", value_name = "ADDRESS:PORT", help_heading = "Observation")]
    healthz_bind_address: SocketAddr,
    /// Lowest severity that is logged: error, warn, info, debug or trace [default: info]
    ///
    /// Set `debug` while looking for a fault, for example to see each route request.
    #[arg(long, env = "ROPEWAY_LOG_LEVEL", value_name = "LEVEL", help_heading = "Observation")]
    log_level: String,
    /// Format of the log on standard error [default: text]
    ///
    /// Set `json` for a log collector.
    #[arg(long, env = "ROPEWAY_LOG_FORMAT", value_name = "FORMAT", help_heading = "Observation")]
    log_format: LogFormat,
    /// Log each packet and each connect(2) that the programs handle; for debugging only [default:
    /// false]
    ///
    /// Costs a log line per packet. Set it on one node at a time.
    #[arg(long, env = "ROPEWAY_TRACE", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", help_heading = "Observation")]
    trace: bool,
}
