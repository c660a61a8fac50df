//! The operator's command line; see `dataplane_user::cli`.
#![forbid(unsafe_code)]

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use dataplane_user::cli::{Cli, CliError};

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(text) => print(&text, ExitCode::SUCCESS),
        Err(CliError::Found(text)) => print(&text, ExitCode::FAILURE),
        Err(e) => fail(&e.to_string()),
    }
}

fn print(text: &str, code: ExitCode) -> ExitCode {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        // Who reads only the first lines has what it wanted.
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => fail(&e.to_string()),
        _ => code,
    }
}

fn fail(message: &str) -> ExitCode {
    eprintln!("ropeway: {message}");
    ExitCode::FAILURE
}
