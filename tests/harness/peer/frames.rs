//! `ropeway-peer send` and `ropeway-peer watch`: send and count raw Ethernet frames on a device.
//!
//! Both use one `AF_PACKET` socket (packet(7)), which sees what the device receives and what it
//! sends. The device is not made promiscuous: it is a veth, which has no address filter, and a
//! packet socket gets frames for other MAC addresses, too.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Read, Write};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use nix::ifaddrs::getifaddrs;
use nix::libc::ETH_P_ALL;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};

/// Silence after which a watcher assumes that no more frames arrive.
const QUIET: Duration = Duration::from_millis(200);
/// Bytes that are kept of a frame. Longer ones, which the kernel cuts up later (GSO), are
/// truncated.
const FRAME: usize = 4096;

/// Options of `ropeway-peer send`.
#[derive(Args, Debug)]
pub struct SendOptions {
    /// Device on which frames are sent
    device: String,
    /// Number of times that each frame is sent
    #[arg(long, default_value_t = 1)]
    count: u64,
}

/// Options of `ropeway-peer watch`.
#[derive(Args, Debug)]
pub struct WatchOptions {
    /// Device on which frames are counted, received and sent ones
    device: String,
    /// Frames that contain this text, one count for each
    #[arg(long = "marker", required = true)]
    markers: Vec<String>,
}

/// The report of a watcher.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Number of frames with each marker.
    pub frames: BTreeMap<String, u64>,
    /// The first frame with each marker, in hexadecimal.
    pub first: BTreeMap<String, String>,
}

/// Reads frames from standard input, one a line in hexadecimal, and sends all of them in turns.
///
/// # Errors
/// When a line is no frame or the device refuses one.
pub fn send(options: &SendOptions) -> Result<()> {
    let mut frames = Vec::new();
    for line in io::stdin().lock().lines() {
        frames.push(parse(&line?)?);
    }
    let socket = open(&options.device)?;
    for _ in 0..options.count {
        for frame in &frames {
            socket
                .send(frame)
                .with_context(|| format!("device {}: cannot send frame {}", options.device, hex(frame)))?;
        }
    }
    Ok(())
}

/// Prints `ready`, counts until standard input ends and no more frames arrive, and prints [`Seen`].
///
/// # Errors
/// When the device can't be opened.
pub fn watch(options: &WatchOptions) -> Result<()> {
    let mut socket = open(&options.device)?;
    socket.set_read_timeout(Some(QUIET))?;
    println!("ready");
    io::stdout().flush()?;
    let ended = AtomicBool::new(false);
    let mut seen = Seen::default();
    let mut frame = [0; FRAME];
    for marker in &options.markers {
        seen.frames.insert(marker.clone(), 0);
    }
    std::thread::scope(|scope| {
        scope.spawn(|| {
            io::stdin().read_to_end(&mut Vec::new()).ok();
            ended.store(true, Ordering::Relaxed);
        });
        loop {
            match socket.read(&mut frame) {
                Ok(len) => seen.add(&options.markers, &frame[..len]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if ended.load(Ordering::Relaxed) {
                        return Ok(());
                    }
                }
                Err(e) => return Err(e).context("cannot receive a frame"),
            }
        }
    })?;
    println!("{}", serde_json::to_string(&seen)?);
    Ok(())
}

impl Seen {
    fn add(&mut self, markers: &[String], frame: &[u8]) {
        let has = |marker: &String| frame.windows(marker.len()).any(|window| window == marker.as_bytes());
        for marker in markers.iter().filter(|marker| has(marker)) {
            *self.frames.entry(marker.clone()).or_default() += 1;
            self.first.entry(marker.clone()).or_insert_with(|| hex(frame));
        }
    }
}

/// Opens a raw packet socket that is bound to a device.
fn open(name: &str) -> Result<Socket> {
    // getifaddrs is the only source of link-layer addresses that needs no unsafe code. The protocol
    // in it is 0, with which bind(2) keeps the socket's.
    let address = getifaddrs()?
        .filter(|device| device.interface_name == name)
        .find_map(|device| device.address?.as_link_addr().copied())
        .with_context(|| format!("there is no device {name}"))?;
    let every_protocol = Protocol::from(i32::from((ETH_P_ALL as u16).to_be()));
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(every_protocol))?;
    nix::sys::socket::bind(socket.as_raw_fd(), &address)
        .with_context(|| format!("cannot bind the socket to device {name}"))?;
    Ok(socket)
}

/// Formats bytes as hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |text, byte| text + &format!("{byte:02x}"))
}

fn parse(text: &str) -> Result<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        bail!("`{text}` is no frame");
    }
    let byte = |i: usize| u8::from_str_radix(&text[i..i + 2], 16).with_context(|| format!("`{text}` is no frame"));
    (0..text.len()).step_by(2).map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_frames_are_parsed_and_matched() {
        assert_eq!(parse(&hex(&[0, 255, 16])).unwrap(), [0, 255, 16]);
        assert!(parse("0").is_err() && parse("zz").is_err());
        let mut seen = Seen::default();
        seen.add(&["mark".to_owned(), "other".to_owned()], b"..mark..");
        assert_eq!(seen.frames, [("mark".to_owned(), 1)].into());
    }
}
