//! Traffic between the machines and pods of a test: starts `ropeway-peer` in one of them and reads
//! its report.
//!
//! [`send_requests`] and similar functions run to the end. [`RequestLoad`], [`PersistentLoad`],
//! [`StickyUdp`], [`Session`] and [`Watch`] run beside the test until it stops them. All counting
//! happens in `ropeway-peer`.

mod session;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::de::DeserializeOwned;

use crate::binaries;
use crate::machine::Machine;
use crate::peer::{PersistentLoadReport, Protocol, Report, Seen, TransferReport};
use crate::pod::Pod;
use crate::process::{self, Process};

pub use session::Session;

/// A machine or pod that sends or receives traffic.
pub trait TrafficEndpoint: Sync {
    /// Returns a command that runs in this machine or pod.
    ///
    /// # Errors
    /// When the place can't be entered.
    fn run(&self, program: &std::ffi::OsStr) -> Result<Command>;

    /// Returns the name for messages.
    fn label(&self) -> String;
}

impl TrafficEndpoint for Machine {
    fn run(&self, program: &std::ffi::OsStr) -> Result<Command> {
        self.command(program)
    }

    fn label(&self) -> String {
        self.name().to_owned()
    }
}

impl TrafficEndpoint for Pod {
    fn run(&self, program: &std::ffi::OsStr) -> Result<Command> {
        self.command(program)
    }

    fn label(&self) -> String {
        self.name().to_owned()
    }
}

impl<P: TrafficEndpoint + ?Sized> TrafficEndpoint for &P {
    fn run(&self, program: &std::ffi::OsStr) -> Result<Command> {
        (**self).run(program)
    }

    fn label(&self) -> String {
        (**self).label()
    }
}

/// A pod or a node whose processes run in the cgroup of another machine.
///
/// The socket hooks of the node are attached to the node's cgroup, so they do not run for these
/// processes. Only their packets are translated, like those of a pod with a separate kernel.
#[derive(Debug)]
pub struct BypassSocketHooks<'a> {
    machine: &'a Machine,
    netns: Option<&'a str>,
    cgroup: PathBuf,
    name: &'a str,
}

impl<'a> BypassSocketHooks<'a> {
    /// Puts the processes of a pod into a cgroup of `without_agent`, a machine that runs no agent.
    #[must_use]
    pub fn of_pod(pod: &'a Pod, without_agent: &Machine) -> Self {
        let cgroup = without_agent.cgroup().join("pods").join(pod.name());
        Self { machine: pod.node(), netns: Some(&pod.attachment().netns), cgroup, name: pod.name() }
    }

    /// Puts processes of a node into a cgroup of `without_agent`, a machine that runs no agent.
    #[must_use]
    pub fn of_node(node: &'a Machine, without_agent: &Machine) -> Self {
        Self { machine: node, netns: None, cgroup: without_agent.cgroup().join(node.name()), name: node.name() }
    }
}

impl TrafficEndpoint for BypassSocketHooks<'_> {
    fn run(&self, program: &std::ffi::OsStr) -> Result<Command> {
        self.machine.command_at(&self.cgroup, self.netns, program)
    }

    fn label(&self) -> String {
        format!("{} without socket hooks", self.name)
    }
}

fn peer(endpoint: &(impl TrafficEndpoint + ?Sized), arguments: &[String]) -> Result<Command> {
    let mut command = endpoint.run(binaries::find("ropeway-peer")?.as_os_str())?;
    command.args(arguments);
    Ok(command)
}

fn once<T: DeserializeOwned>(endpoint: &(impl TrafficEndpoint + ?Sized), arguments: &[String]) -> Result<T> {
    let name = format!("{}: {}", endpoint.label(), arguments.join(" "));
    let text = process::output(&name, &mut peer(endpoint, arguments)?)?;
    serde_json::from_str(&text).with_context(|| format!("{name} printed something that is not a report: {text}"))
}

/// Starts a server that answers with `id` on these ports, over TCP and UDP. It listens when this
/// returns.
///
/// # Errors
/// When it doesn't start.
pub fn serve(endpoint: &(impl TrafficEndpoint + ?Sized), id: &str, ports: &[u16]) -> Result<Process> {
    serve_at(endpoint, id, ports, &[])
}

/// Starts a server like [`serve`], on these addresses only; none: on all.
///
/// # Errors
/// When it doesn't start.
pub fn serve_at(
    endpoint: &(impl TrafficEndpoint + ?Sized),
    id: &str,
    ports: &[u16],
    addresses: &[std::net::IpAddr],
) -> Result<Process> {
    let mut arguments = vec!["serve".to_owned(), "--id".to_owned(), id.to_owned()];
    arguments.extend(ports.iter().map(|port| format!("--port={port}")));
    arguments.extend(addresses.iter().map(|address| format!("--address={address}")));
    let mut command = peer(endpoint, &arguments)?;
    let mut process = Process::start(&format!("server {id}"), command.stdin(Stdio::null()).stdout(Stdio::piped()))?;
    ready(&mut process)?;
    Ok(process)
}

