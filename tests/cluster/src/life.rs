//! `life`: runs the events of a node's life and mistakes of operators on the cluster that is up,
//! while connections are counted.
//!
//! Connections between the other nodes must never fail: an event ends and starts another node, or a
//! node's kubelet, container runtime or agent, or the API server, and none of these carries
//! packets.

mod control;
mod fixture;
mod misuse;
mod node;

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};

use super::check::Checks;
use super::layout::Layout;
use super::peer::Peer;
use super::shape::{Cni, Proxy, Shape};
use super::step::Steps;
use fixture::Fixture;
use toolbox::paths::Paths;

/// Options that select the events.
#[derive(Args)]
pub(crate) struct Options {
    /// Only this (again for several)
    #[arg(long, value_enum)]
    only: Vec<Event>,
    /// Time without an API server
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    absent: u64,
    #[command(flatten)]
    peer: Peer,
}

/// An event in the life of a node, or a mistake of an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Event {
    /// All agents are deleted, three times, under 500 new connections a second
    Agents,
    /// A kubelet is killed
    Kubelet,
    /// A container runtime is killed
    Runtime,
    /// The API server is absent, while pods come and go
    Absent,
    /// etcd forgets what an agent has not seen yet
    Compaction,
    /// A node's power is cut
    Reboot,
    /// A node is deleted and comes back with other pod ranges
    Renumber,
    /// The agents may not read what they need
    Forbidden,
    /// The agents are given an address where no API server is
    WrongServer,
    /// The agents are given a kubeconfig that does not exist
    WrongKubeconfig,
    /// The agents are to use IP pools, and the custom resource definitions are missing
    MissingKinds,
    /// A second agent is started on a node
    SecondAgent,
    /// Another CNI configuration is put before Ropeway's
    Rival,
    /// Rules of kube-proxy are on a node
    Leftovers,
}

impl Event {
    /// Returns the sentence that must hold during and after the event.
    fn sentence(self) -> &'static str {
        match self {
            Self::Agents => "all agents deleted three times under 500 connections a second: none fails",
            Self::Kubelet => "kubelet killed: pods stay as they are, the next pod comes and goes",
            Self::Runtime => "container runtime killed: pods stay as they are, the next pod comes and goes",
            Self::Absent => "no API server: traffic, ADD and DEL continue; afterwards changes arrive again",
            Self::Compaction => "etcd compacted past what an agent has seen: it lists again and knows what it missed",
            Self::Reboot => "power cut: all pods come back, none of their old addresses stays held",
            Self::Forbidden => {
                "a verb is taken from the ClusterRole: the next agent names it and its file, nothing else changes"
            }
            Self::WrongServer => "the agents get a wrong API server: the first names it, the others are not replaced",
            Self::WrongKubeconfig => {
                "the agents get a wrong kubeconfig: the first names it, the others are not replaced"
            }
            Self::MissingKinds => {
                "the agents are to use pools without their CRDs: the first names what is missing, the others are not replaced"
            }
            Self::SecondAgent => "a second agent on a node: it says so and ends",
            Self::Rival => "another CNI configuration comes first: the agent names it, and says when it is gone",
            Self::Leftovers => "kube-proxy has left its rules on a node: the agent names them",
            Self::Renumber => {
                "node deleted and back with other pod ranges: pods and routes have them, the old ones are gone"
            }
        }
    }
}

/// Runs the selected events.
pub(super) fn run(
    workshop: &dyn super::Workshop,
    paths: &Paths,
    layout: &Layout,
    steps: &Steps,
    options: &Options,
) -> Result<()> {
    let shape = Shape::require(layout)?;
    ensure!(shape.proxy == Proxy::Ropeway && shape.cni == Cni::Ropeway, "this cluster does not run Ropeway: {shape:?}");
    ensure!(
        shape.nodes >= 3,
        "three workers are needed, one for the events and two for traffic; this cluster has {}",
        shape.nodes
    );
    let fixture = Fixture::set(workshop, paths, layout, steps, shape, &options.peer)?;
    let mut checks = Checks::default();
    for event in Event::value_variants().iter().filter(|e| options.only.is_empty() || options.only.contains(e)) {
        println!("==> {}", event.sentence());
        checks.check(event.sentence(), || match event {
            Event::Agents => control::agents(&fixture),
            Event::Kubelet => node::program(&fixture, "kubelet"),
            Event::Runtime => node::program(&fixture, "containerd"),
            Event::Absent => control::absent(&fixture, options.absent),
            Event::Compaction => control::compaction(&fixture),
            Event::Reboot => node::reboot(&fixture),
            Event::Renumber => node::renumber(&fixture),
            Event::Forbidden => misuse::forbidden(&fixture),
            Event::WrongServer => misuse::wrong_server(&fixture),
            Event::WrongKubeconfig => misuse::wrong_kubeconfig(&fixture),
            Event::MissingKinds => misuse::missing_kinds(&fixture, &paths.root),
            Event::SecondAgent => misuse::second_agent(&fixture),
            Event::Rival => misuse::rival(&fixture),
            Event::Leftovers => misuse::leftovers(&fixture),
        });
    }
    let cleared = fixture.clear();
    checks.end()?;
    cleared
}
