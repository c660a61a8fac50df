//! `ropeway-peer`: the program that the harness runs inside machines and pods.
//!
//! It makes namespaces, runs programs in them, and is the server and the client of all traffic. It
//! reports results in JSON on standard output. All logic is in the library.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ropeway_tests::enter::{Inside, NodeOptions, run_inside, run_node};
use ropeway_tests::peer::{
    ApiOptions, AskOptions, EchoOptions, FetchOptions, HoldOptions, SendOptions, ServeOptions, StayOptions,
    TransferOptions, WatchOptions, apiserver, ask, echo, fetch, hold, send, serve, stay, transfer, watch,
};

#[derive(Parser)]
#[command(about = "A peer for tests: servers, clients, and the namespaces that they run in")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make the namespaces of a node and hold them
    Node(NodeOptions),
    /// Run a program inside a node
    In(Inside),
    /// Answer on TCP (lines or HTTP) and UDP with this server's name
    Serve(ServeOptions),
    /// Ask a server often, each time by a new connection, and count who answered
    Ask(AskOptions),
    /// Send one ICMP echo request and wait for the answer
    Echo(EchoOptions),
    /// Get something by HTTP and print it
    Fetch(FetchOptions),
    /// Keep connections open and ask over them until standard input ends
    Hold(HoldOptions),
    /// Keep one UDP socket connected, ask by it until standard input ends, and say who answers
    Stay(StayOptions),
    /// Send and receive much over one connection and check every byte
    Transfer(TransferOptions),
    /// Send Ethernet frames that are given on standard input
    Send(SendOptions),
    /// Count Ethernet frames until standard input ends
    Watch(WatchOptions),
    /// Answer the lists that an agent asks an API server for
    Apiserver(ApiOptions),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Node(options) => run_node(&options),
        Command::In(options) => run_inside(&options),
        Command::Serve(options) => serve(&options),
        Command::Ask(options) => ask(&options),
        Command::Echo(options) => echo(&options),
        Command::Fetch(options) => fetch(&options),
        Command::Hold(options) => hold(&options),
        Command::Stay(options) => stay(&options),
        Command::Transfer(options) => transfer(&options),
        Command::Send(options) => send(&options),
        Command::Watch(options) => watch(&options),
        Command::Apiserver(options) => apiserver(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ropeway-peer: {error:#}");
            ExitCode::FAILURE
        }
    }
}
