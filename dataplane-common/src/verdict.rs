//! The verdict on a packet, packed into a `u64`.
//!
//! BPF-to-BPF calls return one register, and a verdict travels between programs as two words of
//! `skb->cb`. An enum with payloads does not survive the verifier: LLVM spills the payload's
//! register on branches that never set it (`R5 !read_ok`).

use crate::packet::access::Packet;
use crate::types::event::DropReason;
use crate::types::pod::{AddressInfo, address_flags};
use crate::types::stage::Stage;

/// The action on a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Action {
    /// Continue in the host's stack.
    Pass,
    /// Drop the packet and count the reason.
    Drop,
    /// Deliver into a pod, bypassing the queue of its veth (`bpf_redirect_peer`).
    ToPod,
    /// Send by a device to the next hop of the host's routes (`bpf_redirect_neigh`).
    ToUplink,
    /// Translate by a flow, which decides where the packet goes. Used only between functions;
    /// never a final action.
    Translate,
    /// The packet has become the answer to its sender: send it back by the interface that it came
    /// from. Counted as the drop of the original packet.
    Reply,
}

/// An [`Action`], its detail, and possibly the [`Stage`] that decides instead.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Verdict(u64);

/// Position of the stage. Bits of a verdict: 0-31 detail, 32-39 action, 40-47 stage.
const STAGE: u32 = 40;

impl Verdict {
    /// Continue in the host's stack.
    pub const PASS: Self = Self::new(Action::Pass, 0);
    /// Translate by a flow; see [`Action::Translate`].
    pub const TRANSLATE: Self = Self::new(Action::Translate, 0);

    const fn new(action: Action, detail: u32) -> Self {
        Self((action as u64) << 32 | detail as u64)
    }

    /// Returns the verdict to drop a packet and count the reason.
    #[inline(always)]
    #[must_use]
    pub const fn drop(reason: DropReason) -> Self {
        Self::new(Action::Drop, reason as u32)
    }

    /// Returns the verdict to answer with a TCP reset or an ICMP error ([`Stage::Reject`]), or to
    /// drop if the sender cannot be answered.
    #[inline(always)]
    #[must_use]
    pub const fn reject(reason: DropReason) -> Self {
        Self::drop(reason).then(Stage::Reject)
    }

    /// Returns the verdict to tell the sender that the packet exceeds `mtu` (bytes, at most 24
    /// bits: the reason takes the low eight).
    #[inline(always)]
    #[must_use]
    pub const fn too_big(mtu: u32) -> Self {
        Self::new(Action::Drop, DropReason::TooBig as u32 | mtu << 8).then(Stage::Reject)
    }

    /// Returns the verdict with which [`Stage::PortReuse`] takes back a port from a flow to this
    /// backend; 0: to the destination of the packet.
    #[inline(always)]
    #[must_use]
    pub const fn take_port(backend: u32) -> Self {
        Self::new(Action::Pass, backend).then(Stage::PortReuse)
    }

    /// Returns the verdict with which [`Stage::Judge`] decides about a new flow to this backend; 0:
    /// to a host port, or out of the cluster.
    #[inline(always)]
    #[must_use]
    pub const fn judge(backend: u32) -> Self {
        Self::new(Action::Translate, backend).then(Stage::Judge)
    }

    /// Returns a refusal as a plain number, which the verifier can forget; 0 if there is none.
    #[inline(always)]
    #[must_use]
    pub const fn refusal(reason: Option<DropReason>) -> u32 {
        match reason {
            Some(reason) => reason as u32,
            None => 0,
        }
    }

    /// Returns the verdict to drop a packet for a refusal, a number of [`Self::refusal`] but 0.
    #[inline(always)]
    #[must_use]
    pub const fn refused(refusal: u32) -> Self {
        Self::new(Action::Drop, refusal)
    }

    /// Returns the interface index of the pod to which the verdict may deliver, which a device that
    /// leads out of the node is not; else 0.
    #[inline(always)]
    #[must_use]
    pub const fn pod(self) -> u32 {
        if matches!(self.action(), Action::ToPod | Action::ToUplink) { self.ifindex() } else { 0 }
    }

