//! The watched pods and the traffic between them.

use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use ropeway_tests::load::{self, PersistentLoad, RequestLoad};
use ropeway_tests::peer::Protocol;

use super::super::pod::{self, Pod};
use super::super::settings::PEER_IMAGE;
use super::super::shape::Node;
use super::super::{addons, kube, peer};
use super::{Layout, Paths, Peer, Shape, Steps};
use crate::step::wait_for;
use toolbox::shell;

const NAMESPACE: &str = "ropeway-life";
/// The port on which every peer serves.
const PORT: u16 = 8080;
/// New connections a second on each of two paths, for events in which only their outcome counts.
const CALM: u32 = 50;

/// The workloads of the life tests, and the addresses of their Service.
pub(super) struct Fixture<'a> {
    pub(super) layout: &'a Layout,
    pub(super) shape: Shape,
}

impl<'a> Fixture<'a> {
    /// Creates the pods and waits for them.
    pub(super) fn set(
        workshop: &dyn super::super::Workshop,
        paths: &Paths,
        layout: &'a Layout,
        steps: &Steps,
        shape: Shape,
        peer: &Peer,
    ) -> Result<Self> {
        peer::bring(workshop, paths, layout, steps, &shape, peer)?;
        let fixture = Self { layout, shape };
        let text = addons::template(layout, "life.yaml")?;
        let text = text.replace("{{victim}}", &fixture.victim()?.name).replace("{{peer}}", PEER_IMAGE);
        steps.step("servers, guests and a client on each node", || {
            kube::nodes_ready(layout, fixture.shape.all().len(), 60)?;
            kube::gone(layout, NAMESPACE)?;
            kube::apply(layout, &text)?;
            fixture.ready()
        })?;
        Ok(fixture)
    }

    /// Deletes the namespace of the pods.
    pub(super) fn clear(&self) -> Result<()> {
        kube::kubectl(self.layout, &["delete", "namespace", NAMESPACE, "--wait=false"]).map(drop)
    }

    /// Returns the node on which events happen.
    pub(super) fn victim(&self) -> Result<Node> {
        self.shape.workers().pop().context("the cluster has no workers")
    }

    /// Returns a node on which no events happen.
    pub(super) fn witness(&self) -> Result<Node> {
        self.shape.workers().into_iter().next().context("the cluster has no workers")
    }

    /// Waits until all workloads are complete.
    pub(super) fn ready(&self) -> Result<()> {
        for workload in ["deployment/server", "daemonset/client", "deployment/guest"] {
            kube::rolled_out(self.layout, NAMESPACE, workload, 180)?;
        }
        Ok(())
    }