/// Starts an API server that answers with the lists in a directory. It listens when this returns.
///
/// # Errors
/// When it doesn't start.
pub fn serve_api(
    endpoint: &(impl TrafficEndpoint + ?Sized),
    address: SocketAddr,
    lists: &std::path::Path,
) -> Result<Process> {
    let mut command = peer(endpoint, &["apiserver".to_owned(), address.to_string()])?;
    command.arg(lists);
    let mut process = Process::start("API server", command.stdin(Stdio::null()).stdout(Stdio::piped()))?;
    ready(&mut process)?;
    Ok(process)
}

/// Sends `count` requests, each over a new connection.
///
/// # Errors
/// When the client doesn't run; unanswered requests are part of the report.
pub fn send_requests(
    endpoint: &(impl TrafficEndpoint + ?Sized),
    target: SocketAddr,
    protocol: Protocol,
    count: u64,
) -> Result<Report> {
    send_requests_with(endpoint, target, protocol, count, &[])
}

/// Sends requests like [`send_requests`], with more flags for `ropeway-peer request-load`.
///
/// # Errors
/// When the client doesn't run.
pub fn send_requests_with(
    endpoint: &(impl TrafficEndpoint + ?Sized),
    target: SocketAddr,
    protocol: Protocol,
    count: u64,
    flags: &[&str],
) -> Result<Report> {
    let mut arguments = vec!["request-load".to_owned(), target.to_string(), format!("--protocol={}", protocol.word())];
    arguments.push(format!("--count={count}"));
    arguments.extend(flags.iter().map(|flag| (*flag).to_owned()));
    once(endpoint, &arguments)
}

/// Transfers this many bytes in each direction over one connection.
///
/// # Errors
/// When one of them is wrong or lost.
pub fn transfer(endpoint: &(impl TrafficEndpoint + ?Sized), target: SocketAddr, bytes: u64) -> Result<TransferReport> {
    once(endpoint, &["transfer".to_owned(), target.to_string(), format!("--bytes={bytes}")])
}

/// Sends frames (hexadecimal) out of a device, `count` times, in turns.
///
/// # Errors
/// When the device refuses one.
pub fn send_frames(
    endpoint: &(impl TrafficEndpoint + ?Sized),
    device: &str,
    frames: &[String],
    count: u64,
) -> Result<()> {
    let mut command = peer(endpoint, &["send".to_owned(), device.to_owned(), format!("--count={count}")])?;
    let mut child = command.stdin(Stdio::piped()).spawn().context("cannot start the sender")?;
    child
        .stdin
        .take()
        .context("standard input of ropeway-peer is not a pipe")?
        .write_all(frames.join("\n").as_bytes())?;
    let status = child.wait()?;
    if status.success() { Ok(()) } else { bail!("{}: frames were not sent: {status}", endpoint.label()) }
}

/// Counts frames on a device until it is stopped.
#[derive(Debug)]
pub struct Watch {
    client: Client,
}

impl Watch {
    /// Counts the frames that contain each of these texts.
    ///
    /// # Errors
    /// When the device can't be opened.
    pub fn start(endpoint: &(impl TrafficEndpoint + ?Sized), device: &str, markers: &[&str]) -> Result<Self> {
        let mut arguments = vec!["watch".to_owned(), device.to_owned()];
        arguments.extend(markers.iter().map(|marker| format!("--marker={marker}")));
        Ok(Self { client: Client::start(endpoint, &arguments)? })
    }

    /// Returns the counts once no more frames arrive.
    ///
    /// # Errors
    /// When the watcher has died.
    pub fn stop(self) -> Result<Seen> {
        self.client.finish()
    }
}

/// Sends one ICMP echo request with this many bytes after the ICMP header, unfragmented.
///
/// # Errors
/// When it is not answered.
pub fn echo(endpoint: &(impl TrafficEndpoint + ?Sized), address: std::net::IpAddr, size: usize) -> Result<()> {
    let arguments = ["echo".to_owned(), address.to_string(), format!("--size={size}")];
    process::output(&format!("{}: echo {address}", endpoint.label()), &mut peer(endpoint, &arguments)?).map(|_| ())
}

/// Returns the body of an HTTP answer; any status but 200 is an error.
///
/// # Errors
/// When there is no such answer.
pub fn fetch(endpoint: &(impl TrafficEndpoint + ?Sized), server: SocketAddr, path: &str) -> Result<String> {
    let arguments = ["fetch".to_owned(), server.to_string(), path.to_owned()];
    process::output(&format!("{}: {server}{path}", endpoint.label()), &mut peer(endpoint, &arguments)?)
}

/// New connections, one after the other, until it is stopped.
#[derive(Debug)]
pub struct RequestLoad {
    client: Client,
}

