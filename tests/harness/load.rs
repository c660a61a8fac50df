//! Traffic from inside a space or a pod: starts `ropeway-peer` there and reads what it says.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::process::{ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::de::DeserializeOwned;

use crate::binaries;
use crate::machine::Space;
use crate::peer::{HoldReport, Protocol, Report, Seen, TransferReport};
use crate::pod::Pod;
use crate::process::{self, Process};

/// Something that traffic can come from or go to.
pub trait Place {
    /// A command there.
    ///
    /// # Errors
    /// When the place can't be entered.
    fn run(&self, program: &std::ffi::OsStr) -> Result<Command>;

    /// What it is called.
    fn label(&self) -> String;
}

impl Place for Space {
    fn run(&self, program: &std::ffi::OsStr) -> Result<Command> {
        self.command(program)
    }

    fn label(&self) -> String {
        self.name().to_owned()
    }
}

impl Place for Pod {
    fn run(&self, program: &std::ffi::OsStr) -> Result<Command> {
        self.command(program)
    }

    fn label(&self) -> String {
        self.name().to_owned()
    }
}

impl<P: Place + ?Sized> Place for &P {
    fn run(&self, program: &std::ffi::OsStr) -> Result<Command> {
        (**self).run(program)
    }

    fn label(&self) -> String {
        (**self).label()
    }
}

/// A pod whose processes are in a cgroup of another machine: no socket hook of its node sees them, so only its packets are translated, as
/// those of a pod with a kernel of its own are.
#[derive(Debug)]
pub struct ByPackets<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// A machine without an agent.
    pub elsewhere: &'a Space,
}

impl Place for ByPackets<'_> {
    fn run(&self, program: &std::ffi::OsStr) -> Result<Command> {
        let cgroup = self.elsewhere.cgroup().join("pods").join(self.pod.name());
        self.pod.node().command_at(&cgroup, Some(&self.pod.attachment().netns), program)
    }

    fn label(&self) -> String {
        format!("{} by packets", self.pod.name())
    }
}

/// A node's own processes in a cgroup of another machine: no socket hook sees them.
#[derive(Debug)]
pub struct NodeByPackets<'a> {
    /// The node.
    pub node: &'a Space,
    /// A machine without an agent.
    pub elsewhere: &'a Space,
}

impl Place for NodeByPackets<'_> {
    fn run(&self, program: &std::ffi::OsStr) -> Result<Command> {
        self.node.command_at(&self.elsewhere.cgroup().join(self.node.name()), None, program)
    }

    fn label(&self) -> String {
        format!("{} by packets", self.node.name())
    }
}

fn peer(place: &(impl Place + ?Sized), arguments: &[String]) -> Result<Command> {
    let mut command = place.run(binaries::find("ropeway-peer")?.as_os_str())?;
    command.args(arguments);
    Ok(command)
}

fn once<T: DeserializeOwned>(place: &(impl Place + ?Sized), arguments: &[String]) -> Result<T> {
    let name = format!("{}: {}", place.label(), arguments.join(" "));
    let text = process::output(&name, &mut peer(place, arguments)?)?;
    serde_json::from_str(&text).with_context(|| format!("{name}: {text}"))
}

/// A server that answers with `id` on these ports, over TCP and UDP; it listens when this returns.
///
/// # Errors
/// When it doesn't start.
pub fn serve(place: &(impl Place + ?Sized), id: &str, ports: &[u16]) -> Result<Process> {
    serve_at(place, id, ports, None)
}

/// [`serve`], on one address only.
///
/// # Errors
/// When it doesn't start.
pub fn serve_at(
    place: &(impl Place + ?Sized),
    id: &str,
    ports: &[u16],
    address: Option<std::net::IpAddr>,
) -> Result<Process> {
    let mut arguments = vec!["serve".to_owned(), "--id".to_owned(), id.to_owned()];
    arguments.extend(ports.iter().map(|port| format!("--port={port}")));
    arguments.extend(address.map(|address| format!("--address={address}")));
    let mut command = peer(place, &arguments)?;
    let mut process = Process::start(&format!("server {id}"), command.stdin(Stdio::null()).stdout(Stdio::piped()))?;
    ready(&mut process)?;
    Ok(process)
}

