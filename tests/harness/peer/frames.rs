//! `ropeway-peer send` and `ropeway-peer watch`: send and count raw Ethernet frames on a device.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use pnet_datalink::{Channel, Config, DataLinkReceiver, DataLinkSender};
use serde::{Deserialize, Serialize};

/// Silence after which a watcher assumes that no more frames arrive.
const QUIET: Duration = Duration::from_millis(200);

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
    let (mut sender, _receiver) = open(&options.device)?;
    for _ in 0..options.count {
        for frame in &frames {
            let sent = sender.send_to(frame, None).context("no buffer")?;
            sent.with_context(|| format!("{}: {}", options.device, hex(frame)))?;
        }
    }
    Ok(())
}

/// Prints `ready`, counts until standard input ends and no more frames arrive, and prints [`Seen`].
///
/// # Errors
/// When the device can't be opened.
pub fn watch(options: &WatchOptions) -> Result<()> {
    let (_sender, mut receiver) = open(&options.device)?;
    println!("ready");
    io::stdout().flush()?;
    let ended = AtomicBool::new(false);
    let mut seen = Seen::default();
    for marker in &options.markers {
        seen.frames.insert(marker.clone(), 0);
    }
    std::thread::scope(|scope| {
        scope.spawn(|| {
            io::stdin().read_to_end(&mut Vec::new()).ok();
            ended.store(true, Ordering::Relaxed);
        });
        loop {
            match receiver.next() {
                Ok(frame) => seen.add(&options.markers, frame),
                Err(e) if e.kind() == io::ErrorKind::TimedOut => {
                    if ended.load(Ordering::Relaxed) {
                        return Ok(());
                    }
                }
                Err(e) => return Err(e).context("receive"),
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

fn open(name: &str) -> Result<(Box<dyn DataLinkSender>, Box<dyn DataLinkReceiver>)> {
    let device = pnet_datalink::interfaces().into_iter().find(|device| device.name == name);
    let device = device.with_context(|| format!("no device {name}"))?;
    let config = Config { read_timeout: Some(QUIET), ..Config::default() };
    match pnet_datalink::channel(&device, config).with_context(|| format!("device {name}"))? {
        Channel::Ethernet(sender, receiver) => Ok((sender, receiver)),
        _ => bail!("{name} is no Ethernet device"),
    }
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
