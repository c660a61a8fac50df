//! `ropeway-peer apiserver`: the list requests of an API server, answered from files. A request for
//! a list whose file is missing waits until the file exists.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;

/// Interval between two checks for the file of a list.
const STEP: Duration = Duration::from_millis(10);

/// Options of `ropeway-peer apiserver`.
#[derive(Args, Debug)]
pub struct ApiOptions {
    /// Address and port to listen on
    address: SocketAddr,
    /// when a client requests it
    directory: PathBuf,
}

/// Serves until it is killed; prints `ready` when it listens.
///
/// # Errors
/// When the port is taken.
pub fn run(options: &ApiOptions) -> Result<()> {
    let listener =
        TcpListener::bind(options.address).with_context(|| format!("cannot listen at {}", options.address))?;
    println!("ready");
    io::stdout().flush()?;
    std::thread::scope(|scope| {
        for stream in listener.incoming().flatten() {
            // A client that disconnects is not an error of the server.
            scope.spawn(|| connection(stream, &options.directory).ok());
        }
    });
    Ok(())
}

fn connection(stream: TcpStream, directory: &Path) -> io::Result<()> {
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut first = String::new();
        if reader.read_line(&mut first)? == 0 {
            return Ok(());
        }
        let mut line = String::new();
        while reader.read_line(&mut line)? > 2 {
            line.clear();
        }
        let target = first.split(' ').nth(1).unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let collection = path.rsplit('/').next().unwrap_or_default();
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
        if query.contains("watch=true") {
            writer.write_all(format!("{head}Transfer-Encoding: chunked\r\n\r\n").as_bytes())?;
            return io::copy(&mut reader, &mut io::sink()).map(|_| ()); // nothing ever changes
        }
        std::fs::write(directory.join(format!("{collection}.requested")), "")?;
        let file = directory.join(format!("{collection}.json"));
        while !file.exists() {
            std::thread::park_timeout(STEP);
        }
        let list = std::fs::read_to_string(file)?;
        writer.write_all(format!("{head}Content-Length: {}\r\n\r\n{list}", list.len()).as_bytes())?;
    }
}
