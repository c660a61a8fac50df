//! A token bucket (`tbf`) on what a device sends: early packets wait up to 25 ms, further ones are
//! dropped.
//!
//! The plugin sets it on both ends of a pod's veth, for the capability `bandwidth`. Written by
//! hand: netlink-packet-route does not know the attributes of `tbf`.

use std::fmt;
use std::time::Duration;

use netlink_packet_core::{DefaultNla, Nla, NlasIterator};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcOption};

use super::{IfIndex, NetlinkError, NetlinkRequest, Socket};

const KIND: &str = "tbf";
/// Major handle of Ropeway's queueing disciplines ("RW").
const MAJOR: u16 = 0x5257;
/// Longest wait of a packet.
const LATENCY: Duration = Duration::from_millis(25);

// Attributes and the layout of `struct tc_tbf_qopt`: include/uapi/linux/pkt_sched.h.
const OPTIONS: u16 = 2;
const PARMS: u16 = 1;
const RATE64: u16 = 4;
const BURST: u16 = 6;
const PARMS_BYTES: usize = 36;
const ETHERNET: u8 = 1;

/// A limit of what a device sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Bytes a second, headers included.
    pub bytes_per_second: u64,
    /// Bytes that may be sent at once after a pause.
    pub burst: u32,
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes a second", self.bytes_per_second)
    }
}

impl Rate {
    /// Returns the bytes that may wait: those sent within [`LATENCY`], and a burst.
    fn limit(self) -> u32 {
        let waiting = u128::from(self.bytes_per_second) * LATENCY.as_millis() / 1000;
        u32::try_from(waiting).unwrap_or(u32::MAX).saturating_add(self.burst)
    }
}

/// Limits the traffic that a device sends. Replaces its root queueing discipline.
#[must_use]
pub fn set_rate(index: IfIndex, rate: Rate) -> NetlinkRequest {
    let rate32 = u32::try_from(rate.bytes_per_second).unwrap_or(u32::MAX);
    let mut parms = vec![0; PARMS_BYTES];
    parms[1] = ETHERNET;
    parms[8..12].copy_from_slice(&rate32.to_ne_bytes());
    parms[24..28].copy_from_slice(&rate.limit().to_ne_bytes());
    let mut options = vec![
        TcOption::Other(DefaultNla::new(PARMS, parms)),
        TcOption::Other(DefaultNla::new(BURST, rate.burst.to_ne_bytes().to_vec())),
    ];
    if rate32 == u32::MAX {
        let wide = rate.bytes_per_second.to_ne_bytes().to_vec();
        options.push(TcOption::Other(DefaultNla::new(RATE64, wide)));
    }
    let mut message = TcMessage::with_index(index.0.cast_signed());
    message.header.handle = TcHandle { major: MAJOR, minor: 0 };
    message.header.parent = TcHandle::ROOT;
    message.attributes = vec![TcAttribute::Kind(KIND.into()), TcAttribute::Options(options)];
    let attempt = format!("device {index}: limit to {rate}");
    NetlinkRequest::replace(RouteNetlinkMessage::NewQueueDiscipline(message), attempt)
}

impl Socket {
    /// Returns the rate in bytes a second to which [`set_rate`] limits a device.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn rate(&mut self, index: IfIndex) -> Result<Option<u64>, NetlinkError> {
        let message = TcMessage::with_index(index.0.cast_signed());
        let attempt = format!("device {index}: list queueing disciplines");
        let request = NetlinkRequest::dump(RouteNetlinkMessage::GetQueueDiscipline(message), &attempt);
        let all = self.dump(&request)?.into_iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewQueueDiscipline(message) => Some(message),
            _ => None,
        });
        let ours = |m: &TcMessage| m.header.index == index.0.cast_signed() && m.header.handle.major == MAJOR;
        Ok(all.filter(ours).find_map(|message| rate_of(&message)))
    }
}

fn rate_of(message: &TcMessage) -> Option<u64> {
    let options = message.attributes.iter().find_map(|a| match a {
        TcAttribute::Options(options) => Some(options),
        _ => None,
    })?;
    let mut all = Vec::new();
    for option in options {
        let TcOption::Other(nla) = option else { continue };
        let mut bytes = vec![0; nla.value_len()];
        nla.emit_value(&mut bytes);
        if nla.kind() == OPTIONS {
            // The library keeps attributes that it does not know in one piece.
            let inner = NlasIterator::new(&bytes).filter_map(Result::ok);
            all.extend(inner.map(|nla| (nla.kind(), nla.value().to_vec())));
        } else {
            all.push((nla.kind(), bytes));
        }
    }
    let value = |kind| all.iter().find(|(k, _)| *k == kind).map(|(_, bytes)| bytes.clone());
    if let Some(wide) = value(RATE64) {
        return Some(u64::from_ne_bytes(wide.try_into().ok()?));
    }
    let parms = value(PARMS)?;
    Some(u32::from_ne_bytes(parms.get(8..12)?.try_into().ok()?).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_is_read_as_it_was_set() {
        for bytes_per_second in [1, 125_000, u64::from(u32::MAX) + 1, 12_500_000_000] {
            let request = set_rate(IfIndex(7), Rate { bytes_per_second, burst: 100_000 });
            let RouteNetlinkMessage::NewQueueDiscipline(message) = &request.message else { panic!("{request:?}") };
            assert_eq!(rate_of(message), Some(bytes_per_second));
        }
        assert_eq!(Rate { bytes_per_second: 1_000_000, burst: 5000 }.limit(), 30_000);
        assert_eq!(Rate { bytes_per_second: u64::MAX, burst: 1 }.limit(), u32::MAX);
    }
}
