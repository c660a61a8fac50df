//! `smoke`: in a minute or two, whether everything works that every cluster needs.
//!
//! Each check is a sentence; all of them run, and the end says which failed.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use super::network::{FABRIC, namespace_path};
use super::place::Place;
use super::settings::{DNS_SERVICE, DOMAIN, KUBERNETES_SERVICE};
use super::shape::{Proxy, Shape};
use super::step::{Steps, wait_for};
use super::{addons, enter, kube};
use crate::shell;

const NAMESPACE: &str = "ropeway-smoke";

struct Smoke<'a> {
    place: &'a Place,
    shape: Shape,
    failures: Vec<String>,
}

/// Runs all checks.
pub(super) fn run(place: &Place, steps: &Steps) -> Result<()> {
    let shape = Shape::require(place)?;
    let count = shape.all().len();
    steps.step("nodes, DNS and metrics", || {
        kube::nodes_ready(place, count, 30)?;
        addons::dns_ready(place)?;
        addons::metrics_ready(place, count)
    })?;
    let mut smoke = Smoke { place, shape, failures: Vec::new() };
    let workload = addons::template(place, "smoke.yaml")?;
    steps.step("a web server with two replicas and a client on each node", || {
        kube::apply(place, &workload)?;
        kube::rolled_out(place, NAMESPACE, "deployment/web", 120)?;
        kube::rolled_out(place, NAMESPACE, "daemonset/client", 120)
    })?;
    smoke.all()?;
    kube::kubectl(place, &["delete", "namespace", NAMESPACE, "--wait=false"])?;
    ensure!(smoke.failures.is_empty(), "{} failed:\n  {}", smoke.failures.len(), smoke.failures.join("\n  "));
    Ok(())
}

