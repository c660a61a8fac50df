//! `ropeway-cni`: the CNI plugin, exec'd by the container runtime for every pod that comes or goes.
//!
//! Reads the environment and standard input, does one verb, prints the result or one error object on standard output, logs
//! to standard error, and ends. Short-lived, blocking, and never in need of the agent: local state, pinned programs
//! and pinned maps are enough.
#![deny(unsafe_code)]

mod attach;
mod capabilities;
mod cmd;
mod config;
mod dataplane;
mod env;
mod error;
mod plan;
mod pools;
mod ports;
mod result;
mod settings;
mod sys;
mod sysctl;
mod undo;

use std::io::{Read, Write};
use std::process::ExitCode;

use crate::config::Config;
use crate::env::{Invocation, Verb};
use crate::error::CniError;

/// No configuration is longer.
const MOST_INPUT: u64 = 4 << 20;

fn main() -> ExitCode {
    let (version, outcome) = run();
    let (text, code) = match outcome {
        Ok(text) => (text, ExitCode::SUCCESS),
        Err(error) => (error.to_json(&version), ExitCode::from(1)),
    };
    // If nobody reads, the exit code still tells.
    let written = writeln_unless_empty(&text);
    if written.is_err() { ExitCode::from(1) } else { code }
}

/// A line for the runtime's log. Input is never logged: it may hold secrets of other plugins.
fn log(line: &str) {
    // If nobody reads, there is nobody to tell.
    drop(writeln!(std::io::stderr(), "ropeway-cni: {line}"));
}

fn writeln_unless_empty(text: &str) -> std::io::Result<()> {
    if text.is_empty() { Ok(()) } else { std::io::stdout().write_all(format!("{text}\n").as_bytes()) }
}

/// The verb's output, and the version in which an error is to be printed.
fn run() -> (String, Result<String, CniError>) {
    let mut version = config::NEWEST.to_owned();
    let outcome = dispatch(&mut version);
    (version, outcome)
}

fn dispatch(version: &mut String) -> Result<String, CniError> {
    let invocation = Invocation::from_environment(std::env::var_os)?;
    let mut input = Vec::new();
    std::io::stdin()
        .take(MOST_INPUT + 1)
        .read_to_end(&mut input)
        .map_err(|e| CniError::io("read standard input", e))?;
    if input.len() as u64 > MOST_INPUT {
        return Err(CniError::Decode {
            what: "standard input".into(),
            reason: format!("longer than {MOST_INPUT} bytes"),
        });
    }
    if invocation.verb == Verb::Version {
        return cmd::version::run(&input);
    }
    let config = Config::parse(&input, version)?;
    match invocation.verb {
        Verb::Add => cmd::add::run(&invocation, &config),
        Verb::Del => cmd::del::run(&invocation, &config).map(|()| String::new()),
        Verb::Check => cmd::check::run(&invocation, &config).map(|()| String::new()),
        Verb::Gc => cmd::gc::run(&config).map(|()| String::new()),
        Verb::Status => cmd::status::run(&config).map(|()| String::new()),
        Verb::Version => cmd::version::run(&input),
    }
}