/// An API server that answers with the lists in a directory; it listens when this returns.
///
/// # Errors
/// When it doesn't start.
pub fn serve_api(place: &(impl Place + ?Sized), address: SocketAddr, lists: &std::path::Path) -> Result<Process> {
    let mut command = peer(place, &["apiserver".to_owned(), address.to_string()])?;
    command.arg(lists);
    let mut process = Process::start("API server", command.stdin(Stdio::null()).stdout(Stdio::piped()))?;
    ready(&mut process)?;
    Ok(process)
}

/// Asks `count` times, each time by a new connection.
///
/// # Errors
/// When the client doesn't run; unanswered questions are part of the report.
pub fn ask(place: &(impl Place + ?Sized), target: SocketAddr, protocol: Protocol, count: u64) -> Result<Report> {
    ask_with(place, target, protocol, count, &[])
}

/// [`ask`], with more flags for `ropeway-peer ask`.
///
/// # Errors
/// When the client doesn't run.
pub fn ask_with(
    place: &(impl Place + ?Sized),
    target: SocketAddr,
    protocol: Protocol,
    count: u64,
    flags: &[&str],
) -> Result<Report> {
    let mut arguments = vec!["ask".to_owned(), target.to_string(), format!("--protocol={}", protocol.word())];
    arguments.push(format!("--count={count}"));
    arguments.extend(flags.iter().map(|flag| (*flag).to_owned()));
    once(place, &arguments)
}

/// Moves so many bytes each way over one connection.
///
/// # Errors
/// When one of them is wrong or lost.
pub fn transfer(place: &(impl Place + ?Sized), target: SocketAddr, bytes: u64) -> Result<TransferReport> {
    once(place, &["transfer".to_owned(), target.to_string(), format!("--bytes={bytes}")])
}

/// Sends frames, each in hexadecimal, out of a device, all of them in turns and each so often.
///
/// # Errors
/// When the device refuses one.
pub fn send_frames(place: &(impl Place + ?Sized), device: &str, frames: &[String], count: u64) -> Result<()> {
    let mut command = peer(place, &["send".to_owned(), device.to_owned(), format!("--count={count}")])?;
    let mut child = command.stdin(Stdio::piped()).spawn().context("cannot start the sender")?;
    child.stdin.take().context("no pipe")?.write_all(frames.join("\n").as_bytes())?;
    let status = child.wait()?;
    if status.success() { Ok(()) } else { bail!("{}: frames were not sent: {status}", place.label()) }
}

/// Counts frames on a device while it lives.
#[derive(Debug)]
pub struct Watch(Load);

impl Watch {
    /// Counts frames with each of these texts.
    ///
    /// # Errors
    /// When the device can't be opened.
    pub fn start(place: &(impl Place + ?Sized), device: &str, markers: &[&str]) -> Result<Self> {
        let mut arguments = vec!["watch".to_owned(), device.to_owned()];
        arguments.extend(markers.iter().map(|marker| format!("--marker={marker}")));
        Load::start(place, &arguments).map(Self)
    }

    /// What was seen, once nothing comes any more.
    ///
    /// # Errors
    /// When the watcher has died.
    pub fn stop(self) -> Result<Seen> {
        self.0.end()
    }
}

/// One ICMP echo with so many bytes after the ICMP header, not in fragments.
///
/// # Errors
/// When it is not answered.
pub fn echo(place: &(impl Place + ?Sized), address: std::net::IpAddr, size: usize) -> Result<()> {
    let arguments = ["echo".to_owned(), address.to_string(), format!("--size={size}")];
    process::output(&format!("{}: echo {address}", place.label()), &mut peer(place, &arguments)?).map(|_| ())
}

