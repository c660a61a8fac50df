//! `smoke`: checks in a minute or two the functions that every cluster needs.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use ropeway_tests::process::Process;

use super::check::Checks;
use super::layout::Layout;
use super::network::{FABRIC, namespace_path};
use super::settings::{DNS_SERVICE, DOMAIN, KUBERNETES_SERVICE};
use super::shape::{Proxy, Shape};
use super::step::{Steps, wait_for};
use super::{addons, enter, kube, proxy_rules};
use toolbox::shell;

const NAMESPACE: &str = "ropeway-smoke";

struct Smoke<'a> {
    layout: &'a Layout,
    shape: Shape,
    checks: Checks,
}

/// Runs all checks; fails if one of them does.
pub(super) fn run(layout: &Layout, steps: &Steps) -> Result<()> {
    let shape = Shape::require(layout)?;
    let count = shape.all().len();
    steps.step("nodes, DNS and metrics", || {
        kube::nodes_ready(layout, count, 30)?;
        addons::dns_ready(layout)?;
        addons::metrics_ready(layout, count)
    })?;
    let mut smoke = Smoke { layout, shape, checks: Checks::default() };
    let workload = addons::template(layout, "smoke.yaml")?;
    steps.step("a web server with two replicas and a client on each node", || {
        kube::gone(layout, NAMESPACE)?;
        kube::apply(layout, &workload)?;
        kube::rolled_out(layout, NAMESPACE, "deployment/web", 120)?;
        kube::rolled_out(layout, NAMESPACE, "daemonset/client", 120)
    })?;
    smoke.all()?;
    let cleared = kube::kubectl(layout, &["delete", "namespace", NAMESPACE, "--wait=false"]);
    smoke.checks.end()?;
    cleared.map(drop)
}

