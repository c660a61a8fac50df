//! Copies the log messages of the eBPF programs to the agent's log, with `--trace`.
//!
//! The agent starts it once, after loading programs with tracing compiled in. The thread runs until
//! the process ends. Without `--trace` the programs contain no logging code.

use std::io;
use std::thread;

use aya::Ebpf;
use aya_log::EbpfLogger;
use rustix::event::{PollFd, PollFlags, poll};
use tracing::{error, info};

/// Starts the thread that reads the programs' messages.
///
/// # Errors
/// The object has no log map, or the thread could not be created.
pub fn start(mut ebpf: Ebpf) -> io::Result<()> {
    let logger = EbpfLogger::init(&mut ebpf).map_err(io::Error::other)?;
    thread::Builder::new().name("trace".into()).stack_size(256 << 10).spawn(move || {
        // The object owns the ring buffer and must outlive the reader.
        let _ebpf = ebpf;
        read(logger);
    })?;
    info!("trace enabled: logging each packet and connect; disable --trace after debugging");
    Ok(())
}

fn read(mut logger: EbpfLogger<&'static dyn log::Log>) {
    loop {
        match poll(&mut [PollFd::new(&logger, PollFlags::IN)], None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => logger.flush(),
            Err(e) => {
                error!(error = %e, "trace failed: cannot read the programs' log messages");
                return;
            }
        }
    }
}
