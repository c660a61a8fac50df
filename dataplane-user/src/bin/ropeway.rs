//! The program `ropeway`: parses the command line, runs the subcommand, prints its result.
//!
//! Output goes to standard output, errors to standard error. The exit code is 0 on success, 1 if
//! the command failed or `ropeway ipam check` found problems, and 2 for a usage error (from clap).
#![forbid(unsafe_code)]

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use dataplane_user::cli::{Cli, CliError};

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(text) => print(&text, ExitCode::SUCCESS),
        Err(CliError::ProblemsFound(text)) => print(&text, ExitCode::FAILURE),
        Err(e) => fail(&e.to_string()),
    }
}

fn print(text: &str, code: ExitCode) -> ExitCode {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        // A reader such as `head` closes the pipe early; that is not a failure.
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => fail(&format!("cannot write the output: {e}")),
        _ => code,
    }
}

fn fail(message: &str) -> ExitCode {
    eprintln!("ropeway: {message}");
    ExitCode::FAILURE
}