    pub(super) fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        kube::kubectl(self.layout, &[&["-n", NAMESPACE], arguments].concat())
    }

    pub(super) fn pods(&self, app: &str) -> Result<Vec<Pod>> {
        pod::list(self.layout, &["-n", NAMESPACE, "-l", &format!("app={app}")])
    }

    /// Returns the client on a node.
    pub(super) fn client(&self, node: &Node) -> Result<Pod> {
        let found = self.pods("client")?.into_iter().find(|pod| pod.node == node.name);
        found.with_context(|| format!("no client pod runs on {}", node.name))
    }

    /// Returns the Service's addresses with its port.
    pub(super) fn service(&self) -> Result<Vec<SocketAddr>> {
        let text = self.kubectl(&["get", "service", "server", "-o", "jsonpath={.spec.clusterIPs[*]}"])?;
        text.split_whitespace().map(|ip| Ok((ip.parse::<std::net::IpAddr>()?, 80).into())).collect()
    }

    /// Runs `work` while a client on the witness opens connections and keeps others open. None may
    /// fail.
    pub(super) fn steady(&self, work: impl FnOnce() -> Result<()>) -> Result<()> {
        self.under(CALM, work)
    }

    /// Runs `work` under load, at this many new connections a second on each of two paths, IPv4 and
    /// IPv6.
    pub(super) fn under(&self, rate: u32, work: impl FnOnce() -> Result<()>) -> Result<()> {
        let (client, targets) = (self.client(&self.witness()?)?, self.service()?);
        let start = |target: &SocketAddr| RequestLoad::start(&client, *target, Protocol::Tcp, rate);
        let requests = targets.iter().map(start).collect::<Result<Vec<_>>>()?;
        let hold = |target: &SocketAddr| PersistentLoad::open(&client, *target, 10);
        let persistent = targets.iter().map(hold).collect::<Result<Vec<_>>>()?;
        let begin = Instant::now();
        let outcome = shell::with_signs_of_life(work);
        let took = begin.elapsed().as_secs_f64();
        let (mut made, mut failed, mut slowest, mut errors) = (0, 0, 0, Vec::new());
        for report in requests.into_iter().map(RequestLoad::stop) {
            let report = report?;
            (made, failed, slowest) = (made + report.ok, failed + report.failed, slowest.max(report.slowest_us));
            errors.extend(report.errors);
        }
        let (mut held, mut lost) = (0, Vec::new());
        for report in persistent.into_iter().map(PersistentLoad::release) {
            let report = report?;
            held += report.established;
            lost.extend(report.lost);
        }
        println!(
            "    in {took:.0} s: {made} new connections, {failed} failed, the slowest took {} ms; {held} held, {} lost",
            slowest / 1000,
            lost.len()
        );
        outcome?;
        ensure!(failed == 0, "{failed} of {} new connections failed: {errors:?}", made + failed);
        ensure!(lost.is_empty(), "{} of {held} held connections were lost: {lost:?}", lost.len());
        Ok(())
    }

    /// Sends requests from the client on the witness to each address of a pod until the pod
    /// answers.
    pub(super) fn reaches(&self, addresses: &[String], name: &str) -> Result<()> {
        let client = self.client(&self.witness()?)?;
        ensure!(!addresses.is_empty(), "{name} has no address");
        for address in addresses {
            let target = SocketAddr::from((address.parse::<std::net::IpAddr>()?, PORT));
            wait_for(&format!("an answer of {name} at {target}"), 20, || {
                let report = load::send_requests(&client, target, Protocol::Tcp, 5)?;
                ensure!(
                    report.by_server.get(name) == Some(&5),
                    "all answers should come from {name}: {:?}, errors {:?}",
                    report.by_server,
                    report.errors
                );
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Checks that all guest pods are reachable, and that only they have addresses in store, maps
    /// and API server.
    pub(super) fn guests_are_well(&self) -> Result<()> {
        let victim = self.victim()?;
        for guest in self.pods("guest")? {
            self.reaches(&guest.addresses, &guest.name)?;
        }
        // A pod that is being deleted still holds its address.
        wait_for("agreement about addresses", 60, || pod::agree(self.layout, &victim.name))
    }

    /// Checks that a new pod on the victim is reachable, deletes it, and checks that its addresses
    /// are free again.
    pub(super) fn one_comes_and_goes(&self) -> Result<()> {
        let victim = self.victim()?.name;
        let spec = serde_json::json!({"nodeName": victim, "terminationGracePeriodSeconds": 0});
        let overrides = serde_json::json!({"apiVersion": "v1", "spec": spec}).to_string();
        let image = format!("--image={PEER_IMAGE}");
        let label = "--labels=app=passer-by";
        let arguments = ["run", "passer-by", &image, label, "--restart=Never", "--overrides", &overrides];
        self.kubectl(&[&arguments[..], &["--", "serve", "--id=passer-by", "--port=8080"]].concat())?;
        self.kubectl(&["wait", "--for=condition=Ready", "pod/passer-by", "--timeout=60s"])?;
        let pod = self.pods("passer-by")?.pop().context("the pod `passer-by` was not created")?;
        self.reaches(&pod.addresses, "passer-by")?;
        self.kubectl(&["delete", "pod", "passer-by", "--timeout=60s"])?;
        wait_for("agreement about addresses", 60, || pod::agree(self.layout, &victim))
    }

    /// Waits until the Service's answers at the witness come from exactly these pods.
    pub(super) fn answered_by(&self, names: &[String]) -> Result<()> {
        let client = self.client(&self.witness()?)?;
        for target in self.service()? {
            wait_for(&format!("answers of {names:?} at {target}"), 60, || {
                let report = load::send_requests(&client, target, Protocol::Tcp, 20 * names.len() as u64)?;
                let seen: Vec<_> = report.by_server.keys().collect();
                ensure!(
                    report.failed == 0 && seen.iter().copied().eq(names),
                    "answers come from {seen:?}, errors {:?}",
                    report.errors
                );
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Returns the servers' sorted names once there are this many.
    pub(super) fn servers(&self, count: usize) -> Result<Vec<String>> {
        self.kubectl(&["scale", "deployment/server", &format!("--replicas={count}")])?;
        // After a long outage of the API server the controller manager retries only once a minute.
        kube::rolled_out(self.layout, NAMESPACE, "deployment/server", 180)?;
        // A pod that is scaled down has ended once it is no longer listed.
        wait_for(&format!("{count} servers"), 30, || {
            let mut names: Vec<_> = self.pods("server")?.into_iter().map(|pod| pod.name).collect();
            names.sort();
            ensure!(names.len() == count, "servers now: {names:?}");
            Ok(names)
        })
    }
}
