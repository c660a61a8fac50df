//! The agent's configuration, merged from flags, environment, file and defaults, and checked.
//!
//! A flag overrides its environment variable, which overrides the file, which overrides the
//! default. `ropeway-agent` calls this once at start; every error names the option that is at
//! fault. This module reads the file and the host name, and nothing else of the machine: uplinks,
//! node addresses and the cgroup mount stay `None` or empty here and are discovered later.
//! docs/configuration.md is generated from the same declarations (`cli/tests/reference.rs`).

pub mod maglev;
mod options;
mod types;

#[cfg(test)]
mod tests;

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use dataplane_host::contract::DEFAULT_STATE_DIR;
use ipnetwork::IpNetwork;
use serde::Serialize;

pub use options::Options;
pub use types::{
    ExternalIpRange, Ipam, LogFormat, NodePortRange, PortRange, PortRangeError, RouteMode, Scheduler, SocketScope,
    SourceKind, UplinkAttach,
};

/// Default UDP port of VXLAN, as assigned by IANA (RFC 7348).
pub const VXLAN_PORT: u16 = 4789;

/// Kubernetes' default range of node ports (`--service-node-port-range` of kube-apiserver).
const NODE_PORTS: PortRange = PortRange { first: 30000, last: 32767 };

/// The longest timeout of a flow in seconds: 30 days.
const LONGEST_TIMEOUT: u32 = 30 * 86400;
/// Limits of a table size in entries.
const TABLE_SIZES: RangeInclusive<u32> = 16..=1 << 26;

/// Error of reading or checking a configuration; the message names the file or the option.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The configuration file is unreadable.
    #[error("--config {}: cannot read the file: {source}", path.display())]
    Read {
        /// Path of the configuration file.
        path: PathBuf,
        /// Error of the read.
        source: io::Error,
    },
    /// The configuration file is not valid YAML, or has an unknown key or a value of the wrong
    /// type.
    #[error("--config {}: invalid configuration file: {message}", path.display())]
    Parse {
        /// Path of the configuration file.
        path: PathBuf,
        /// The parser's message, with line and column.
        message: String,
    },
    /// An option is not set although another option requires it.
    #[error("--{field} is missing: {because}")]
    Missing {
        /// Name of the flag, without `--`.
        field: &'static str,
        /// Says which option requires it.
        because: &'static str,
    },
    /// An option has a value that is out of range, or that another option rules out.
    #[error("--{field}: {problem}")]
    Invalid {
        /// Name of the flag, without `--`.
        field: &'static str,
        /// The fault and the remedy.
        problem: String,
    },
}

/// Origin of the Kubernetes objects, with the options of that origin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum ObjectSource {
    /// A Kubernetes API server.
    #[serde(rename_all = "camelCase")]
    Kubernetes {
        /// Kubeconfig file; `None` uses the pod's service account.
        kubeconfig: Option<PathBuf>,
        /// URLs that override the one of the kubeconfig, tried in order.
        apiservers: Vec<String>,
    },
    /// A directory of manifests, without a cluster.
    Manifests {
        /// Directory that the agent watches.
        directory: PathBuf,
    },
}

/// Table sizes in entries; `load::sizes` chooses those that are `None`.
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

/// A checked configuration. `/configz` serves it unchanged, so it must never hold a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "each is the flag of the same name, see `Options`")]
pub struct Config {
    pub source: ObjectSource,
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
    #[serde(rename = "externalIPs")]
    pub external_ips: Vec<ExternalIpRange>,
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
    pub translate_sockets: SocketScope,
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
    /// The file is unreadable, is not YAML, or has an unknown key; the message has line and key.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.into(), source })?;
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        serde_saphyr::from_str(&text).map_err(|e| ConfigError::Parse { path: path.into(), message: e.to_string() })
    }
}

