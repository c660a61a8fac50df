//! Decides which flows have ended: pure functions of state and idle time.
//!
//! Used by the sweep of the flow tables and by the count of connections. The timeouts are those of
//! the packet path. Reads no clock and no map.

use dataplane_common::types::clock::{TICK_SHIFT, Ticks};
use dataplane_common::types::flow::{Flow, FlowKey, flow_state};
use dataplane_common::types::service::proto;

/// Mask of the known bits of the present clock tick: the clock program returns 32 bits of jiffies.
const KNOWN: u32 = u32::MAX >> TICK_SHIFT;

/// The kind of a pair, seen from the direction that opened it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// TCP after the handshake.
    Established,
    /// TCP of which only the first packet was seen.
    HalfOpen,
    /// TCP after a FIN or RST.
    Closing,
    /// UDP, ICMP and all other protocols.
    Datagrams,
}

impl Kind {
    /// All kinds, in the order of their discriminants.
    pub const ALL: [Self; 4] = [Self::Established, Self::HalfOpen, Self::Closing, Self::Datagrams];

    /// Returns the value of the metric's label `state`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Established => "established",
            Self::HalfOpen => "half_open",
            Self::Closing => "closing",
            Self::Datagrams => "datagrams",
        }
    }

    /// Returns the kind of a pair from its two directions. One closing direction closes the pair.
    #[must_use]
    pub const fn of_pair(there: Half, back: Half) -> Self {
        match (there.kind(), back.kind()) {
            (Self::Closing, _) | (_, Self::Closing) => Self::Closing,
            (kind, _) => kind,
        }
    }
}

/// One direction of a pair.
#[derive(Clone, Copy, Debug)]
pub struct Half {
    /// IP protocol number ([`proto`]).
    protocol: u8,
    /// State of the entry, one of [`flow_state`].
    state: u8,
    /// Time since its last packet.
    idle: Ticks,
}

impl Half {
    /// Reads an entry. `now` is in ticks, of which the low 24 bits are used.
    #[must_use]
    pub const fn of<A>(key: &FlowKey<A>, flow: &Flow<A>, now: Ticks) -> Self {
        let passed = now.0.wrapping_sub(flow.last_seen) & KNOWN;
        // A packet that came after the clock was read has a `last_seen` in the future.
        let is_later = passed > KNOWN / 2;
        Self { protocol: key.proto, state: flow.state, idle: Ticks(if is_later { 0 } else { passed }) }
    }

    const fn is_reset(self) -> bool {
        self.protocol == proto::TCP && self.state == flow_state::RESET
    }

    /// Returns the kind by the state of this direction alone.
    #[must_use]
    pub const fn kind(self) -> Kind {
        match (self.protocol == proto::TCP, self.state) {
            (false, _) => Kind::Datagrams,
            (true, flow_state::NEW) => Kind::HalfOpen,
            (true, flow_state::ESTABLISHED) => Kind::Established,
            (true, _) => Kind::Closing,
        }
    }
}

/// Idle times after which a pair has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowTimeouts {
    established: Ticks,
    half_open: Ticks,
    closing: Ticks,
    closed: Ticks,
    datagrams: Ticks,
    exchange: Ticks,
}

impl FlowTimeouts {
    /// Takes the timeouts of the packet path. Shorter ones are derived from that of closing
    /// connections, because a pair can hold one of the node's ports.
    ///
    /// - Half: a half-open connection, and single datagrams (a question and its answer). Later
    ///   repetitions open a new pair, as after 30 s in the kernel's connection tracking
    ///   (`nf_conntrack_udp_timeout`).
    /// - A twelfth: connections that both ends have closed, or one has reset. The rest is for
    ///   segments that are repeated.
    #[must_use]
    pub const fn new(tcp: Ticks, closing: Ticks, datagrams: Ticks) -> Self {
        let half_open = Ticks(closing.0.div_ceil(2));
        let exchange = if half_open.0 < datagrams.0 { half_open } else { datagrams };
        Self { established: tcp, half_open, closing, closed: Ticks(closing.0.div_ceil(12)), datagrams, exchange }
    }

    /// Returns the timeouts for a nearly full table: a tenth, except for established connections. A
    /// pair that ends by the shorter timeout belongs to an attack or has almost ended anyway.
    #[must_use]
    pub fn under_pressure(self) -> Self {
        let tenth = |limit: Ticks| Ticks((limit.0 / 10).max(1));
        Self {
            established: self.established,
            half_open: tenth(self.half_open),
            closing: tenth(self.closing),
            closed: tenth(self.closed),
            datagrams: tenth(self.datagrams),
            exchange: tenth(self.exchange),
        }
    }

    const fn of_pair(&self, there: Half, back: Half) -> Ticks {
        match Kind::of_pair(there, back) {
            Kind::Established => self.established,
            Kind::HalfOpen => self.half_open,
            Kind::Closing if there.is_reset() || back.is_reset() => self.closed,
            Kind::Closing if matches!((there.kind(), back.kind()), (Kind::Closing, Kind::Closing)) => self.closed,
            Kind::Closing => self.closing,
            // No state is recorded of SCTP, whose associations are idle between heartbeats
            // (`HB.interval`, RFC 9260, section 16).
            Kind::Datagrams if there.protocol == proto::SCTP => self.datagrams,
            Kind::Datagrams if there.state == flow_state::NEW && back.state == flow_state::NEW => self.exchange,
            Kind::Datagrams => self.datagrams,
        }
    }

