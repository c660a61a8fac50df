//! The agent's configuration: flag over environment variable over file over default, checked as a whole.
//!
//! Pure but for reading the file and the host name. Every error names the setting. Nothing here touches the kernel;
//! what the machine decides (uplink, node address, cgroup mount) stays `None` or empty and is found later.

pub mod maglev;
mod options;
mod types;

#[cfg(test)]
mod tests;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use ipnetwork::IpNetwork;
use serde::Serialize;

pub use options::Options;
pub use types::{
    Ipam, LogFormat, NodePortRange, PortRange, PortRangeError, RouteMode, Scheduler, SourceKind, UplinkAttach,
};

/// The VXLAN port unless a setting says otherwise: IANA's (RFC 7348).
pub const VXLAN_PORT: u16 = 4789;

/// The node ports of a cluster that nobody configured otherwise.
const NODE_PORTS: PortRange = PortRange { first: 30000, last: 32767 };

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("--config {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The file says something that is no setting.
    #[error("--config {}: {message}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What and where.
        message: String,
    },
    /// A setting that another one requires.
    #[error("--{field} is missing: {because}")]
    Missing {
        /// The flag.
        field: &'static str,
        /// Why it is needed.
        because: &'static str,
    },
    /// A setting with a value that can't be used.
    #[error("--{field}: {problem}")]
    Invalid {
        /// The flag.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

/// Where objects come from, with what that source needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Source {
    /// A Kubernetes API server.
    #[serde(rename_all = "camelCase")]
    Kubernetes {
        /// Else the pod's service account.
        kubeconfig: Option<PathBuf>,
        /// In place of the kubeconfig's; tried in turn.
        apiservers: Vec<String>,
    },
    /// A directory of manifests.
    Manifests {
        /// The directory.
        directory: PathBuf,
    },
}

/// Sizes of the tables; `None`: see `load::sizes`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "each is the flag of the same name")]
pub struct TableSizes {
    pub frontends: Option<u32>,
    pub backends: Option<u32>,
    pub slots: Option<u32>,
    pub services: Option<u32>,
    pub flows: Option<u32>,
    pub affinity: Option<u32>,
    pub sockets: Option<u32>,
}

/// A checked configuration. Shown as it is by `/configz`: it holds no secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "each is the flag of the same name, see `Options`")]
pub struct Config {
    pub source: Source,
    pub node_name: String,
    #[serde(rename = "nodeIPs")]
    pub node_ips: Vec<IpAddr>,
    pub uplinks: Vec<String>,
    pub ipam: Ipam,
    pub ip_pools: Vec<String>,
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Vec<IpNetwork>,
    #[serde(rename = "clusterCIDRs")]
    pub cluster_cidrs: Vec<IpNetwork>,
    #[serde(rename = "serviceCIDRs")]
    pub service_cidrs: Vec<IpNetwork>,
    pub nodeport_addresses: Vec<NodePortRange>,
    pub service_proxy: bool,
    pub masquerade: bool,
    #[serde(rename = "nonMasqueradeCIDRs")]
    pub non_masquerade_cidrs: Vec<IpNetwork>,
    pub zone: Option<String>,
    pub mtu: Option<u32>,
    pub route_metric: Option<u32>,
    pub route_mode: RouteMode,
    pub vxlan_port: u16,
    pub scheduler: Scheduler,
    pub maglev_table_size: u32,
    pub pin_root: PathBuf,
    pub cgroup_root: Option<PathBuf>,
    pub state_dir: PathBuf,
    pub cni_conflist: Option<PathBuf>,
    pub uplink_attach: UplinkAttach,
    pub ebpf_object: Option<PathBuf>,
    pub snat_ports: PortRange,
    pub udp_timeout: u32,
    pub tcp_timeout: u32,
    pub tcp_closing_timeout: u32,
    pub tables: TableSizes,
    pub metrics_bind_address: SocketAddr,
    pub healthz_bind_address: SocketAddr,
    pub log_level: String,
    pub log_format: LogFormat,
    pub trace: bool,
}

impl Options {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// It can't be read, or it holds something that is no setting; the message has line and name.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.into(), source })?;
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        serde_saphyr::from_str(&text).map_err(|e| ConfigError::Parse { path: path.into(), message: e.to_string() })
    }
}

