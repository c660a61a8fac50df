//! Rules 2.6.1 to 2.6.3: what is remembered of datagram sockets that stay open while endpoints,
//! Services and agents come and go.
//!
//! Each client keeps unconnected and connected sockets. Their sources are the same in each step, so
//! a flow, an entry of a socket hook or a connected address that should have ended would still be
//! found.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use ropeway_tests::contracts::{Path, Rule};
use ropeway_tests::expect;
use ropeway_tests::load::{PersistentLoad, Session, TrafficEndpoint};
use ropeway_tests::peer::{Protocol, Reply};
use ropeway_tests::pod::{IpFamily, Pod};
use serde_json::Value;

use crate::contracts::expect::{expect_answers, expect_error_replies, expect_replies, for_each_client};
use crate::contracts::fixture::{
    self, ContractFixture, FLAGS, TARGET, Target, Vip, first_target, ready, service, target, with_endpoints,
};
use crate::contracts::observations::Observations;

/// Open sockets of each client and protocol where one server answers.
const FEW: usize = 2;
/// Open sockets of each client and protocol where two servers answer: all of them keep their server
/// by chance once in 16 million times.
const MANY: usize = 24;
/// A rejection. Datagrams that are rejected or dropped behind an unconnected socket time out.
const REFUSED: [&str; 2] = ["ECONNREFUSED", "timeout"];

/// Returns the addresses on a path at which something is remembered. The other node's sockets reach
/// the cluster IP by its own hooks, and the first node's port by packets.
fn addresses(path: Path, number: u16, family: IpFamily) -> Vec<Target> {
    let other = (path == Path::OtherNode).then(|| target(Vip::NodePort, number, family));
    [first_target(path, number, family)].into_iter().chain(other).collect()
}

/// One client with some open sockets.
struct Client {
    protocol: Protocol,
    session: Session,
    /// The outcomes of the last round.
    replies: Vec<Reply>,
}

/// The clients of each cell.
struct Sessions(BTreeMap<(Path, IpFamily), Vec<Client>>);

impl Sessions {
    fn open(fixture: &ContractFixture, rule: &str, number: u16, sockets: usize) -> Self {
        let of = |(path, family)| {
            let mut clients = Vec::new();
            for (from, address) in clients_of(&fixture.clients(path), &addresses(path, number, family)) {
                for protocol in [Protocol::Udp, Protocol::UdpConnected] {
                    let session = Session::open(from, address.udp, protocol, sockets).unwrap();
                    clients.push(Client { protocol, session, replies: Vec::new() });
                }
            }
            ((path, family), clients)
        };
        Self(Rule::of(rule).unwrap().selected_cells().into_iter().map(of).collect())
    }

    /// Sends a datagram from each socket, and checks the outcomes of each client in each cell.
    fn observe(&mut self, observations: &mut Observations, check: impl Fn(&Client, &[Reply]) -> Result<()>) {
        observations.observe(|path, family| {
            for client in self.0.get_mut(&(path, family)).context("the cell has no sessions")? {
                let replies = client.session.request()?;
                check(client, &replies).with_context(|| client.session.label().to_owned())?;
                client.replies = replies;
            }
            Ok(())
        });
    }

    fn expect_answers(&mut self, observations: &mut Observations, server: &str) {
        self.observe(observations, |_, replies| expect_replies(replies, server));
    }

    fn expect_no_answers(&mut self, observations: &mut Observations) {
        self.observe(observations, |_, replies| expect_error_replies(replies, &REFUSED));
    }
}