/// The body of an HTTP answer; any status but 200 is an error.
///
/// # Errors
/// When there is no such answer.
pub fn fetch(place: &(impl Place + ?Sized), server: SocketAddr, path: &str) -> Result<String> {
    let arguments = ["fetch".to_owned(), server.to_string(), path.to_owned()];
    process::output(&format!("{}: {server}{path}", place.label()), &mut peer(place, &arguments)?)
}

/// Traffic that goes on until it is stopped.
#[derive(Debug)]
pub struct Load {
    process: Process,
    stdout: BufReader<ChildStdout>,
}

impl Load {
    /// New connections at a rate.
    ///
    /// # Errors
    /// When the client doesn't start.
    pub fn asking(place: &(impl Place + ?Sized), target: SocketAddr, protocol: Protocol, rate: u32) -> Result<Self> {
        let protocol = format!("--protocol={}", protocol.word());
        let rate = format!("--rate={rate}");
        Self::start(place, &["ask".to_owned(), target.to_string(), protocol, "--count=0".to_owned(), rate])
    }

    /// New connections, up to a thousand a second, until the server of this name has answered; [`Load::stop`] waits for that.
    ///
    /// # Errors
    /// When the client doesn't start.
    pub fn until(place: &(impl Place + ?Sized), target: SocketAddr, server: &str) -> Result<Self> {
        let until = format!("--until={server}");
        Self::start(
            place,
            &["ask".to_owned(), target.to_string(), "--count=0".to_owned(), "--rate=1000".to_owned(), until],
        )
    }

    /// Connections that stay open; all are made when this returns.
    ///
    /// # Errors
    /// When one can't be made.
    pub fn holding(place: &(impl Place + ?Sized), target: SocketAddr, count: usize) -> Result<Self> {
        Self::start(place, &["hold".to_owned(), target.to_string(), format!("--count={count}")])
    }

    /// One connected UDP socket that asks every 20 milliseconds; [`Load::next_server`] says who answers it.
    ///
    /// # Errors
    /// When the client doesn't start.
    pub fn staying(place: &(impl Place + ?Sized), target: SocketAddr) -> Result<Self> {
        Self::start(place, &["stay".to_owned(), target.to_string()])
    }

    /// The next server that answers [`Load::staying`] after another one.
    ///
    /// # Errors
    /// When none does `within` this time.
    pub fn next_server(&mut self, within: Duration) -> Result<String> {
        if self.stdout.buffer().is_empty() {
            let mut pipe = [PollFd::new(self.stdout.get_ref().as_fd(), PollFlags::POLLIN)];
            if poll(&mut pipe, PollTimeout::try_from(within)?)? == 0 {
                bail!("{}: no other server within {within:?}", self.process.name());
            }
        }
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }

    fn start(place: &(impl Place + ?Sized), arguments: &[String]) -> Result<Self> {
        let name = format!("{}: {}", place.label(), arguments.join(" "));
        let mut command = peer(place, arguments)?;
        let mut process = Process::start(&name, command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
        let stdout = process.child().stdout.take().context("no pipe")?;
        let mut stdout = BufReader::new(stdout);
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        if line != "ready\n" {
            bail!("{} did not start", process.name());
        }
        Ok(Self { process, stdout })
    }

    /// Ends the traffic of [`Load::asking`] or [`Load::staying`] and returns what was seen.
    ///
    /// # Errors
    /// When the client has died.
    pub fn stop(self) -> Result<Report> {
        self.end()
    }

    /// Ends the traffic of [`Load::holding`] and returns what was seen.
    ///
    /// # Errors
    /// When the client has died.
    pub fn release(self) -> Result<HoldReport> {
        self.end()
    }

    fn end<T: DeserializeOwned>(mut self) -> Result<T> {
        drop(self.process.child().stdin.take());
        let mut text = String::new();
        self.stdout.read_to_string(&mut text)?;
        serde_json::from_str(&text).with_context(|| format!("{}: `{text}`", self.process.name()))
    }
}

/// Waits for the line `ready`.
fn ready(process: &mut Process) -> Result<()> {
    let stdout = process.child().stdout.take().context("no pipe")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    if line != "ready\n" {
        bail!("{} did not start", process.name());
    }
    Ok(())
}
