//! The clock of the packet path, and the conversion of timeouts to its unit.
//!
//! The programs read jiffies: the verifier inlines `bpf_jiffies64` as one load (`do_misc_fixups` in
//! kernel/bpf/verifier.c), and every other clock costs a call. Map values hold plain `u32` ticks,
//! so that their layout and BTF stay as they are; the agent computes with [`Ticks`] and converts at
//! the maps. Reading the clock is not done here.

/// Number of bits by which jiffies are shifted to get ticks: a tick is 256 jiffies, about a second
/// at the usual 250 Hz. The agent measures the length of a jiffy.
pub const TICK_SHIFT: u32 = 8;

/// A number of clock ticks: a duration, or a point in time since an arbitrary origin (wrapping).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Ticks(pub u32);

impl Ticks {
    /// Returns `self + n`, at most `u32::MAX` ticks.
    #[must_use]
    pub const fn saturating_add(self, n: u32) -> Self {
        Self(self.0.saturating_add(n))
    }

    /// Returns the number for the 16-bit fields of the node's configuration: at most `u16::MAX`.
    #[must_use]
    pub const fn saturating_u16(self) -> u16 {
        if self.0 > u16::MAX as u32 { u16::MAX } else { self.0 as u16 }
    }
}

/// The running kernel's rate of jiffies, a build option (`CONFIG_HZ`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Clock {
    /// Jiffies per second; not 0.
    pub jiffies_per_second: u32,
}

impl Clock {
    /// Converts seconds, rounded up; at least 1 tick.
    ///
    /// For conditions of the form `elapsed > ticks`: they are never true before the time is over.
    /// Where the packet path compares `elapsed >= ticks`, use [`Self::ticks_to_reach`].
    #[must_use]
    pub const fn ticks(self, seconds: u32) -> Ticks {
        let jiffies = seconds as u64 * self.jiffies_per_second as u64;
        let ticks = jiffies.div_ceil(1 << TICK_SHIFT);
        Ticks(if ticks == 0 {
            1
        } else if ticks > u32::MAX as u64 {
            u32::MAX
        } else {
            ticks as u32
        })
    }

    /// Converts seconds for conditions of the form `elapsed >= ticks`.
    ///
    /// The result is one tick more than that of [`Self::ticks`]: the first tick had already begun
    /// when the time began to run, so `n` ticks are reached after little more than `n - 1`.
    #[must_use]
    pub const fn ticks_to_reach(self, seconds: u32) -> Ticks {
        self.ticks(seconds).saturating_add(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_rounded_up() {
        let clock = Clock { jiffies_per_second: 250 };
        assert_eq!([0, 1, 2, 10800].map(|seconds| clock.ticks(seconds)), [1, 1, 2, 10547].map(Ticks));
        let fast = Clock { jiffies_per_second: 1000 };
        assert_eq!(fast.ticks(u32::MAX), Ticks(16_777_216_000_u64.min(u64::from(u32::MAX)) as u32));
    }

    #[test]
    fn ticks_saturate() {
        assert_eq!(Ticks(u32::MAX).saturating_add(1), Ticks(u32::MAX));
        assert_eq!([0, 0xffff, 0x1_0000].map(|n| Ticks(n).saturating_u16()), [0, 0xffff, 0xffff]);
    }
}
