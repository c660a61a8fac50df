//! Repeats program loads that a signal interrupted.
//!
//! Agent and plugin tests load programs through it. The verifier gives up with `EAGAIN` as soon as
//! a signal is pending; any other error is returned at once.

use std::error::Error;
use std::io;
use std::iter::successors;

/// The number of attempts, as in libbpf (`PROG_LOAD_ATTEMPTS`).
const ATTEMPTS: usize = 5;

/// Loads a program again when a signal has interrupted that: the verifier gives up with `EAGAIN` as
/// soon as one is pending (`do_check` in kernel/bpf/verifier.c).
///
/// # Errors
/// That of the last attempt.
pub fn despite_signals<T, E: Error + 'static>(mut load: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    for _ in 1..ATTEMPTS {
        match load() {
            Err(e) if is_interruption(&e) => {}
            outcome => return outcome,
        }
    }
    load()
}

fn is_interruption(error: &(dyn Error + 'static)) -> bool {
    successors(Some(error), |&e| e.source())
        .filter_map(|e| e.downcast_ref::<io::Error>())
        .any(|e| e.raw_os_error() == Some(libc::EAGAIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("loading: {0}")]
    struct Refused(#[source] io::Error);

    /// Returns the number of attempts at a load that fails `failures` times, and whether it
    /// succeeded.
    fn tried(failures: usize, errno: i32) -> (usize, bool) {
        let mut count = 0;
        let outcome = despite_signals(|| {
            count += 1;
            if count > failures { Ok(()) } else { Err(Refused(io::Error::from_raw_os_error(errno))) }
        });
        (count, outcome.is_ok())
    }

    #[test]
    fn only_interrupted_loads_are_repeated() {
        assert_eq!(tried(0, libc::EAGAIN), (1, true));
        assert_eq!(tried(2, libc::EAGAIN), (3, true));
        assert_eq!(tried(9, libc::EAGAIN), (ATTEMPTS, false));
        assert_eq!(tried(1, libc::EACCES), (1, false));
    }
}
