//! Reads the clock of the packet path: its rate and its present tick.
//!
//! Programs count time in jiffies because reading them is free. Jiffies per second (`CONFIG_HZ`)
//! are a build option of the kernel. User space learns it from the resolution of the coarse clocks,
//! which advance once per jiffy (`KTIME_LOW_RES` in kernel/time/posix-timers.c). The agent reads
//! the rate once, at its start. [`Clock`] converts timeouts.

use aya::programs::{ProgramError, SchedClassifier, TestRun, TestRunOptions};
use dataplane_common::types::clock::{Clock, TICK_SHIFT, Ticks};
use dataplane_host::pins::Pins;
use rustix::time::{ClockId, clock_getres};

use super::LoadError;
use super::programs::CLOCK;

const NANOSECONDS: u32 = 1_000_000_000;

/// Returns the present tick of the packet path, of which the low 24 bits are valid.
///
/// # Errors
/// The clock program can't be opened or run.
pub fn tick(pins: &Pins) -> Result<Ticks, LoadError> {
    let program = SchedClassifier::from_pin(pins.program(CLOCK)).map_err(failed)?;
    let packet = [0_u8; 64];
    let options = TestRunOptions { data_in: Some(&packet), ..TestRunOptions::default() };
    let jiffies = program.test_run(options).map_err(failed)?.return_value;
    Ok(Ticks(jiffies >> TICK_SHIFT))
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn failed(e: ProgramError) -> LoadError {
    LoadError::Clock { reason: e.to_string() }
}

/// Returns the clock of the running kernel.
#[must_use]
pub fn of_kernel() -> Clock {
    of_resolution(u32::try_from(clock_getres(ClockId::MonotonicCoarse).tv_nsec).unwrap_or(u32::MAX))
}

/// Returns the clock whose jiffies are this many nanoseconds long.
///
/// The kernel reports a rounded length (3,333,333 ns for 300 Hz), so the quotient is rounded too.
const fn of_resolution(nanoseconds: u32) -> Clock {
    Clock { jiffies_per_second: (NANOSECONDS + nanoseconds / 2) / nanoseconds }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_is_computed_from_the_rounded_resolution() {
        for (length, rate) in [(10_000_000, 100), (4_000_000, 250), (3_333_333, 300), (1_000_000, 1000)] {
            assert_eq!(of_resolution(length).jiffies_per_second, rate);
        }
        assert!([100, 250, 300, 1000].contains(&of_kernel().jiffies_per_second), "{:?}", of_kernel());
    }
}
