//! The objects of the demo: the cluster, the pods and servers in it, and the manifests of the
//! repository that it applies.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use ropeway_tests::cluster::Cluster;
use ropeway_tests::load::{self, TrafficEndpoint};
use ropeway_tests::pod::{IpFamily, Pod};
use ropeway_tests::process::Process;

use crate::paths::Paths;

/// The port on which the servers listen.
const TARGET: u16 = 8080;

/// The Service's ports: HTTP, and echo over UDP.
const HTTP: Ports = Ports { cluster: 80, node: 30080 };
const ECHO: Ports = Ports { cluster: 7, node: 30007 };

struct Ports {
    cluster: u16,
    node: u16,
}

/// The cluster and everything in it. Servers end before the cluster does.
pub(super) struct Stage {
    pub(super) servers: Vec<Process>,
    /// `web-1` on `n1` and so on.
    pub(super) web: Vec<Pod>,
    /// The client pod on `n1`.
    pub(super) shell: Option<Pod>,
    pub(super) cluster: Cluster,
    manifests: PathBuf,
}

/// A client and the address by which it reaches the Service.
pub(super) struct ServicePath<'a> {
    pub(super) from: &'a dyn TrafficEndpoint,
    pub(super) name: &'static str,
    pub(super) http: SocketAddr,
    pub(super) echo: SocketAddr,
}

impl Stage {
    pub(super) fn new(paths: &Paths, cluster: Cluster) -> Self {
        let manifests = paths.root.join("manifests/demo");
        Self { servers: Vec::new(), web: Vec::new(), shell: None, cluster, manifests }
    }

    /// Creates the pods and starts their servers.
    pub(super) fn add_pods(&mut self) -> Result<()> {
        for (number, node) in (1..).zip(&self.cluster.nodes) {
            let name = format!("web-{number}");
            let pod = node.pod(&name)?;
            self.servers.push(load::serve(&pod, &name, &[TARGET])?);
            self.web.push(pod);
        }
        self.shell = Some(self.cluster.nodes[0].pod("shell")?);
        Ok(())
    }

    /// Applies a manifest of the repository under a name: a file that is there already is replaced.
    pub(super) fn apply(&self, manifest: &str, name: &str) -> Result<()> {
        let path = self.manifests.join(manifest);
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        println!("  manifests/demo/{manifest}");
        self.cluster.apply_text(name, &text)
    }

    /// Checks that the endpoints in the manifests are the existing pods.
    pub(super) fn check_addresses(&self) -> Result<()> {
        let text = std::fs::read_to_string(self.manifests.join("web-endpoints.yaml"))?;
        for pod in &self.web {
            for address in pod.addresses() {
                if !text.contains(&format!("- {address}\n")) {
                    bail!("{} got {address}, which manifests/demo/web-endpoints.yaml does not name", pod.name());
                }
            }
        }
        Ok(())
    }

    /// Returns the paths from pod, node and outside.
    pub(super) fn paths(&self, family: IpFamily) -> Result<Vec<ServicePath<'_>>> {
        let shell: &dyn TrafficEndpoint = self.shell.as_ref().context("the demo has no client pod")?;
        let nodes = &self.cluster.nodes;
        let service: IpAddr = if family == IpFamily::V4 { "10.96.0.80" } else { "fd00:10:96::80" }.parse()?;
        let to_cluster = |from, name| ServicePath {
            from,
            name,
            http: (service, HTTP.cluster).into(),
            echo: (service, ECHO.cluster).into(),
        };
        let node = nodes[2].address(family);
        Ok(vec![
            to_cluster(shell, "pod shell"),
            to_cluster(&nodes[1].machine, "node n2"),
            ServicePath {
                from: &self.cluster.client,
                name: "outside",
                http: (node, HTTP.node).into(),
                echo: (node, ECHO.node).into(),
            },
        ])
    }

    /// Detaches all processes and namespaces, for `--keep`.
    pub(super) fn keep_running(self) {
        for server in self.servers {
            std::mem::forget(server); // it outlives this process by intention
        }
        self.cluster.keep_running();
    }

    /// Removes the servers, pods and the cluster.
    pub(super) fn end(self) -> Result<()> {
        drop(self.servers);
        self.cluster.end()
    }
}