impl RequestLoad {
    /// Opens `rate` connections a second.
    ///
    /// # Errors
    /// When the client doesn't start.
    pub fn start(
        endpoint: &(impl TrafficEndpoint + ?Sized),
        target: SocketAddr,
        protocol: Protocol,
        rate: u32,
    ) -> Result<Self> {
        let protocol = format!("--protocol={}", protocol.word());
        let rate = format!("--rate={rate}");
        let arguments = ["request-load".to_owned(), target.to_string(), protocol, "--count=0".to_owned(), rate];
        Ok(Self { client: Client::start(endpoint, &arguments)? })
    }

    /// Opens up to a thousand connections a second until the server of this name has answered;
    /// [`RequestLoad::stop`] waits for that.
    ///
    /// # Errors
    /// When the client doesn't start.
    pub fn until(endpoint: &(impl TrafficEndpoint + ?Sized), target: SocketAddr, server: &str) -> Result<Self> {
        let until = format!("--until={server}");
        let arguments =
            ["request-load".to_owned(), target.to_string(), "--count=0".to_owned(), "--rate=1000".to_owned(), until];
        Ok(Self { client: Client::start(endpoint, &arguments)? })
    }

    /// Stops and returns the counts.
    ///
    /// # Errors
    /// When the client has died.
    pub fn stop(self) -> Result<Report> {
        self.client.finish()
    }
}

/// Connections that stay open and are used until they are released.
#[derive(Debug)]
pub struct PersistentLoad {
    client: Client,
}

impl PersistentLoad {
    /// Opens `count` connections; all of them are established when this returns.
    ///
    /// # Errors
    /// When one of them can't be established.
    pub fn open(endpoint: &(impl TrafficEndpoint + ?Sized), target: SocketAddr, count: usize) -> Result<Self> {
        let arguments = ["persistent-load".to_owned(), target.to_string(), format!("--count={count}")];
        Ok(Self { client: Client::start(endpoint, &arguments)? })
    }

    /// Closes the connections and returns how many were lost before.
    ///
    /// # Errors
    /// When the client has died.
    pub fn release(self) -> Result<PersistentLoadReport> {
        self.client.finish()
    }
}

/// One connected UDP socket that sends a request every 20 milliseconds.
#[derive(Debug)]
pub struct StickyUdp {
    client: Client,
}

impl StickyUdp {
    /// Connects the socket.
    ///
    /// # Errors
    /// When the client doesn't start.
    pub fn start(endpoint: &(impl TrafficEndpoint + ?Sized), target: SocketAddr) -> Result<Self> {
        Ok(Self { client: Client::start(endpoint, &["sticky-udp".to_owned(), target.to_string()])? })
    }

    /// Returns the next server that answers in place of the previous one; at first the first
    /// server.
    ///
    /// # Errors
    /// When the server does not change `within` this time.
    pub fn next_server(&mut self, within: Duration) -> Result<String> {
        let Client { process, stdout } = &mut self.client;
        if stdout.buffer().is_empty() {
            let mut pipe = [PollFd::new(stdout.get_ref().as_fd(), PollFlags::POLLIN)];
            if poll(&mut pipe, PollTimeout::try_from(within)?)? == 0 {
                bail!("{}: the answering server has not changed within {within:?}", process.name());
            }
        }
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }

    /// Stops and returns the counts.
    ///
    /// # Errors
    /// When the client has died.
    pub fn stop(self) -> Result<Report> {
        self.client.finish()
    }
}

/// A running `ropeway-peer` that prints a report in JSON when its standard input ends.
#[derive(Debug)]
struct Client {
    process: Process,
    stdout: BufReader<ChildStdout>,
}

impl Client {
    /// Starts the program and waits for its line `ready`.
    fn start(endpoint: &(impl TrafficEndpoint + ?Sized), arguments: &[String]) -> Result<Self> {
        let name = format!("{}: {}", endpoint.label(), arguments.join(" "));
        let mut command = peer(endpoint, arguments)?;
        let mut process = Process::start(&name, command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
        let stdout = process.child().stdout.take().context("standard output of ropeway-peer is not a pipe")?;
        let mut stdout = BufReader::new(stdout);
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        if line != "ready\n" {
            bail!("{} did not start", process.name());
        }
        Ok(Self { process, stdout })
    }

    /// Ends the program by closing its standard input, and reads its report.
    fn finish<T: DeserializeOwned>(mut self) -> Result<T> {
        drop(self.process.child().stdin.take());
        let mut text = String::new();
        self.stdout.read_to_string(&mut text)?;
        serde_json::from_str(&text)
            .with_context(|| format!("{} printed something that is not a report: {text}", self.process.name()))
    }
}

/// Waits for the line `ready`.
fn ready(process: &mut Process) -> Result<()> {
    let stdout = process.child().stdout.take().context("standard output of ropeway-peer is not a pipe")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    if line != "ready\n" {
        bail!("{} did not start", process.name());
    }
    Ok(())
}
