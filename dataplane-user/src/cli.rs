//! The operator's command line: shows what the kernel holds, and takes it away.
//!
//! Reads pins and devices only; needs neither a running agent nor an API server. Each view is gathered into plain data
//! first, which is what `-o json` prints; the text is a pure rendering of it. The field names of the JSON are stable: fields
//! may be added, and `version` goes up when one changes its meaning.

pub mod drops;
pub mod install;
pub mod ipam;
pub mod pod;
pub mod service;
pub mod status;
pub mod table;
pub mod uninstall;

#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use dataplane_host::map::MapError;
use dataplane_host::pins::{DEFAULT_ROOT, PinError, Pins};
use serde::Serialize;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The pins can't be read.
    #[error(transparent)]
    Pins(#[from] PinError),
    /// A map can't be read.
    #[error(transparent)]
    Map(#[from] MapError),
    /// Something could not be removed.
    #[error(transparent)]
    Uninstall(#[from] uninstall::UninstallError),
    /// The plugin could not be put in its place.
    #[error(transparent)]
    Install(#[from] install::InstallError),
    /// Addresses.
    #[error(transparent)]
    Ipam(#[from] ipam::IpamError),
    /// A check has found something; what it prints says what.
    #[error("{0}")]
    Found(String),
    /// A view can't be rendered.
    #[error("rendering JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// Version of the JSON views.
pub const SCHEMA: u32 = 1;

/// Shows and removes what Ropeway has put into this node's kernel
///
/// Works without the agent and without an API server: it reads the pinned maps, programs and links.
#[derive(Debug, Parser)]
#[command(name = "ropeway", version, after_help = EXAMPLES)]
pub struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  ropeway status                       what is loaded and attached, and how full the tables are
  ropeway service list                 frontends and their backends, as ipvsadm -Ln shows them
  ropeway service list default/web     those of one Service
  ropeway ipam check                   whether addresses, devices and tables agree (exit code 1 if not)
  ropeway drops -o json                why packets were dropped, for a script";

#[derive(Debug, Args)]
struct Common {
    /// Directory of the pinned programs, maps and links
    #[arg(long, global = true, env = "ROPEWAY_PIN_ROOT", default_value = DEFAULT_ROOT, value_name = "DIR")]
    pin_root: PathBuf,
    /// The agent's and the plugin's directory
    #[arg(long, global = true, env = "ROPEWAY_STATE_DIR", default_value = "/var/lib/ropeway", value_name = "DIR")]
    state_dir: PathBuf,
    /// Form of the output
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Text, value_name = "FORMAT")]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// Tables for people
    Text,
    /// Stable JSON for programs
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows programs, links, maps and the node's configuration
    Status,
    /// Services
    #[command(subcommand)]
    Service(ServiceCommand),
    /// Pods of this node
    #[command(subcommand)]
    Pod(PodCommand),
    /// Addresses of this node's pods
    #[command(subcommand)]
    Ipam(IpamCommand),
    /// Shows why packets were dropped, and what the programs did
    Drops,
    /// Puts the CNI plugin into a directory of the container runtime
    InstallPlugin {
        /// The directory, such as /opt/cni/bin
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
    /// Detaches all programs and removes pins and routes; the agent must not run
    Uninstall,
}

#[derive(Debug, Subcommand)]
enum ServiceCommand {
    /// Lists frontends with their backends
    List {
        /// Only this Service
        #[arg(value_name = "NAMESPACE/NAME")]
        service: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
enum PodCommand {
    /// Lists addresses and devices of pods
    List,
}

#[derive(Debug, Subcommand)]
enum IpamCommand {
    /// Lists ranges or blocks, and who holds which address
    Show,
    /// Compares the address store with devices and tables
    Check,
    /// Gives back an address whose pod is gone without a DEL
    Release {
        /// One of its addresses
        #[arg(value_name = "ADDRESS")]
        address: IpAddr,
    },
}

/// A view: data for `-o json`, text for people.
pub trait View: Serialize {
    /// The text.
    fn text(&self) -> String;
}

impl Cli {
    /// Does what was asked for; gives what to print.
    ///
    /// # Errors
    /// The pins can't be read, or something could not be removed.
    pub fn run(&self) -> Result<String, CliError> {
        let pins = Pins::new(&self.common.pin_root);
        let state_dir = &self.common.state_dir;
        match &self.command {
            Command::Status => self.show(&status::gather(&pins, state_dir)?),
            Command::Service(ServiceCommand::List { service }) => {
                self.show(&service::gather(&pins, service.as_deref())?)
            }
            Command::Pod(PodCommand::List) => self.show(&pod::gather(&pins)?),
            Command::Ipam(IpamCommand::Show) => self.show(&ipam::show(state_dir)?),
            Command::Ipam(IpamCommand::Check) => {
                let checked = ipam::check(&pins, state_dir)?;
                let text = self.show(&checked)?;
                if checked.problems.is_empty() { Ok(text) } else { Err(CliError::Found(text)) }
            }
            Command::Ipam(IpamCommand::Release { address }) => self.show(&ipam::release(state_dir, *address)?),
            Command::Drops => self.show(&drops::gather(&pins)?),
            Command::InstallPlugin { directory } => self.show(&install::plugin(directory)?),
            Command::Uninstall => self.show(&uninstall::uninstall(&pins, state_dir)?),
        }
    }

    fn show(&self, view: &impl View) -> Result<String, CliError> {
        Ok(match self.common.output {
            Output::Text => view.text(),
            Output::Json => serde_json::to_string_pretty(view)? + "\n",
        })
    }
}
