//! Rule 2.4.2: the timeout of session affinity, from both sides, and its end with the endpoint.
//!
//! The endpoints take turns, and each client has a Service of its own. So a client that is
//! forgotten always gets the other endpoint, and one that is remembered never does.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ropeway_tests::contracts::Path;
use ropeway_tests::expect;
use ropeway_tests::load::Session;
use ropeway_tests::peer::{Protocol, Reply};
use ropeway_tests::pod::{IpFamily, Pod};
use ropeway_tests::view;
use serde_json::Value;

use super::sticky;
use crate::contracts::expect::{every_protocol, expect_answers_on_all, for_each_client};
use crate::contracts::fixture::{ContractFixture, first_target, ready, round_robin, with_endpoints};
use crate::contracts::observations::Observations;

/// The timeout that is measured, in seconds: short, but several clock ticks long.
const TIMEOUT: u32 = 3;
/// The default of the API, in seconds.
const DEFAULT: u32 = 10_800;
/// The largest number of clock ticks by which a client may be remembered for too long. The packet
/// path forgets it at the end of a tick, and the tick in which the timeout begins is not counted.
const LATE_TICKS: u32 = 2;
/// Jiffies of a clock tick of the packet path.
const JIFFIES_PER_TICK: f64 = 256.0;
/// The Services of the clients, by path; pods have two clients.
const NUMBERS: [(Path, u16); 4] = [(Path::Pod, 80), (Path::Node, 82), (Path::OtherNode, 83), (Path::Outside, 84)];

/// The clock of the packet path: how long one tick lasts.
#[derive(Clone, Copy)]
struct TickClock(f64);

impl TickClock {
    /// Measures the rate of the kernel's jiffies, for a third of a second.
    fn measure() -> Result<Self> {
        let (first, start) = (jiffies()?, Instant::now());
        wait(start + Duration::from_millis(300));
        let passed = u32::try_from(jiffies()? - first)?;
        let rate = f64::from(passed) / start.elapsed().as_secs_f64();
        // CONFIG_HZ has one of these values.
        let hz = [100.0, 250.0, 300.0, 1000.0].into_iter().find(|hz: &f64| (rate / hz - 1.0).abs() < 0.08);
        let hz = hz.with_context(|| format!("{rate} jiffies a second are no usual CONFIG_HZ"))?;
        Ok(Self(JIFFIES_PER_TICK / hz))
    }

    /// Returns the time after which a client must be forgotten.
    fn longest(self, timeout: u32) -> Duration {
        Duration::from_secs_f64(f64::from(timeout) + f64::from(LATE_TICKS) * self.0)
    }
}

/// Returns the kernel's jiffies.
fn jiffies() -> Result<u64> {
    let text = fs::read_to_string("/proc/timer_list").context("cannot read /proc/timer_list")?;
    let line =
        text.lines().find_map(|line| line.strip_prefix("jiffies: ")).context("/proc/timer_list has no jiffies")?;
    Ok(line.parse()?)
}

/// Waits for a point in time. The passage of time is what the test measures; there is no condition.
fn wait(end: Instant) {
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        std::thread::park_timeout(left);
    }
}

/// Applies the Services of this rule.
pub(super) fn services(fixture: &ContractFixture) -> Vec<Value> {
    let [here, there, _] = &fixture.web;
    let both = [(here, ready()), (there, ready())];
    let of = |number: u16| with_endpoints(round_robin(sticky(&format!("idle-{number}"), number, Some(TIMEOUT))), &both);
    let mut objects = (80..=84).flat_map(of).collect::<Vec<_>>();
    objects.extend(with_endpoints(sticky("unset", 70, None), &both));
    objects.extend(with_endpoints(sticky("default", 72, Some(DEFAULT)), &both));
    objects
}

pub(super) fn check(fixture: &ContractFixture) {
    let [here, there, _] = &fixture.web;
    let mut observations = Observations::new("2.4.2");
    let clock = TickClock::measure().unwrap();
    observations.observe(|_, _| ["unset", "default"].iter().try_for_each(|name| default_timeout(fixture, clock, name)));
    observations.observe_in_parallel(|path, family| lasts_and_expires(fixture, clock, path, family));
    // the endpoint is removed and added again
    let apply = |endpoints: &[(&Pod, Value)]| {
        fixture.apply("affinity-75", &with_endpoints(sticky("moved", 75, None), endpoints));
    };
    for (now, wanted) in
        [(vec![here], "web-1"), (vec![here, there], "web-1"), (vec![there], "web-2"), (vec![here, there], "web-2")]
    {
        apply(&now.iter().map(|pod| (*pod, ready())).collect::<Vec<_>>());
        observations.observe(|path, family| {
            for_each_client(&fixture.clients(path), |from| {
                expect_answers_on_all(from, &[first_target(path, 75, family)], 10, &[wanted])
            })
        });
    }
    observations.record(fixture, "2.4.2");
}

