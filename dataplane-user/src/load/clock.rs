//! How long a clock tick of the packet path is.
//!
//! Programs count time in jiffies, because reading them is free. How many make a second is a build option of the kernel; it tells
//! that as the resolution of its coarse clocks, which move once a jiffy (`KTIME_LOW_RES` in kernel/time/posix-timers.c).

use aya::programs::{ProgramError, SchedClassifier, TestRun, TestRunOptions};
use dataplane_common::TICK_SHIFT;
use dataplane_host::pins::Pins;
use rustix::time::{ClockId, clock_getres};

use super::LoadError;
use super::programs::CLOCK;

const NANOSECONDS: u32 = 1_000_000_000;

/// The kernel's rate of jiffies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// Jiffies a second.
    pub rate: u32,
}

/// The present clock tick of the packet path: its low 24 bits.
///
/// # Errors
/// The clock program can't be run.
pub fn tick(pins: &Pins) -> Result<u32, LoadError> {
    let program = SchedClassifier::from_pin(pins.program(CLOCK)).map_err(failed)?;
    let packet = [0_u8; 64];
    let options = TestRunOptions { data_in: Some(&packet), ..TestRunOptions::default() };
    let jiffies = program.test_run(options).map_err(failed)?.return_value;
    Ok(jiffies >> TICK_SHIFT)
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn failed(e: ProgramError) -> LoadError {
    LoadError::Clock { reason: e.to_string() }
}

impl Clock {
    /// The rate of the running kernel.
    #[must_use]
    pub fn of_kernel() -> Self {
        Self::of_length(u32::try_from(clock_getres(ClockId::MonotonicCoarse).tv_nsec).unwrap_or(u32::MAX))
    }

    /// The rate whose jiffies are of this length in nanoseconds, which the kernel has rounded.
    #[must_use]
    pub const fn of_length(nanoseconds: u32) -> Self {
        Self { rate: (NANOSECONDS + nanoseconds / 2) / nanoseconds }
    }

    /// Seconds in ticks, rounded up: nothing is forgotten too early. At least 1.
    #[must_use]
    pub fn ticks(self, seconds: u32) -> u32 {
        let jiffies = u64::from(seconds) * u64::from(self.rate);
        u32::try_from(jiffies.div_ceil(1 << TICK_SHIFT)).unwrap_or(u32::MAX).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_what_its_length_says() {
        for (length, rate) in [(10_000_000, 100), (4_000_000, 250), (3_333_333, 300), (1_000_000, 1000)] {
            assert_eq!(Clock::of_length(length).rate, rate);
        }
        assert!([100, 250, 300, 1000].contains(&Clock::of_kernel().rate), "{:?}", Clock::of_kernel());
    }

    #[test]
    fn ticks_are_rounded_up() {
        let clock = Clock { rate: 250 };
        assert_eq!((clock.ticks(0), clock.ticks(1), clock.ticks(2), clock.ticks(10800)), (1, 1, 2, 10547));
        assert_eq!(Clock { rate: 1000 }.ticks(u32::MAX), 16_777_216_000_u64.min(u64::from(u32::MAX)) as u32);
    }
}
