//! The operator's command line `ropeway`: shows the dataplane of a node and removes it.
//!
//! Each subcommand is a module. It gathers a view (plain data) from pinned maps, devices and the
//! address store; `-o json` prints the view, and the text is rendered from it. No subcommand needs
//! a running agent or an API server, and none but `install-plugin`, `ipam release` and `uninstall`
//! changes anything. The JSON is stable: fields may be added, and `version` is incremented when a
//! field is removed or changes its meaning.

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
use dataplane_host::contract::DEFAULT_STATE_DIR;
use dataplane_host::map::MapError;
use dataplane_host::netlink::NetlinkError;
use dataplane_host::pins::{DEFAULT_ROOT, PinError, Pins};
use serde::Serialize;

/// Error of a subcommand; its message goes to standard error.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// There are no pins of this version.
    #[error(transparent)]
    Pins(#[from] PinError),
    /// A pinned map could not be read.
    #[error(transparent)]
    Map(#[from] MapError),
    /// Devices could not be read.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// `ropeway uninstall` could not remove everything.
    #[error(transparent)]
    Uninstall(#[from] uninstall::UninstallError),
    /// `ropeway install-plugin` could not copy the plugin.
    #[error(transparent)]
    Install(#[from] install::InstallError),
    /// A subcommand of `ropeway ipam` failed.
    #[error(transparent)]
    Ipam(#[from] ipam::IpamError),
    /// `ropeway ipam check` found problems; the text is its output.
    #[error("{0}")]
    ProblemsFound(String),
    /// A view could not be serialized.
    #[error("cannot render the output as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// Version of the JSON views, printed as `version`.
pub const SCHEMA: u32 = 1;

/// Shows and removes the Ropeway dataplane of this node
///
/// Works without the agent and without an API server: it reads the pinned maps, programs and links,
/// and the address store.
#[derive(Debug, Parser)]
#[command(name = "ropeway", version, after_help = EXAMPLES)]
pub struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  ropeway status                       loaded programs, attachments, and how full the maps are
  ropeway service list                 frontends with their backends, like ipvsadm -Ln
  ropeway service list default/web     frontends of one Service
  ropeway ipam check                   compare addresses, devices and maps (exit code 1 on a difference)
  ropeway drops -o json                dropped packets by reason, for a script";

#[derive(Debug, Args)]
struct Common {
    /// Directory of the pinned programs, maps and links; the agent's --pin-root
    #[arg(long, global = true, env = "ROPEWAY_PIN_ROOT", default_value = DEFAULT_ROOT, value_name = "DIR")]
    pin_root: PathBuf,
    /// Directory of the address store; the agent's --state-dir
    #[arg(long, global = true, env = "ROPEWAY_STATE_DIR", default_value = DEFAULT_STATE_DIR, value_name = "DIR")]
    state_dir: PathBuf,
    /// Output format
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Text, value_name = "FORMAT")]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// Tables in columns
    Text,
    /// JSON with stable field names, for scripts
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows the node's addresses, and loaded programs, links, filters and maps
    Status,
    /// Shows Services as the programs serve them
    #[command(subcommand)]
    Service(ServiceCommand),
    /// Shows the pods of this node
    #[command(subcommand)]
    Pod(PodCommand),
    /// Shows, checks and repairs the address store of this node's pods
    #[command(subcommand)]
    Ipam(IpamCommand),
    /// Counts dropped packets by reason, and events of the programs
    Drops,
    /// Copies the CNI plugin to the container runtime's directory
    InstallPlugin {
        /// Directory of CNI plugins, such as /opt/cni/bin
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
    /// Detaches all programs and removes maps, routes and devices; stop the agent first
    Uninstall,
}

#[derive(Debug, Subcommand)]
enum ServiceCommand {
    /// Lists frontends with their backends, weights and connections
    List {
        /// List this Service only
        #[arg(value_name = "NAMESPACE/NAME")]
        service: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
enum PodCommand {
    /// Lists each pod's addresses, device and host ports
    List,
}

#[derive(Debug, Subcommand)]
enum IpamCommand {
    /// Lists address ranges and blocks, and the pod of each address
    Show,
    /// Compares the address store with devices and maps; exit code 1 on a difference
    Check,
    /// Releases the addresses of a pod that ended without a DEL
    Release {
        /// Any address of the pod
        #[arg(value_name = "ADDRESS")]
        address: IpAddr,
    },
}

/// The result of a subcommand: serialized for `-o json`, rendered as text otherwise.
pub trait View: Serialize {
    /// Renders the view as text, ending in a newline.
    fn text(&self) -> String;
}

impl Cli {
    /// Runs the subcommand and returns its output.
    ///
    /// # Errors
    /// The error of the subcommand; `ProblemsFound` carries output for standard output.
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
                if checked.problems.is_empty() { Ok(text) } else { Err(CliError::ProblemsFound(text)) }
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
