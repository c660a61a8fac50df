//! With `--trace`: what the programs log, in the agent's log.

use std::io;
use std::thread;

use aya::Ebpf;
use aya_log::EbpfLogger;
use rustix::event::{PollFd, PollFlags, poll};
use tracing::{error, info};

/// Reads the programs' messages in a thread of its own, to the end of the process.
///
/// # Errors
/// There is no thread for it.
pub fn start(mut ebpf: Ebpf) -> io::Result<()> {
    let logger = EbpfLogger::init(&mut ebpf).map_err(io::Error::other)?;
    thread::Builder::new().name("trace".into()).stack_size(256 << 10).spawn(move || {
        // Held as long as it is read from.
        let _ebpf = ebpf;
        read(logger);
    })?;
    info!("tracing: every packet and connect is logged; for debugging only");
    Ok(())
}

fn read(mut logger: EbpfLogger<&'static dyn log::Log>) {
    loop {
        match poll(&mut [PollFd::new(&logger, PollFlags::IN)], None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => logger.flush(),
            Err(e) => {
                error!(error = %e, "can't read what the programs log");
                return;
            }
        }
    }
}
