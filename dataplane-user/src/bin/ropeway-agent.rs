//! The agent of a node; see `dataplane_user::agent`.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use dataplane_user::agent;
use dataplane_user::config::{Config, ConfigError, Options};
use tracing::error;

/// Runs this node's part of Ropeway: Services in the kernel, routes to other nodes' pods
///
/// Loads the eBPF programs, keeps their tables equal to the Services of a cluster or of a directory of manifests, and serves
/// metrics and health. What it has loaded goes on working when it ends; `ropeway uninstall` takes it away.
///
/// Each setting is taken from its flag, else from its environment variable, else from the file, where it has the flag's
/// name in camel case (nodeName for --node-name).
#[derive(Debug, Parser)]
#[command(name = "ropeway-agent", version, after_help = EXAMPLES)]
struct Cli {
    /// Configuration file (YAML)
    #[arg(long, env = "ROPEWAY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    options: Options,
}

const EXAMPLES: &str = "Examples:
  ropeway-agent --node-name \"$NODE_NAME\"                      in a pod of a DaemonSet
  ropeway-agent --source manifests --manifests /etc/services  a load balancer without a cluster";

fn main() -> ExitCode {
    let config = match configure(Cli::parse()) {
        Ok(config) => config,
        Err(e) => {
            eprintln!("ropeway-agent: {e}");
            return ExitCode::from(2);
        }
    };
    agent::logging::init(&config);
    match agent::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            error!("{e}");
            ExitCode::FAILURE
        }
    }
}

fn configure(cli: Cli) -> Result<Config, ConfigError> {
    let file = cli.config.as_deref().map(Options::from_file).transpose()?.unwrap_or_default();
    Config::new(cli.options.over(file))
}