/// Expects that the programs of a node have the default timeout.
fn default_timeout(fixture: &ContractFixture, clock: TickClock, service: &str) -> Result<()> {
    let all = view::json(&fixture.node().machine, &["service", "list", &format!("default/{service}")])?;
    let ticks = all["frontends"][0]["affinityTicks"].as_f64().context("the frontend shows no affinityTicks")?;
    let time = Duration::from_secs_f64(ticks * clock.0);
    let shortest = Duration::from_secs(DEFAULT.into());
    let is_between = time >= shortest && time <= clock.longest(DEFAULT);
    expect!(is_between, "the affinity of {service} lasts {time:?}, not {shortest:?} to {:?}", clock.longest(DEFAULT));
    Ok(())
}

/// One client with one protocol, and the server that it was given last.
struct Remembered {
    session: Session,
    server: String,
    /// The last request: no earlier than the first, and no later than the second.
    last: (Instant, Instant),
}

impl Remembered {
    fn new(mut session: Session) -> Result<Self> {
        let start = Instant::now();
        let server = request(&mut session)?;
        Ok(Self { session, server, last: (start, Instant::now()) })
    }

    /// Sends a request; returns the server, and bounds for the time since the last request.
    fn request(&mut self) -> Result<(String, [Duration; 2])> {
        let start = Instant::now();
        let server = request(&mut self.session)?;
        let end = Instant::now();
        let idle = [start.duration_since(self.last.1), end.duration_since(self.last.0)];
        self.last = (start, end);
        Ok((server, idle))
    }
}

fn request(session: &mut Session) -> Result<String> {
    let replies = session.request()?;
    match &replies[..] {
        [Reply::Server(server)] => Ok(server.clone()),
        _ => bail!("{}: an answer is expected: {replies:?}", session.label()),
    }
}

/// Checks that a client keeps its server while it pauses for less than the timeout, also if all
/// pauses together are longer, and that it gets the other one after a longer pause.
fn lasts_and_expires(fixture: &ContractFixture, clock: TickClock, path: Path, family: IpFamily) -> Result<()> {
    let (_, first) = NUMBERS.into_iter().find(|(of, _)| *of == path).context("the path has no Service")?;
    let timeout = Duration::from_secs(TIMEOUT.into());
    let mut clients = Vec::new();
    for (number, from) in (first..).zip(fixture.clients(path)) {
        for (target, protocol) in every_protocol(first_target(path, number, family)) {
            // Both kinds of UDP sockets are the same client of the same Service port.
            if protocol != Protocol::UdpConnected {
                clients.push(Remembered::new(Session::of_new_sockets(&from, target, protocol)?)?);
            }
        }
    }
    let mut used = 0;
    // A pause that was longer than the timeout, on a busy machine, says nothing.
    for _ in 0..10 {
        wait(clients.iter().map(|client| client.last.0).min().context("no client")? + timeout.mul_f64(0.9));
        let mut are_short = true;
        for client in &mut clients {
            let (server, [_, idle]) = client.request()?;
            if idle < timeout {
                let label = client.session.label();
                expect!(server == client.server, "{label}: was forgotten after {idle:?} of {timeout:?}");
            } else {
                are_short = false;
                client.server = server;
            }
        }
        used = if are_short { used + 1 } else { 0 };
        if used == 2 {
            break;
        }
    }
    expect!(used == 2, "pauses of nine tenths of {timeout:?} were always longer than {timeout:?}");
    let longest = clock.longest(TIMEOUT);
    wait(clients.iter().map(|client| client.last.1).max().context("no client")? + longest);
    for client in &mut clients {
        let (server, [idle, _]) = client.request()?;
        let label = client.session.label();
        expect!(server != client.server, "{label}: was remembered for {idle:?}, and {longest:?} is the limit");
    }
    Ok(())
}