/// Returns each client with each target.
fn clients_of<'a>(clients: &'a [fixture::Client<'a>], targets: &[Target]) -> Vec<(&'a dyn TrafficEndpoint, Target)> {
    clients
        .iter()
        .flat_map(|from| targets.iter().map(move |target| (from as &'a dyn TrafficEndpoint, *target)))
        .collect()
}

fn apply(fixture: &ContractFixture, number: u16, endpoints: &[(&Pod, Value)]) {
    let name = format!("dns-{number}");
    fixture.apply(&name, &with_endpoints(service(&name, number), endpoints));
}

pub(super) fn removed_endpoint(fixture: &ContractFixture) {
    const NUMBER: u16 = 60;
    let [first, second, _] = &fixture.web;
    let mut observations = Observations::new("2.6.1");
    apply(fixture, NUMBER, &[(first, ready())]);
    let mut sessions = Sessions::open(fixture, "2.6.1", NUMBER, FEW);
    sessions.expect_answers(&mut observations, "web-1");
    apply(fixture, NUMBER, &[(second, ready())]);
    sessions.expect_answers(&mut observations, "web-2");
    observations.observe(|path, family| {
        // the removed endpoint would still answer
        let own = first.port(family, TARGET)?;
        for_each_client(&fixture.clients(path), |from| {
            expect_answers(from, own, Protocol::Udp, 1, &["web-1"]).map(drop)
        })
    });
    apply(fixture, NUMBER, &[]);
    sessions.expect_no_answers(&mut observations);
    apply(fixture, NUMBER, &[(first, ready())]);
    sessions.expect_answers(&mut observations, "web-1");
    fixture.cluster.withdraw(&format!("dns-{NUMBER}")).unwrap();
    fixture.settle();
    sessions.expect_no_answers(&mut observations);
    apply(fixture, NUMBER, &[(second, ready())]);
    sessions.expect_answers(&mut observations, "web-2");
    observations.record(fixture, "2.6.1");
}

pub(super) fn rejected_requests(fixture: &ContractFixture) {
    const NUMBER: u16 = 61;
    let mut observations = Observations::new("2.6.2");
    apply(fixture, NUMBER, &[]);
    let mut sessions = Sessions::open(fixture, "2.6.2", NUMBER, FEW);
    sessions.observe(&mut observations, |client, replies| {
        // an unconnected socket gets the error of a hook, but not an ICMP error
        let errors = if client.protocol == Protocol::Udp { &REFUSED[..] } else { &["ECONNREFUSED"] };
        expect_error_replies(replies, errors)
    });
    apply(fixture, NUMBER, &[(&fixture.web[0], ready())]);
    sessions.expect_answers(&mut observations, "web-1");
    observations.record(fixture, "2.6.2");
}

pub(super) fn restart(fixture: &mut ContractFixture) {
    const NUMBER: u16 = 62;
    apply(fixture, NUMBER, &[(&fixture.web[0], ready()), (&fixture.web[1], ready())]);
    let mut observations = Observations::new("2.6.3");
    let mut sessions = Sessions::open(fixture, "2.6.3", NUMBER, MANY);
    sessions.observe(&mut observations, |_, replies| {
        let has = |server: &str| replies.contains(&Reply::Server(server.to_owned()));
        expect!(has("web-1") && has("web-2"), "answers from both servers are expected: {replies:?}");
        Ok(())
    });
    let hold = |(path, family)| {
        let clients = fixture.clients(path);
        let targets = clients_of(&clients, &addresses(path, NUMBER, family));
        let open = |(from, target): (&dyn TrafficEndpoint, Target)| PersistentLoad::open(from, target.tcp, 8);
        ((path, family), targets.into_iter().map(open).collect::<Result<Vec<_>>>())
    };
    let held: BTreeMap<_, _> = Rule::of("2.6.3").unwrap().selected_cells().into_iter().map(hold).collect();
    for node in &mut fixture.cluster.nodes {
        node.kill_agent().unwrap();
    }
    let same = |client: &Client, replies: &[Reply]| {
        expect!(client.replies == replies, "other servers answer than before: {replies:?}, not {:?}", client.replies);
        Ok(())
    };
    sessions.observe(&mut observations, same);
    fixture.cluster.start_agents_with(&FLAGS).unwrap();
    sessions.observe(&mut observations, same);
    let release =
        |loads: Vec<PersistentLoad>| loads.into_iter().map(PersistentLoad::release).collect::<Result<Vec<_>>>();
    let reports: BTreeMap<_, _> = held.into_iter().map(|(cell, loads)| (cell, loads.and_then(release))).collect();
    observations.observe(|path, family| {
        for report in reports[&(path, family)].as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))? {
            expect!(report.lost.is_empty() && report.fewest > 0, "connections were lost or not used: {report:?}");
        }
        Ok(())
    });
    observations.record(fixture, "2.6.3");
}
