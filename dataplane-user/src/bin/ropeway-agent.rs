//! The program `ropeway-agent`: reads the configuration, starts the log, runs the agent.
//!
//! The exit code is 0 after SIGTERM or SIGINT, 1 if the agent could not start or ended with an
//! error, and 2 if the configuration is invalid. Nothing is detached on exit.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use dataplane_user::agent;
use dataplane_user::config::{Config, ConfigError, Options};
use tracing::error;

/// Runs the Ropeway agent of this node: Services, pod routes and addresses
///
/// Loads the eBPF programs, keeps their maps in sync with the Services of a cluster or of a
/// directory of manifests, and serves metrics and health checks. The programs stay attached when
/// the agent ends; `ropeway uninstall` removes them.
///
/// A flag overrides its environment variable, which overrides the key in the configuration file.
/// The key is the flag's name in camel case (nodeName for --node-name). docs/configuration.md lists
/// all options with their ranges and says when to change each.
#[derive(Debug, Parser)]
#[command(name = "ropeway-agent", version, after_help = EXAMPLES)]
struct AgentCli {
    /// Configuration file (YAML); keys are flag names in camel case
    #[arg(long, env = "ROPEWAY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    options: Options,
}

const EXAMPLES: &str = "Examples:
  ropeway-agent --node-name \"$NODE_NAME\"                      in a pod of a DaemonSet
  ropeway-agent --source manifests --manifests /etc/services  load balancer without a cluster";

fn main() -> ExitCode {
    let config = match configure(AgentCli::parse()) {
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

fn configure(cli: AgentCli) -> Result<Config, ConfigError> {
    let file = cli.config.as_deref().map(Options::from_file).transpose()?.unwrap_or_default();
    Config::new(cli.options.over(file))
}