    /// Returns the backend of [`Self::take_port`] or [`Self::judge`].
    #[inline(always)]
    #[must_use]
    pub const fn backend(self) -> u32 {
        self.0 as u32
    }

    /// Returns the verdict to send the packet, which has become the answer, back.
    #[inline(always)]
    #[must_use]
    pub const fn reply(self) -> Self {
        Self::new(Action::Reply, self.reason())
    }

    /// Returns the verdict to deliver to the pod behind this host-side interface.
    #[inline(always)]
    #[must_use]
    pub const fn to_pod(ifindex: u32) -> Self {
        Self::new(Action::ToPod, ifindex)
    }

    /// Returns the verdict to deliver to the pod with this address, through the queue of its veth
    /// if that limits what the pod receives.
    #[inline(always)]
    #[must_use]
    pub const fn to_pod_of(addr: &AddressInfo) -> Self {
        // Arithmetic on the action's number instead of a branch: the verifier would follow the rest
        // of the program twice, once for each kind of pod.
        const _: () = assert!(Action::ToUplink as u32 == Action::ToPod as u32 + 1);
        let queue = (addr.flags & address_flags::SHAPED) / address_flags::SHAPED;
        Self((Action::ToPod as u64 + queue as u64) << 32 | addr.ifindex as u64)
    }

    /// Returns the verdict to send by this device.
    #[inline(always)]
    #[must_use]
    pub const fn to_uplink(ifindex: u32) -> Self {
        Self::new(Action::ToUplink, ifindex)
    }

    /// Adds a stage: the program tail-calls `stage`, which gets this verdict and decides.
    #[inline(always)]
    #[must_use]
    pub const fn then(self, stage: Stage) -> Self {
        Self(self.0 & ((1 << STAGE) - 1) | (stage as u64) << STAGE)
    }

    /// Returns the stage to which the program tail-calls, which decides instead; `None` if the
    /// verdict is final.
    #[inline(always)]
    #[must_use]
    pub const fn stage(self) -> Option<Stage> {
        Stage::from_number(self.0 >> STAGE)
    }

    /// Returns the same verdict if `n` is 0, [`Self::PASS`] if it is 1, without a branch.
    #[inline(always)]
    #[must_use]
    pub const fn pass_if(self, n: u32) -> Self {
        const _: () = assert!(Verdict::PASS.0 == 0);
        Self(self.0 & (n as u64).wrapping_sub(1))
    }

    /// Returns action and detail without the stage.
    #[inline(always)]
    #[must_use]
    pub const fn without_stage(self) -> Self {
        Self(self.0 & ((1 << STAGE) - 1))
    }

    /// Returns the high and the low half, for `skb->cb`.
    #[inline(always)]
    #[must_use]
    pub const fn to_u32_pair(self) -> [u32; 2] {
        [(self.0 >> 32) as u32, self.0 as u32]
    }

    /// Converts from the halves of [`Self::to_u32_pair`].
    #[inline(always)]
    #[must_use]
    pub const fn from_u32_pair([high, low]: [u32; 2]) -> Self {
        Self((high as u64) << 32 | low as u64)
    }

    /// Returns the same verdict with its value hidden from the verifier, so that the branches that
    /// led to it are explored further as one ([`Packet::scrub_verifier_state`]).
    #[inline(always)]
    #[must_use]
    pub fn scrub_verifier_state<P: Packet>(self, packet: &mut P) -> Self {
        Self::from_u32_pair(self.to_u32_pair().map(|half| packet.scrub_verifier_state(half)))
    }

    /// Returns the action; unknown numbers are [`Action::Pass`].
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

    /// Returns the interface index of `ToPod` (the pod's host-side veth) and `ToUplink`.
    #[inline(always)]
    #[must_use]
    pub const fn ifindex(self) -> u32 {
        self.0 as u32
    }

    /// Returns the number of the [`DropReason`] of `Drop` and `Reply`.
    #[inline(always)]
    #[must_use]
    pub const fn reason(self) -> u32 {
        self.0 as u32 & 0xff
    }

    /// Returns the MTU of [`Self::too_big`], bytes.
    #[inline(always)]
    #[must_use]
    pub const fn mtu(self) -> u32 {
        (self.0 as u32) >> 8
    }
}