#[expect(clippy::unused_self, reason = "the checks are methods, called alike")]
impl Smoke<'_> {
    fn all(&mut self) -> Result<()> {
        let clients = self.clients()?;
        let [web4, web6] = self.cluster_ips()?;
        let port = self.get("service", "web", "{.spec.ports[0].nodePort}")?;
        let name = format!("web.{NAMESPACE}.svc.{DOMAIN}");
        if self.shape.proxy != Proxy::Ropeway {
            // The file is written at most once a second, without notice. The checks name any line
            // that never appears.
            for ((client, _), web) in clients.iter().flat_map(|c| [(c, web4.clone()), (c, format!("[{web6}]"))]) {
                let _ = wait_for("kube-proxy's rules", 10, || self.ten(client, &format!("{web}:80")));
            }
        }
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
                self.check(&format!("{}: no rules of kube-proxy or portmap", node.name), |s| s.no_rules(&node.name));
                self.check(&format!("{}: /proxyMode", node.name), |s| s.proxy_mode(&node.name));
            }
        }
        let (client, _) = clients.first().context("no client pod runs")?.clone();
        self.check("kubectl exec", |s| {
            let text = s.exec(&client, &["echo", "hello"])?;
            ensure!(text.trim() == "hello", "echo printed {text:?}");
            Ok(())
        });
        self.check("DNS SRV, headless and ExternalName", |s| s.other_records(&client));
        self.check("DNS answers each time while its pods roll", |s| s.rolling_dns(&client, &name, &web4));
        self.check("a pod through the API server's proxy", Self::api_proxy);
        self.check("kubectl port-forward", Self::port_forward);
        self.check("kubectl logs", |s| s.kubectl(&["logs", "deployment/web", "--tail=1"]).map(drop));
        if self.shape.proxy == Proxy::Ropeway {
            self.check("agents replaced: Services are served meanwhile and afterwards", |s| s.restart(&client, &web4));
        }
        Ok(())
    }

    fn check(&mut self, what: &str, check: impl FnOnce(&Self) -> Result<()>) {
        let mut checks = std::mem::take(&mut self.checks);
        checks.check(what, || check(self));
        self.checks = checks;
    }

    fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        kube::kubectl(self.layout, &[&["-n", NAMESPACE], arguments].concat())
    }

    fn get(&self, kind: &str, name: &str, path: &str) -> Result<String> {
        self.kubectl(&["get", kind, name, "-o", &format!("jsonpath={path}")])
    }

    fn exec(&self, pod: &str, command: &[&str]) -> Result<String> {
        self.kubectl(&[&["exec", pod, "--"], command].concat())
    }

    /// Lists pods and their nodes.
    fn clients(&self) -> Result<Vec<(String, String)>> {
        let path = "jsonpath={range .items[*]}{.metadata.name} {.spec.nodeName}{'\\n'}{end}";
        let text = self.kubectl(&["get", "pods", "-l", "app=client", "-o", path])?;
        Ok(text.lines().filter_map(|l| l.split_once(' ')).map(|(a, b)| (a.into(), b.into())).collect())
    }

    fn cluster_ips(&self) -> Result<[String; 2]> {
        let text = self.get("service", "web", "{.spec.clusterIPs[*]}")?;
        let ips: Vec<_> = text.split_whitespace().map(String::from).collect();
        ips.try_into().map_err(|_| anyhow::anyhow!("Service web should have two cluster IPs, has {text:?}"))
    }

    /// Sends requests over new connections. None may fail, and both replicas have to answer soon.
    fn fetch(&self, pod: &str, target: &str) -> Result<()> {
        wait_for("answers of both replicas", 10, || match self.ten(pod, target) {
            Ok(pods) if pods.len() < 2 => bail!("10 requests were answered by {pods:?} only"),
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
        ensure!(!text.is_empty(), "the API server returned an empty answer");
        Ok(())
    }

    fn dig(&self, pod: &str, kind: &str, name: &str, tcp: &str, expected: &str) -> Result<()> {
        let server = format!("@{}", DNS_SERVICE[0]);
        let text = self.exec(pod, &["dig", "+short", "+tries=1", "+time=3", tcp, &server, kind, name])?;
        ensure!(text.trim() == expected, "answer {text:?}, expected {expected}");
        Ok(())
    }

    fn answer(&self, pod: &str, kind: &str, name: &str) -> Result<BTreeSet<String>> {
        let server = format!("@{}", DNS_SERVICE[0]);
        let text = self.exec(pod, &["dig", "+short", "+tries=1", "+time=3", &server, kind, name])?;
        Ok(text.lines().map(String::from).collect())
    }

    fn other_records(&self, pod: &str) -> Result<()> {
        let suffix = format!("{NAMESPACE}.svc.{DOMAIN}");
        let found = self.answer(pod, "SRV", &format!("_http._tcp.web.{suffix}"))?;
        // The addresses of a name share its weight.
        let expected = format!(" 80 web.{suffix}.");
        ensure!(found.len() == 1 && found.iter().all(|line| line.ends_with(&expected)), "SRV record: {found:?}");
        let path = "jsonpath={.items[*].status.podIP}";
        let pods = self.kubectl(&["get", "pods", "-l", "app=web", "-o", path])?;
        let pods: BTreeSet<_> = pods.split_whitespace().map(String::from).collect();
        let found = self.answer(pod, "A", &format!("web-pods.{suffix}"))?;
        ensure!(found == pods, "A records of the headless Service: {found:?}, expected {pods:?}");
        let found = self.answer(pod, "CNAME", &format!("elsewhere.{suffix}"))?;
        ensure!(found.contains("elsewhere.example."), "ExternalName: {found:?}");
        Ok(())
    }

    /// Sends queries, each from another port, until all DNS pods have been replaced.
    fn rolling_dns(&self, pod: &str, name: &str, expected: &str) -> Result<()> {
        let system = |arguments: &[&str]| kube::kubectl(self.layout, &[&["-n", "kube-system"], arguments].concat());
        system(&["rollout", "restart", "deployment/coredns"])?;
        let dig = format!("dig +tries=1 +time=3 @{} A {name}", DNS_SERVICE[0]);
        let answered = format!("answer=$({dig}); echo \"$answer\" | grep -qw {expected}");
        let twenty = format!("for i in $(seq 20); do {answered} || {{ echo \"$answer\" >&2; exit 1; }}; done");
        let mut answered = 0;
        loop {
            let rolled = system(&["rollout", "status", "deployment/coredns", "--watch=false"])?;
            self.exec(pod, &["sh", "-c", &twenty]).with_context(|| format!("after {answered} answers"))?;
            answered += 20;
            if rolled.contains("successfully rolled out") {
                return Ok(());
            }
        }
    }

    fn api_proxy(&self) -> Result<()> {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/services/web:http/proxy/hostname");
        let text = kube::kubectl(self.layout, &["get", "--raw", &path])?;
        ensure!(text.starts_with("web-"), "the Service web answers {text:?}");
        Ok(())
    }

    fn port_forward(&self) -> Result<()> {
        let mut kubectl = kube::command(self.layout);
        kubectl.args(["-n", NAMESPACE, "port-forward", "service/web", ":80"]).stdout(Stdio::piped());
        let mut forward = Process::start("kubectl port-forward", &mut kubectl)?;
        // Keep the pipe open: kubectl prints another line and fails if it cannot.
        let mut output =
            BufReader::new(forward.child().stdout.take().context("standard output of kubectl is not a pipe")?);
        let mut line = String::new();
        output.read_line(&mut line)?;
        let from = line.strip_prefix("Forwarding from ").and_then(|rest| rest.split_whitespace().next());
        let from = from.with_context(|| format!("kubectl port-forward printed {line:?}, which names no port"))?;
        let answer = self.outside(&format!("http://{from}/hostname"));
        forward.kill()?;
        answer
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
        let tables = shell::output(enter::in_node(node, "sh".as_ref())?.args(["-c", proxy_rules::LIST]))?;
        proxy_rules::find(&tables).map_or(Ok(()), |name| bail!("the node has rules in {name}"))
    }

    fn proxy_mode(&self, node: &str) -> Result<()> {
        let mut curl = enter::in_node(node, "curl".as_ref())?;
        let text = shell::output(curl.args(["-sS", "--max-time", "3", "http://127.0.0.1:10249/proxyMode"]))?;
        ensure!(text.trim() == "ropeway", "/proxyMode answers {text:?}");
        Ok(())
    }

    fn restart(&self, client: &str, web: &str) -> Result<()> {
        let agents = ["-n", "kube-system", "-l", "app.kubernetes.io/name=ropeway"];
        let uids = || -> Result<BTreeSet<String>> {
            let list = ["get", "pods", "-o", "jsonpath={.items[*].metadata.uid}"];
            let text = kube::kubectl(self.layout, &[&agents[..], &list].concat())?;
            Ok(text.split_whitespace().map(String::from).collect())
        };
        let before = uids()?;
        kube::kubectl(self.layout, &[&agents[..], &["delete", "pods"]].concat())?;
        self.fetch(client, &format!("{web}:80")).context("while the agents start")?;
        wait_for("agents", 60, || kube::rolled_out(self.layout, "kube-system", "daemonset/ropeway", 60))?;
        let after = uids()?;
        ensure!(before.is_disjoint(&after) && before.len() == after.len(), "agents were {before:?}, are {after:?}");
        self.fetch(client, &format!("{web}:80")).context("after the agents have started")
    }
}