impl Config {
    /// Adds the defaults and checks the whole.
    ///
    /// # Errors
    /// Names the first setting that is missing or can't be used.
    pub fn new(o: Options) -> Result<Self, ConfigError> {
        let service_proxy = o.service_proxy.unwrap_or(true);
        let config = Self {
            source: source(&o)?,
            node_name: node_name(o.node_name)?,
            node_ips: o.node_ip.unwrap_or_default(),
            uplinks: o.uplink.unwrap_or_default(),
            ipam: o.ipam.unwrap_or(if o.pod_cidr.is_some() { Ipam::Configured } else { Ipam::PodCidr }),
            ip_pools: o.ip_pool.unwrap_or_default(),
            pod_cidrs: o.pod_cidr.unwrap_or_default(),
            service_proxy,
            masquerade: o
                .masquerade
                .unwrap_or(service_proxy && o.cluster_cidr.as_ref().is_some_and(|ranges| !ranges.is_empty())),
            cluster_cidrs: o.cluster_cidr.unwrap_or_default(),
            service_cidrs: o.service_cidr.unwrap_or_default(),
            nodeport_addresses: o.nodeport_addresses.unwrap_or_else(|| vec![NodePortRange::Primary]),
            non_masquerade_cidrs: o.non_masquerade_cidr.unwrap_or_default(),
            zone: o.zone,
            mtu: o.mtu,
            route_metric: o.route_metric,
            route_mode: o.route_mode.unwrap_or_default(),
            vxlan_port: o.vxlan_port.unwrap_or(VXLAN_PORT),
            scheduler: o.scheduler.unwrap_or_default(),
            maglev_table_size: o.maglev_table_size.unwrap_or(maglev::DEFAULT_SIZE),
            pin_root: o.pin_root.unwrap_or_else(|| dataplane_host::pins::DEFAULT_ROOT.into()),
            cgroup_root: o.cgroup_root,
            state_dir: o.state_dir.unwrap_or_else(|| "/var/lib/ropeway".into()),
            cni_conflist: o.cni_conflist,
            uplink_attach: o.uplink_attach.unwrap_or_default(),
            ebpf_object: o.ebpf_object,
            snat_ports: o.snat_port_range.unwrap_or(PortRange { first: 61000, last: 65535 }),
            udp_timeout: o.udp_timeout.unwrap_or(120),
            tcp_timeout: o.tcp_timeout.unwrap_or(86400),
            tcp_closing_timeout: o.tcp_closing_timeout.unwrap_or(60),
            tables: TableSizes {
                frontends: o.max_frontends,
                backends: o.max_backends,
                slots: o.max_slots,
                services: o.max_services,
                flows: o.max_flows,
                affinity: o.max_affinity,
                sockets: o.max_sockets,
            },
            metrics_bind_address: o.metrics_bind_address.unwrap_or(([127, 0, 0, 1], 10249).into()),
            healthz_bind_address: o.healthz_bind_address.unwrap_or(([0, 0, 0, 0], 10256).into()),
            log_level: o.log_level.unwrap_or_else(|| "info".into()),
            log_format: o.log_format.unwrap_or(LogFormat::Text),
            trace: o.trace.unwrap_or(false),
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        one_per_family("node-ip", &self.node_ips, IpAddr::is_ipv6)?;
        one_per_family("pod-cidr", &self.pod_cidrs, IpNetwork::is_ipv6)?;
        let primary = self.nodeport_addresses.contains(&NodePortRange::Primary);
        require("nodeport-addresses", !primary || self.nodeport_addresses.len() == 1, || {
            "`primary` stands alone".into()
        })?;
        for (field, ranges) in [
            ("pod-cidr", &self.pod_cidrs),
            ("cluster-cidr", &self.cluster_cidrs),
            ("service-cidr", &self.service_cidrs),
            ("non-masquerade-cidr", &self.non_masquerade_cidrs),
        ] {
            for range in ranges {
                require(field, range.ip() == range.network(), || {
                    format!("{range} has bits beyond its prefix: did you mean {}/{}?", range.network(), range.prefix())
                })?;
            }
        }
        require("vxlan-port", self.vxlan_port != 0 && !NODE_PORTS.overlaps(self.vxlan_ports()), || {
            format!("{} is 0 or one of the node ports ({NODE_PORTS})", self.vxlan_port)
        })?;
        for address in &self.node_ips {
            require("node-ip", !address.is_unspecified() && !address.is_loopback() && !address.is_multicast(), || {
                format!("{address} can't be the address of a node")
            })?;
        }
        for device in &self.uplinks {
            let bad = |c: char| c == '/' || c == ':' || c.is_whitespace();
            require("uplink", (1..=15).contains(&device.len()) && !device.contains(bad), || {
                format!("{device:?} can't be the name of a device")
            })?;
        }
        require("snat-port-range", !self.snat_ports.overlaps(NODE_PORTS), || {
            format!("{} overlaps the node ports ({NODE_PORTS})", self.snat_ports)
        })?;
        require("mtu", self.mtu.is_none_or(|m| (1280..=65535).contains(&m)), || {
            "must be between 1280 (the least that IPv6 allows) and 65535".into()
        })?;
        require("maglev-table-size", maglev::SIZES.contains(&self.maglev_table_size), || {
            format!("must be one of {}", maglev::SIZES.map(|n| n.to_string()).join(", "))
        })?;
        let paths = [("pin-root", Some(&self.pin_root)), ("state-dir", Some(&self.state_dir))];
        for (field, path) in paths.into_iter().chain([("cni-conflist", self.cni_conflist.as_ref())]) {
            let Some(path) = path else { continue };
            require(field, path.is_absolute(), || format!("{}: must be an absolute path", path.display()))?;
        }
        for (field, seconds) in [
            ("udp-timeout", self.udp_timeout),
            ("tcp-timeout", self.tcp_timeout),
            ("tcp-closing-timeout", self.tcp_closing_timeout),
        ] {
            require(field, (1..=30 * 86400).contains(&seconds), || "must be between 1 s and 30 days".into())?;
        }
        require("log-level", self.log_level.parse::<tracing::Level>().is_ok(), || {
            format!("{:?} is none of error, warn, info, debug, trace", self.log_level)
        })?;
        self.check_ipam()?;
        let kubernetes = matches!(self.source, Source::Kubernetes { .. });
        require("service-proxy", self.service_proxy || kubernetes, || {
            "with --source manifests nobody else can".into()
        })?;
        require("service-proxy", self.service_proxy || self.ipam != Ipam::None, || {
            "false with --ipam none: then there is nothing to do".into()
        })?;
        require("masquerade", self.service_proxy || !self.masquerade, || {
            "not with --service-proxy=false: the host's connection tracking would see only one direction".into()
        })?;
        self.check_tables()
    }

    fn check_ipam(&self) -> Result<(), ConfigError> {
        let pools = self.ipam == Ipam::Pools;
        let kubernetes = matches!(self.source, Source::Kubernetes { .. });
        require("ipam", !pools || kubernetes, || {
            "pools are objects of Kubernetes: not with --source manifests".into()
        })?;
        require("ip-pool", pools || self.ip_pools.is_empty(), || "only with --ipam pools".into())?;
        require("cni-conflist", self.ipam != Ipam::None || self.cni_conflist.is_none(), || {
            "not with --ipam none: another plugin attaches the pods".into()
        })?;
        let configured = self.ipam == Ipam::Configured;
        require("pod-cidr", configured || self.pod_cidrs.is_empty(), || "only with --ipam configured".into())?;
        let because = "--ipam configured needs the ranges";
        if configured && self.pod_cidrs.is_empty() {
            return Err(ConfigError::Missing { field: "pod-cidr", because });
        }
        Ok(())
    }

    const fn vxlan_ports(&self) -> PortRange {
        PortRange { first: self.vxlan_port, last: self.vxlan_port }
    }

    fn check_tables(&self) -> Result<(), ConfigError> {
        let t = &self.tables;
        for (field, size) in [
            ("max-frontends", t.frontends),
            ("max-backends", t.backends),
            ("max-slots", t.slots),
            ("max-services", t.services),
            ("max-flows", t.flows),
            ("max-affinity", t.affinity),
            ("max-sockets", t.sockets),
        ] {
            require(field, size.is_none_or(|s| (16..=1 << 26).contains(&s)), || {
                format!("must be between 16 and {}", 1 << 26)
            })?;
        }
        Ok(())
    }
}

fn require(field: &'static str, holds: bool, problem: impl FnOnce() -> String) -> Result<(), ConfigError> {
    if holds { Ok(()) } else { Err(ConfigError::Invalid { field, problem: problem() }) }
}

fn one_per_family<T>(field: &'static str, values: &[T], v6: impl Fn(&T) -> bool) -> Result<(), ConfigError> {
    let sixes = values.iter().filter(|v| v6(v)).count();
    require(field, sixes <= 1 && values.len() - sixes <= 1, || "at most one for IPv4 and one for IPv6".into())
}

fn source(o: &Options) -> Result<Source, ConfigError> {
    match o.source.unwrap_or(SourceKind::Kubernetes) {
        SourceKind::Manifests => {
            let because = "--source manifests needs the directory to read";
            let directory = o.manifests.clone().ok_or(ConfigError::Missing { field: "manifests", because })?;
            Ok(Source::Manifests { directory })
        }
        SourceKind::Kubernetes => {
            require("manifests", o.manifests.is_none(), || "only with --source manifests".into())?;
            let apiservers = o.apiserver.clone().unwrap_or_default();
            for url in &apiservers {
                require("apiserver", url.starts_with("https://") || url.starts_with("http://"), || {
                    format!("{url:?} is no URL: expected https://HOST:PORT")
                })?;
            }
            Ok(Source::Kubernetes { kubeconfig: o.kubeconfig.clone(), apiservers })
        }
    }
}

/// Kubelet's rule: the host name, in lower case.
fn node_name(given: Option<String>) -> Result<String, ConfigError> {
    let name = if let Some(name) = given {
        name
    } else {
        let path = Path::new("/proc/sys/kernel/hostname");
        let name = std::fs::read_to_string(path)
            .map_err(|e| ConfigError::Invalid { field: "node-name", problem: format!("{}: {e}", path.display()) })?;
        name.trim().to_lowercase()
    };
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    require("node-name", !name.is_empty() && name.len() <= 253 && name.chars().all(good), || {
        format!("{name:?} can't be the name of a node: expected lower-case letters, digits, '-' and '.'")
    })?;
    Ok(name)
}