    /// Returns true if a direction has been idle for so long that its pair may have ended: if the
    /// other one has the same state.
    #[must_use]
    pub const fn may_have_ended(&self, half: Half) -> bool {
        half.idle.0 > self.of_pair(half, half).0
    }

    /// Returns true if a pair has ended. Traffic in one direction keeps the other, because they
    /// share their ports.
    #[must_use]
    pub const fn has_ended(&self, there: Half, back: Half) -> bool {
        let idle = if there.idle.0 < back.idle.0 { there.idle.0 } else { back.idle.0 };
        idle > self.of_pair(there, back).0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: FlowTimeouts = FlowTimeouts::new(Ticks(1000), Ticks(60), Ticks(100));

    fn tcp(state: u8, idle: u32) -> Half {
        Half { protocol: proto::TCP, state, idle: Ticks(idle) }
    }

    fn udp(idle: u32) -> Half {
        Half { protocol: proto::UDP, state: flow_state::NEW, idle: Ticks(idle) }
    }

    #[test]
    fn each_kind_has_its_timeout() {
        use flow_state::{CLOSING, ESTABLISHED, NEW, RESET};
        for (there, back, kind, limit) in [
            (ESTABLISHED, ESTABLISHED, Kind::Established, 1000),
            (NEW, NEW, Kind::HalfOpen, 30),
            // Answered by the server, but the client never confirms: a forged SYN.
            (NEW, ESTABLISHED, Kind::HalfOpen, 30),
            (CLOSING, ESTABLISHED, Kind::Closing, 60),
            (ESTABLISHED, CLOSING, Kind::Established, 60),
            (CLOSING, CLOSING, Kind::Closing, 5),
            (ESTABLISHED, RESET, Kind::Established, 5),
        ] {
            let ended = |idle| LIMITS.has_ended(tcp(there, idle), tcp(back, idle));
            assert_eq!((ended(limit), ended(limit + 1)), (false, true), "{there} {back}");
            assert_eq!(tcp(there, 0).kind(), kind);
            let found = |idle| LIMITS.may_have_ended(tcp(there, idle)) || LIMITS.may_have_ended(tcp(back, idle));
            assert!(found(limit + 1), "an ended pair is a candidate: {there} {back}");
        }
        // A question and its answer, and a longer exchange.
        assert!(!LIMITS.has_ended(udp(30), udp(30)) && LIMITS.has_ended(udp(31), udp(31)));
        let sctp = |idle| Half { protocol: proto::SCTP, ..udp(idle) };
        assert!(!LIMITS.has_ended(sctp(100), sctp(100)) && LIMITS.has_ended(sctp(101), sctp(101)));
        let assured = |idle| Half { state: ESTABLISHED, ..udp(idle) };
        assert!(!LIMITS.has_ended(assured(100), udp(100)) && LIMITS.has_ended(udp(101), assured(101)));
    }

    #[test]
    fn traffic_in_one_direction_keeps_the_pair() {
        assert!(!LIMITS.has_ended(udp(5000), udp(3)) && !LIMITS.has_ended(udp(3), udp(5000)));
        // The server has closed; the client is still sending.
        assert!(!LIMITS.has_ended(tcp(flow_state::ESTABLISHED, 3), tcp(flow_state::CLOSING, 500)));
    }

    #[test]
    fn pressure_shortens_all_but_established() {
        let pressed = LIMITS.under_pressure();
        let ended = |timeouts: &FlowTimeouts, state| timeouts.has_ended(tcp(state, 50), tcp(state, 50));
        for state in [flow_state::NEW, flow_state::CLOSING, flow_state::RESET] {
            assert!(ended(&pressed, state), "{state}");
        }
        assert!(!ended(&pressed, flow_state::ESTABLISHED));
        assert!(pressed.has_ended(udp(4), udp(4)) && !pressed.has_ended(udp(3), udp(3)));
    }

    #[test]
    fn idle_time_follows_from_24_bits_of_the_clock() {
        let key = FlowKey { src: [0_u8; 4], dst: [0; 4], sport: 1, dport: 2, proto: proto::UDP, pad: [0; 3] };
        let flow = |last_seen| Flow {
            src: [0_u8; 4],
            dst: [0; 4],
            sport: 1,
            dport: 2,
            iif: 0,
            oif: 0,
            backend: 0,
            generation: 0,
            last_seen,
            epoch: 0,
            state: 0,
            flags: 0,
            seq: 0,
        };
        // The full tick is 0x7f00_0005, of which 24 bits are known.
        assert_eq!(Half::of(&key, &flow(0x7eff_fffe), Ticks(0x00_0005)).idle, Ticks(7));
        // A packet came in the tick after the clock was read.
        assert_eq!(Half::of(&key, &flow(0x7f00_0006), Ticks(0x00_0005)).idle, Ticks(0));
        assert_eq!(Half::of(&key, &flow(0x7f00_0000), Ticks(0xff_ffff)).idle, Ticks(0));
    }
}
