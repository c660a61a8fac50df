//! The limit of answers that the programs send to rejected packets: resets and ICMP errors.
//!
//! A forged source directs the answers at somebody else, and each costs time of this node. So each
//! CPU answers [`PER_TICK`] packets a tick, as the kernel limits its own ICMP errors
//! (`net.ipv4.icmp_msgs_per_sec`). A packet beyond that is dropped and counted as others are.

/// Number of packets that a CPU answers in a tick ([`super::clock`]), for each [`AnswerKind`].
pub const PER_TICK: u32 = 1000;

/// The kind of an answer: index into the per-CPU array `answers`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum AnswerKind {
    /// A TCP reset, or "port unreachable".
    Refused,
    /// "Fragmentation needed" or "packet too big". Apart, because a connection hangs without it.
    TooBig,
}

impl AnswerKind {
    /// Number of kinds.
    pub const COUNT: usize = 2;
}

/// The answers of one CPU in the present tick: element of `answers`.
#[cfg_attr(feature = "host", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct AnswerBudget {
    /// The tick, as of [`crate::maps::SharedMaps::now`].
    pub tick: u32,
    /// Number of answers in it.
    pub used: u32,
}

impl AnswerBudget {
    /// Counts one more answer; returns false if it must not be sent.
    #[inline(always)]
    #[must_use]
    pub const fn take(&mut self, now: u32) -> bool {
        if self.tick != now {
            (self.tick, self.used) = (now, 0);
        }
        let has_room = self.used < PER_TICK;
        self.used += has_room as u32;
        has_room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_tick_has_its_answers() {
        let mut budget = AnswerBudget::default();
        for tick in [0, 1, u32::MAX] {
            assert!((0..PER_TICK).all(|_| budget.take(tick)));
            assert!(!budget.take(tick) && !budget.take(tick), "tick {tick}");
        }
    }
}
