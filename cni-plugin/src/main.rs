//! `ropeway-cni`: the CNI plugin, which the container runtime executes for every pod that is
//! created or deleted.
//!
//! Reads the environment and standard input, runs one verb, prints the result or one error object
//! on standard output, logs to standard error, and exits. Short-lived and blocking. It never needs
//! the agent: local state, pinned programs and pinned maps are enough.
#![deny(unsafe_code)]

mod attach;
mod background;
mod capabilities;
mod cmd;
mod config;
mod dataplane;
mod env;
mod error;
#[cfg(test)]
mod fuzz;
mod log;
mod mtu;
mod plan;
mod ports;
mod ranges;
mod result;
mod rollback;
mod spec;
mod sys;
mod sysctl;

use std::io::{Read, Write};
use std::process::ExitCode;

use crate::config::NetworkConfig;
use crate::env::{Invocation, Verb};
use crate::error::CniError;

/// Longest accepted configuration, in bytes.
const MOST_INPUT: u64 = 4 << 20;

fn main() -> ExitCode {
    let mut call = PluginCall::default();
    let (text, code) = match call.dispatch() {
        Ok(text) => (text, ExitCode::SUCCESS),
        Err(error) => (error.to_json(&call.version), ExitCode::from(1)),
    };
    // If the runtime has closed the pipe, the exit code still reports the outcome.
    let written = writeln_unless_empty(&text);
    if let Some(config) = &call.config {
        mtu::follow(config, call.mtu);
    }
    if written.is_err() { ExitCode::from(1) } else { code }
}

fn writeln_unless_empty(text: &str) -> std::io::Result<()> {
    if text.is_empty() { Ok(()) } else { std::io::stdout().write_all(format!("{text}\n").as_bytes()) }
}

/// The state of a call, which `main` needs even if the verb fails.
struct PluginCall {
    /// The version in which an error is to be printed.
    version: String,
    config: Option<NetworkConfig>,
    /// The MTU of the pod that ADD created.
    mtu: Option<u32>,
}

impl Default for PluginCall {
    fn default() -> Self {
        Self { version: spec::NEWEST.to_owned(), config: None, mtu: None }
    }
}

impl PluginCall {
    /// Runs the verb and returns its output.
    fn dispatch(&mut self) -> Result<String, CniError> {
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
        let config = &*self.config.insert(NetworkConfig::parse(&input, &mut self.version)?);
        match invocation.verb {
            Verb::Add => {
                let (result, mtu) = cmd::add::run(&invocation, config)?;
                self.mtu = Some(mtu);
                Ok(result)
            }
            Verb::Del => cmd::del::run(&invocation, config).map(|()| String::new()),
            Verb::Check => cmd::check::run(&invocation, config).map(|()| String::new()),
            Verb::Gc => cmd::gc::run(config).map(|()| String::new()),
            Verb::Status => cmd::status::run(config).map(|()| String::new()),
            Verb::Version => cmd::version::run(&input),
        }
    }
}
