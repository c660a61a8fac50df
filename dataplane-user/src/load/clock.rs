//! How long a clock tick of the packet path is.
//!
//! Programs count time in jiffies, because reading them is free; how many make a second is a build option of the kernel
//! that it tells nobody. So a program reads them twice, and the possible rates are few.

use std::time::{Duration, Instant};

use aya::programs::{ProgramError, SchedClassifier, TestRun, TestRunOptions};
use dataplane_common::TICK_SHIFT;
use dataplane_host::pins::Pins;

use super::LoadError;
use super::programs::CLOCK;

/// The rates that a kernel can be built with (`CONFIG_HZ`), in jiffies a second.
const RATES: [u32; 4] = [100, 250, 300, 1000];

/// Long enough to tell 250 from 300 a second with an error of one jiffy at each end.
const SPAN: Duration = Duration::from_millis(60);

/// A reading that took longer is taken again, so often.
const SHARP: Duration = Duration::from_millis(1);
const ATTEMPTS: u32 = 100;

/// The longest sample that is tried.
const LONGEST_SPAN: Duration = Duration::from_millis(60 * 27);

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
    Ok(jiffies(&program)? >> TICK_SHIFT)
}

/// The low 32 bits of jiffies.
fn jiffies(program: &SchedClassifier) -> Result<u32, LoadError> {
    let packet = [0_u8; 64];
    let options = TestRunOptions { data_in: Some(&packet), ..TestRunOptions::default() };
    Ok(program.test_run(options).map_err(failed)?.return_value)
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn failed(e: ProgramError) -> LoadError {
    LoadError::Clock { reason: e.to_string() }
}

impl Clock {
    /// Measures the rate with the pinned clock program.
    ///
    /// # Errors
    /// The program can't be run, or the clock runs at none of the known rates.
    pub fn measure(pins: &Pins) -> Result<Self, LoadError> {
        let program = SchedClassifier::from_pin(pins.program(CLOCK)).map_err(failed)?;
        let read = || -> Result<(Instant, u32), LoadError> {
            let mut attempts = 0;
            loop {
                attempts += 1;
                let before = Instant::now();
                let jiffies = jiffies(&program)?;
                // On a busy machine this thread may have been off the processor meanwhile, and nobody knows when it was read.
                if before.elapsed() < SHARP || attempts == ATTEMPTS {
                    return Ok((before, jiffies));
                }
            }
        };
        // A machine that stalls between the two spoils a sample; a longer one then tells more.
        let mut span = SPAN;
        loop {
            let (first, start) = read()?;
            // The measurement is a length of time: nothing else can be waited for.
            std::thread::sleep(span);
            let (last, end) = read()?;
            match Self::from_sample(end.wrapping_sub(start), last - first) {
                Err(_) if span < LONGEST_SPAN => span *= 3,
                outcome => return outcome,
            }
        }
    }

    /// The rate nearest to `jiffies` in `elapsed`.
    ///
    /// # Errors
    /// There is none near.
    pub fn from_sample(jiffies: u32, elapsed: Duration) -> Result<Self, LoadError> {
        let seen = f64::from(jiffies) / elapsed.as_secs_f64();
        let distance = |rate: &u32| (f64::from(*rate) - seen).abs();
        let nearest = RATES.into_iter().min_by(|a, b| distance(a).total_cmp(&distance(b)));
        let slack = 2.5 / elapsed.as_secs_f64();
        match nearest.filter(|rate| distance(rate) <= slack.max(f64::from(*rate) * 0.05)) {
            Some(rate) => Ok(Self { rate }),
            None => Err(LoadError::Clock {
                reason: format!("{jiffies} jiffies in {elapsed:?} fit none of {RATES:?} a second"),
            }),
        }
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
    fn rates_are_told_apart() {
        for rate in RATES {
            for error in [-1, 0, 1] {
                for ms in [60_u32, 61, 75, 200] {
                    let jiffies = (rate * ms / 1000).saturating_add_signed(error);
                    let clock = Clock::from_sample(jiffies, Duration::from_millis(ms.into())).unwrap();
                    // One jiffy of 250 a second in 60 ms looks like 267, which is still nearer to 250.
                    assert_eq!(clock.rate, rate, "{jiffies} in {ms} ms");
                }
            }
        }
        assert!(Clock::from_sample(0, SPAN).is_err());
        assert!(Clock::from_sample(600, Duration::from_secs(1)).is_err());
    }

    #[test]
    fn ticks_are_rounded_up() {
        let clock = Clock { rate: 250 };
        assert_eq!((clock.ticks(0), clock.ticks(1), clock.ticks(2), clock.ticks(10800)), (1, 1, 2, 10547));
        assert_eq!(Clock { rate: 1000 }.ticks(u32::MAX), 16_777_216_000_u64.min(u64::from(u32::MAX)) as u32);
    }
}
