//! `ropeway-peer transfer`: much data over one connection, both ways, every byte checked by its
//! receiver.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::{Deserialize, Serialize};

use super::socket::{Request, connect};
use super::{Protocol, pattern};

/// Options of `ropeway-peer transfer`.
#[derive(Args, Debug)]
pub struct TransferOptions {
    /// Address and port of the server
    target: SocketAddr,
    /// Bytes in each direction
    #[arg(long, default_value_t = 64 << 20)]
    bytes: u64,
    /// Milliseconds without progress after which the transfer has failed
    #[arg(long, default_value_t = 5000)]
    timeout: u64,
}

/// The report on a transfer without errors.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TransferReport {
    /// Bytes in each direction.
    pub bytes: u64,
    /// Milliseconds of the transfer to the server.
    pub up_ms: u64,
    /// Milliseconds of the transfer from the server.
    pub down_ms: u64,
}

/// Sends and receives concurrently, then prints a [`TransferReport`].
///
/// # Errors
/// When the connection breaks or a byte is wrong.
pub fn run(options: &TransferOptions) -> Result<()> {
    let timeout = Duration::from_millis(options.timeout);
    let request = Request::over(Protocol::Tcp, options.target, timeout);
    let stream = connect(&request).with_context(|| format!("cannot connect to {}", options.target))?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);

    let start = Instant::now();
    writer.write_all(format!("take {}\n", options.bytes).as_bytes())?;
    pattern::send(&mut writer, options.bytes).context("transfer to the server failed")?;
    let mut answer = String::new();
    reader.read_line(&mut answer).context("the server did not confirm the transfer")?;
    if answer.trim_end() != "right" {
        bail!("the server received something else: {}", answer.trim_end());
    }
    let up = start.elapsed();

    let start = Instant::now();
    writer.write_all(format!("give {}\n", options.bytes).as_bytes())?;
    pattern::receive(&mut reader, options.bytes).context("transfer from the server failed")?;
    let down = start.elapsed();
    let report =
        TransferReport { bytes: options.bytes, up_ms: up.as_millis() as u64, down_ms: down.as_millis() as u64 };
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}