#[expect(clippy::unused_self, reason = "the checks are methods, called alike")]
impl Smoke<'_> {
    fn all(&mut self) -> Result<()> {
        let clients = self.clients()?;
        let [web4, web6] = self.cluster_ips()?;
        let port = self.get("service", "web", "{.spec.ports[0].nodePort}")?;
        let name = format!("web.{NAMESPACE}.svc.{DOMAIN}");
        for (client, node) in &clients {
            self.check(&format!("{node}: cluster IP {web4} from a pod"), |s| s.fetch(client, &format!("{web4}:80")));
            self.check(&format!("{node}: cluster IP {web6} from a pod"), |s| s.fetch(client, &format!("[{web6}]:80")));
            self.check(&format!("{node}: Service by name from a pod"), |s| s.fetch(client, &format!("{name}:80")));
            self.check(&format!("{node}: API server as a Service"), |s| s.api(client));
            for (kind, record, tcp) in [("A", &web4, "+notcp"), ("AAAA", &web6, "+notcp"), ("A", &web4, "+tcp")] {
                self.check(&format!("{node}: DNS {kind} {tcp}"), |s| s.dig(client, kind, &name, tcp, record));
            }
        }
        for node in self.shape.all() {
            self.check(&format!("{}: node port from outside, IPv4", node.name), |s| {
                s.outside(&format!("http://{}:{port}/hostname", node.v4()))
            });
            self.check(&format!("{}: node port from outside, IPv6", node.name), |s| {
                s.outside(&format!("http://[{}]:{port}/hostname", node.v6()))
            });
            self.check(&format!("{}: cluster IP from the node", node.name), |s| {
                s.on_node(&node.name, &format!("http://{web4}:80/hostname"))
            });
            if self.shape.proxy == Proxy::Ropeway {
                self.check(&format!("{}: no rule of a packet filter", node.name), |s| s.no_rules(&node.name));
                self.check(&format!("{}: /proxyMode", node.name), |s| s.proxy_mode(&node.name));
            }
        }
        let (client, _) = clients.first().context("no client")?.clone();
        self.check("kubectl exec", |s| {
            let text = s.exec(&client, &["echo", "hello"])?;
            ensure!(text.trim() == "hello", "it printed {text:?}");
            Ok(())
        });
        self.check("kubectl logs", |s| s.kubectl(&["logs", "deployment/web", "--tail=1"]).map(drop));
        if self.shape.proxy == Proxy::Ropeway {
            self.check("agents restarted: pods keep addresses and connections work", |s| s.restart(&client, &web4));
        }
        Ok(())
    }

    fn check(&mut self, what: &str, check: impl FnOnce(&Self) -> Result<()>) {
        let begin = Instant::now();
        match check(self) {
            Ok(()) => println!("  ok    {what} ({:.1} s)", begin.elapsed().as_secs_f64()),
            Err(error) => {
                println!("  FAIL  {what}: {error:#}");
                self.failures.push(format!("{what}: {error:#}"));
            }
        }
    }

    fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        kube::kubectl(self.place, &[&["-n", NAMESPACE], arguments].concat())
    }

    fn get(&self, kind: &str, name: &str, path: &str) -> Result<String> {
        self.kubectl(&["get", kind, name, "-o", &format!("jsonpath={path}")])
    }

    fn exec(&self, pod: &str, command: &[&str]) -> Result<String> {
        self.kubectl(&[&["exec", pod, "--"], command].concat())
    }

    /// Pods and their nodes.
    fn clients(&self) -> Result<Vec<(String, String)>> {
        let path = "jsonpath={range .items[*]}{.metadata.name} {.spec.nodeName}{'\\n'}{end}";
        let text = self.kubectl(&["get", "pods", "-l", "app=client", "-o", path])?;
        Ok(text.lines().filter_map(|l| l.split_once(' ')).map(|(a, b)| (a.into(), b.into())).collect())
    }

    fn cluster_ips(&self) -> Result<[String; 2]> {
        let text = self.get("service", "web", "{.spec.clusterIPs[*]}")?;
        let ips: Vec<_> = text.split_whitespace().map(String::from).collect();
        ips.try_into().map_err(|_| anyhow::anyhow!("Service web has not two cluster IPs but {text:?}"))
    }

    /// Requests, each a new connection, none of which may fail; before long both replicas have answered.
    fn fetch(&self, pod: &str, target: &str) -> Result<()> {
        wait_for("answers of both replicas", 10, || match self.ten(pod, target) {
            Ok(pods) if pods.len() < 2 => bail!("10 requests went to {pods:?}"),
            answered => Ok(answered.map(drop)),
        })?
    }

    fn ten(&self, pod: &str, target: &str) -> Result<BTreeSet<String>> {
        let get = format!("curl -sS -g --fail --max-time 3 http://{target}/hostname");
        let text = self.exec(pod, &["sh", "-c", &format!("for i in $(seq 10); do {get} || exit 1; echo; done")])?;
        Ok(text.split_whitespace().map(String::from).collect())
    }

    fn api(&self, pod: &str) -> Result<()> {
        let url = format!("https://{}/readyz", KUBERNETES_SERVICE[0]);
        let text = self.exec(pod, &["curl", "-sSk", "--max-time", "3", &url])?;
        ensure!(!text.is_empty(), "no answer");
        Ok(())
    }

    fn dig(&self, pod: &str, kind: &str, name: &str, tcp: &str, expected: &str) -> Result<()> {
        let server = format!("@{}", DNS_SERVICE[0]);
        let text = self.exec(pod, &["dig", "+short", "+tries=1", "+time=3", tcp, &server, kind, name])?;
        ensure!(text.trim() == expected, "answer {text:?}, expected {expected}");
        Ok(())
    }

    fn outside(&self, url: &str) -> Result<()> {
        let mut curl = Command::new("nsenter");
        curl.arg(format!("--net={}", namespace_path(FABRIC).display()));
        shell::output(curl.args(["curl", "-sS", "-g", "--fail", "--max-time", "3", url])).map(drop)
    }

    fn on_node(&self, node: &str, url: &str) -> Result<()> {
        let mut curl = enter::in_node(node, "curl".as_ref())?;
        shell::output(curl.args(["-sS", "-g", "--fail", "--max-time", "3", url])).map(drop)
    }

    fn no_rules(&self, node: &str) -> Result<()> {
        let text = shell::output(enter::in_node(node, "nft".as_ref())?.args(["list", "ruleset"]))?;
        let proxy =
            ["KUBE-SERVICES", "KUBE-SVC", "kube-proxy", "CNI-HOSTPORT"].iter().find(|word| text.contains(**word));
        ensure!(proxy.is_none(), "there are rules with {}", proxy.unwrap_or(&""));
        Ok(())
    }

    fn proxy_mode(&self, node: &str) -> Result<()> {
        let mut curl = enter::in_node(node, "curl".as_ref())?;
        let text = shell::output(curl.args(["-sS", "--max-time", "3", "http://127.0.0.1:10249/proxyMode"]))?;
        ensure!(text.trim() == "ropeway", "it answers {text:?}");
        Ok(())
    }

    fn restart(&self, client: &str, web: &str) -> Result<()> {
        let addresses = |s: &Self| s.kubectl(&["get", "pods", "-o", "jsonpath={.items[*].status.podIPs[*].ip}"]);
        let before = addresses(self)?;
        kube::kubectl(self.place, &["-n", "kube-system", "delete", "pods", "-l", "app.kubernetes.io/name=ropeway"])?;
        self.fetch(client, &format!("{web}:80")).context("while the agents start")?;
        wait_for("agents", 60, || kube::rolled_out(self.place, "kube-system", "daemonset/ropeway", 60))?;
        let after = addresses(self)?;
        if before != after {
            bail!("addresses were {before}, are {after}");
        }
        self.fetch(client, &format!("{web}:80")).context("afterwards")
    }
}
