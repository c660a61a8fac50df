//! What becomes of a packet, in one number, because that is what a function of a kernel program can return and what fits beside
//! a packet on its way from one program to the next.

use crate::packet::access::Packet;
use crate::types::event::DropReason;
use crate::types::pod::{AddressInfo, address_flags};
use crate::types::stage::Stage;

/// What is done with a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Action {
    /// On through the host's own stack.
    Pass,
    /// Gone, and counted.
    Drop,
    /// Into a pod, past the queue of its device.
    ToPod,
    /// Out of a device, to the next hop that the host's routes name.
    ToUplink,
    /// It has a flow now, which says where it goes: only between functions, never the end.
    Translate,
    /// It has become the answer to its sender, and goes back by the interface that it came from; counted as the drop of what it was.
    Reply,
}

/// What becomes of a packet: an [`Action`], its detail, and possibly the [`Stage`] that has the last word.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Verdict(u64);

/// Bits of a verdict: 0-31 detail, 32-39 action, 40-47 stage.
const STAGE: u32 = 40;

impl Verdict {
    /// On through the host's own stack.
    pub const PASS: Self = Self::new(Action::Pass, 0);
    /// See [`Action::Translate`].
    pub const TRANSLATE: Self = Self::new(Action::Translate, 0);

    const fn new(action: Action, detail: u32) -> Self {
        Self((action as u64) << 32 | detail as u64)
    }

    /// Gone, and counted.
    #[inline(always)]
    #[must_use]
    pub const fn drop(reason: DropReason) -> Self {
        Self::new(Action::Drop, reason as u32)
    }

    /// Gone if [`Stage::Reject`] can't tell its sender so.
    #[inline(always)]
    #[must_use]
    pub const fn reject(reason: DropReason) -> Self {
        Self::drop(reason).then(Stage::Reject)
    }

    /// As [`Self::reject`]: it is larger than `mtu`, bytes.
    #[inline(always)]
    #[must_use]
    pub const fn too_big(mtu: u32) -> Self {
        Self::new(Action::Drop, DropReason::TooBig as u32 | mtu << 8).then(Stage::Reject)
    }

    /// The same packet, which is now the answer.
    #[inline(always)]
    #[must_use]
    pub const fn reply(self) -> Self {
        Self::new(Action::Reply, self.reason())
    }

    /// Into the pod behind this host-side interface.
    #[inline(always)]
    #[must_use]
    pub const fn to_pod(ifindex: u32) -> Self {
        Self::new(Action::ToPod, ifindex)
    }

    /// Into the pod that has an address: through the queue of its device if that limits what the pod receives.
    #[inline(always)]
    #[must_use]
    pub const fn to_pod_of(addr: &AddressInfo) -> Self {
        // no branch, which the verifier would follow to the end for either kind of pod
        const _: () = assert!(Action::ToUplink as u32 == Action::ToPod as u32 + 1);
        let queue = (addr.flags & address_flags::SHAPED) / address_flags::SHAPED;
        Self((Action::ToPod as u64 + queue as u64) << 32 | addr.ifindex as u64)
    }

    /// Out of this device.
    #[inline(always)]
    #[must_use]
    pub const fn to_uplink(ifindex: u32) -> Self {
        Self::new(Action::ToUplink, ifindex)
    }

    /// The same verdict, unless `stage` replaces it.
    #[inline(always)]
    #[must_use]
    pub const fn then(self, stage: Stage) -> Self {
        Self(self.0 & ((1 << STAGE) - 1) | (stage as u64) << STAGE)
    }

    /// Returns the stage that decides instead, if any.
    #[inline(always)]
    #[must_use]
    pub const fn stage(self) -> Option<Stage> {
        Stage::from_number(self.0 >> STAGE)
    }

    /// The same if `n` is 0, [`Self::PASS`] if it is 1.
    #[inline(always)]
    #[must_use]
    pub const fn pass_if(self, n: u32) -> Self {
        const _: () = assert!(Verdict::PASS.0 == 0);
        Self(self.0 & (n as u64).wrapping_sub(1))
    }

    /// The same as the last word.
    #[inline(always)]
    #[must_use]
    pub const fn without_stage(self) -> Self {
        Self(self.0 & ((1 << STAGE) - 1))
    }

    /// Its high and its low half.
    #[inline(always)]
    #[must_use]
    pub const fn to_u32_pair(self) -> [u32; 2] {
        [(self.0 >> 32) as u32, self.0 as u32]
    }

    /// From [`Self::to_u32_pair`].
    #[inline(always)]
    #[must_use]
    pub const fn from_u32_pair([high, low]: [u32; 2]) -> Self {
        Self((high as u64) << 32 | low as u64)
    }

    /// The same, without what the verifier knows of how it came about: of the many ways to it the verifier follows one on.
    #[inline(always)]
    #[must_use]
    pub fn scrub_verifier_state<P: Packet>(self, packet: &mut P) -> Self {
        Self::from_u32_pair(self.to_u32_pair().map(|half| packet.scrub_verifier_state(half)))
    }

    /// What is done.
    #[inline(always)]
    #[must_use]
    pub const fn action(self) -> Action {
        const DROP: u32 = Action::Drop as u32;
        const TO_POD: u32 = Action::ToPod as u32;
        const TO_UPLINK: u32 = Action::ToUplink as u32;
        const TRANSLATE: u32 = Action::Translate as u32;
        const REPLY: u32 = Action::Reply as u32;
        match (self.0 >> 32) as u32 & 0xff {
            DROP => Action::Drop,
            TO_POD => Action::ToPod,
            TO_UPLINK => Action::ToUplink,
            TRANSLATE => Action::Translate,
            REPLY => Action::Reply,
            _ => Action::Pass,
        }
    }

    /// `ToPod`, `ToUplink`: the interface (of a pod, its host-side veth).
    #[inline(always)]
    #[must_use]
    pub const fn ifindex(self) -> u32 {
        self.0 as u32
    }

    /// `Drop`, `Reply`: the number of the [`DropReason`].
    #[inline(always)]
    #[must_use]
    pub const fn reason(self) -> u32 {
        self.0 as u32 & 0xff
    }

    /// [`Self::too_big`]: the MTU, bytes.
    #[inline(always)]
    #[must_use]
    pub const fn mtu(self) -> u32 {
        (self.0 as u32) >> 8
    }
}
