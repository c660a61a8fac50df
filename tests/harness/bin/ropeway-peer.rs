//! `ropeway-peer`: the program that the harness runs inside machines and pods.
//!
//! It makes namespaces, runs programs in them, and is the server and the client of all traffic. It
//! reports results in JSON on standard output. All logic is in the library.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ropeway_tests::enter::{Inside, NodeOptions, run_inside, run_node};
use ropeway_tests::peer::{
    ApiOptions, EchoOptions, FetchOptions, PersistentLoadOptions, RequestLoadOptions, SendOptions, ServeOptions,
    SessionOptions, StickyUdpOptions, TransferOptions, WatchOptions, apiserver, echo, fetch, persistent_load,
    request_load, send, serve, session, sticky_udp, transfer, watch,
};

#[derive(Parser)]
#[command(about = "A peer for tests: servers, clients, and the namespaces that they run in")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Create the namespaces of a node and keep them until standard input ends
    Node(NodeOptions),
    /// Run a program inside a node
    In(Inside),
    /// Answer on TCP (lines or HTTP) and UDP with this server's name
    Serve(ServeOptions),
    /// Send requests, each over a new connection, and count the answers of each server
    RequestLoad(RequestLoadOptions),
    /// Send one ICMP echo request and wait for the answer
    Echo(EchoOptions),
    /// Send an HTTP GET request and print the body
    Fetch(FetchOptions),
    /// Keep connections open and send requests over them until standard input ends
    PersistentLoad(PersistentLoadOptions),
    /// Send a request from each of some sockets for each line on standard input
    Session(SessionOptions),
    /// Send requests over one connected UDP socket and print each change of the answering server
    StickyUdp(StickyUdpOptions),
    /// Send and receive a checked pattern over one connection
    Transfer(TransferOptions),
    /// Send Ethernet frames that are given on standard input
    Send(SendOptions),
    /// Count Ethernet frames until standard input ends
    Watch(WatchOptions),
    /// Serve the lists that an agent requests from an API server
    Apiserver(ApiOptions),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Node(options) => run_node(&options),
        Command::In(options) => run_inside(&options),
        Command::Serve(options) => serve(&options),
        Command::RequestLoad(options) => request_load(&options),
        Command::Echo(options) => echo(&options),
        Command::Fetch(options) => fetch(&options),
        Command::PersistentLoad(options) => persistent_load(&options),
        Command::Session(options) => session(&options),
        Command::StickyUdp(options) => sticky_udp(&options),
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