impl Config {
    /// Adds the defaults and checks all options.
    ///
    /// # Errors
    /// Names the first option that is missing or invalid.
    pub fn new(o: Options) -> Result<Self, ConfigError> {
        let service_proxy = o.service_proxy.unwrap_or(true);
        let ipam = o.ipam.unwrap_or(if o.pod_cidr.is_some() { Ipam::Configured } else { Ipam::PodCidr });
        let config = Self {
            source: source(&o)?,
            node_name: node_name(o.node_name)?,
            node_ips: o.node_ip.unwrap_or_default(),
            uplinks: o.uplink.unwrap_or_default(),
            ipam,
            ip_pools: o.ip_pool.unwrap_or_default(),
            pod_cidrs: o.pod_cidr.unwrap_or_default(),
            service_proxy,
            masquerade: o.masquerade.unwrap_or(service_proxy && ipam != Ipam::None),
            cluster_cidrs: o.cluster_cidr.unwrap_or_default(),
            service_cidrs: o.service_cidr.unwrap_or_default(),
            nodeport_addresses: o.nodeport_addresses.unwrap_or_else(|| vec![NodePortRange::Primary]),
            external_ips: o.external_ips.unwrap_or_else(|| vec![ExternalIpRange::All]),
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
            state_dir: o.state_dir.unwrap_or_else(|| DEFAULT_STATE_DIR.into()),
            cni_conflist: o.cni_conflist,
            translate_sockets: o.translate_sockets.unwrap_or_default(),
            uplink_attach: o.uplink_attach.unwrap_or_default(),
            ebpf_object: o.ebpf_object,
            snat_ports: o.snat_port_range.unwrap_or(PortRange { first: 4096, last: 29999 }),
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
            healthz_bind_address: o.healthz_bind_address.unwrap_or((Ipv6Addr::UNSPECIFIED, 10256).into()),
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
            "`primary` cannot be combined with ranges: name either ranges or `primary`".into()
        })?;
        for (field, ranges) in [
            ("external-ips", &self.external_ranges().unwrap_or_default()),
            ("pod-cidr", &self.pod_cidrs),
            ("cluster-cidr", &self.cluster_cidrs),
            ("service-cidr", &self.service_cidrs),
            ("non-masquerade-cidr", &self.non_masquerade_cidrs),
        ] {
            for range in ranges {
                require(field, range.ip() == range.network(), || {
                    format!("{range} has host bits set: use {}/{}", range.network(), range.prefix())
                })?;
            }
        }
        require("vxlan-port", self.vxlan_port != 0 && !NODE_PORTS.overlaps(self.vxlan_ports()), || {
            format!("{} cannot be used: choose 1 to 65535 without the node ports ({NODE_PORTS})", self.vxlan_port)
        })?;
        self.check_addresses_and_devices()?;
        self.check_external_ips()?;
        require("snat-port-range", !self.snat_ports.overlaps(NODE_PORTS), || {
            format!("{} overlaps the node ports ({NODE_PORTS}): use a range outside them", self.snat_ports)
        })?;
        if let Some(mtu) = self.mtu {
            require("mtu", (1280..=65535).contains(&mtu), || {
                format!("{mtu} is out of range: use 1280 (the minimum of IPv6) to 65535")
            })?;
        }
        require("maglev-table-size", maglev::SIZES.contains(&self.maglev_table_size), || {
            let sizes = maglev::SIZES.map(|n| n.to_string()).join(", ");
            format!("{} is not a supported table size: use one of {sizes}", self.maglev_table_size)
        })?;
        let paths = [("pin-root", Some(&self.pin_root)), ("state-dir", Some(&self.state_dir))];
        for (field, path) in paths.into_iter().chain([("cni-conflist", self.cni_conflist.as_ref())]) {
            let Some(path) = path else { continue };
            require(field, path.is_absolute(), || {
                format!("{} is not an absolute path: start it with /", path.display())
            })?;
        }
        self.check_timeouts()?;
        require("log-level", self.log_level.parse::<tracing::Level>().is_ok(), || {
            format!("{:?} is not a log level: use error, warn, info, debug or trace", self.log_level)
        })?;
        self.check_ipam()?;
        let kubernetes = matches!(self.source, ObjectSource::Kubernetes { .. });
        require("service-proxy", self.service_proxy || kubernetes, || {
            "false requires --source kubernetes: kube-proxy does not read manifests".into()
        })?;
        require("service-proxy", self.service_proxy || self.ipam != Ipam::None, || {
            "false cannot be combined with --ipam none: the agent would have nothing to do".into()
        })?;
        require("masquerade", self.service_proxy || !self.masquerade, || {
            "cannot be combined with --service-proxy=false: the host's connection tracking would see one direction only"
                .into()
        })?;
        self.check_tables()
    }

    fn check_external_ips(&self) -> Result<(), ConfigError> {
        let single = |range: &ExternalIpRange| !matches!(range, ExternalIpRange::Range(_));
        require("external-ips", self.external_ips.len() == 1 || !self.external_ips.iter().any(single), || {
            "`all` and `none` cannot be combined: use one of them alone, or ranges".into()
        })
    }

    /// Returns the ranges in which external addresses are served; `None` for all addresses.
    #[must_use]
    pub fn external_ranges(&self) -> Option<Vec<IpNetwork>> {
        let ranges = self.external_ips.iter().filter_map(|range| match range {
            ExternalIpRange::Range(range) => Some(*range),
            ExternalIpRange::All | ExternalIpRange::None => None,
        });
        (!self.external_ips.contains(&ExternalIpRange::All)).then(|| ranges.collect())
    }

    fn check_addresses_and_devices(&self) -> Result<(), ConfigError> {
        for address in &self.node_ips {
            require("node-ip", !address.is_unspecified() && !address.is_loopback() && !address.is_multicast(), || {
                format!("{address} is unspecified, loopback or multicast: use an address of a device of this node")
            })?;
        }
        for device in &self.uplinks {
            let bad = |c: char| c == '/' || c == ':' || c.is_whitespace();
            require("uplink", (1..=15).contains(&device.len()) && !device.contains(bad), || {
                format!("{device:?} is not a device name: use 1 to 15 characters without '/', ':' and blanks")
            })?;
        }
        Ok(())
    }

    fn check_timeouts(&self) -> Result<(), ConfigError> {
        for (field, seconds) in [
            ("udp-timeout", self.udp_timeout),
            ("tcp-timeout", self.tcp_timeout),
            ("tcp-closing-timeout", self.tcp_closing_timeout),
        ] {
            require(field, (1..=LONGEST_TIMEOUT).contains(&seconds), || {
                format!("{seconds} is out of range: use 1 to {LONGEST_TIMEOUT} seconds (30 days)")
            })?;
        }
        Ok(())
    }

    fn check_ipam(&self) -> Result<(), ConfigError> {
        let pools = self.ipam == Ipam::Pools;
        let kubernetes = matches!(self.source, ObjectSource::Kubernetes { .. });
        require("ipam", !pools || kubernetes, || {
            "pools requires --source kubernetes: only an API server has IPPool objects".into()
        })?;
        require("ip-pool", pools || self.ip_pools.is_empty(), || "requires --ipam pools".into())?;
        require("cni-conflist", self.ipam != Ipam::None || self.cni_conflist.is_none(), || {
            "cannot be combined with --ipam none: another CNI plugin attaches the pods".into()
        })?;
        let configured = self.ipam == Ipam::Configured;
        require("pod-cidr", configured || self.pod_cidrs.is_empty(), || "requires --ipam configured".into())?;
        let because = "--ipam configured requires a range of pod addresses";
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
            let Some(size) = size else { continue };
            require(field, TABLE_SIZES.contains(&size), || {
                format!("{size} is out of range: use {} to {} entries", TABLE_SIZES.start(), TABLE_SIZES.end())
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
    require(field, sixes <= 1 && values.len() - sixes <= 1, || {
        "more than one value for an address family: use at most one for IPv4 and one for IPv6".into()
    })
}

fn source(o: &Options) -> Result<ObjectSource, ConfigError> {
    match o.source.unwrap_or(SourceKind::Kubernetes) {
        SourceKind::Manifests => {
            let because = "--source manifests requires a directory";
            let directory = o.manifests.clone().ok_or(ConfigError::Missing { field: "manifests", because })?;
            Ok(ObjectSource::Manifests { directory })
        }
        SourceKind::Kubernetes => {
            require("manifests", o.manifests.is_none(), || "requires --source manifests".into())?;
            let apiservers = o.apiserver.clone().unwrap_or_default();
            for url in &apiservers {
                require("apiserver", url.starts_with("https://") || url.starts_with("http://"), || {
                    format!("{url:?} is not a URL: use https://HOST:PORT")
                })?;
            }
            Ok(ObjectSource::Kubernetes { kubeconfig: o.kubeconfig.clone(), apiservers })
        }
    }
}

/// Returns the given name, else the host name in lower case, which is kubelet's rule.
fn node_name(given: Option<String>) -> Result<String, ConfigError> {
    let name = if let Some(name) = given {
        name
    } else {
        let path = Path::new("/proc/sys/kernel/hostname");
        let name = std::fs::read_to_string(path).map_err(|e| ConfigError::Invalid {
            field: "node-name",
            problem: format!("{}: {e}: set the option", path.display()),
        })?;
        name.trim().to_lowercase()
    };
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    require("node-name", !name.is_empty() && name.len() <= 253 && name.chars().all(good), || {
        format!("{name:?} is not a node name: use at most 253 lower-case letters, digits, '-' and '.'")
    })?;
    Ok(name)
}
