//! BPF programs on the clsact hooks of a device (tc).
//!
//! Pod devices use filters and not tcx links, because a filter is attached without waiting for a
//! grace period, is replaced atomically and is removed with its device. Ropeway's filters have
//! [`FILTER_PRIORITY`] and [`FILTER_HANDLE`]; no other filter is changed. Written by hand: aya's tc
//! support cannot share the plugin's datagram or take a pinned program.

use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcHeader, TcMessage, TcOption,
};

use super::{IfIndex, NetlinkError, NetlinkRequest, Socket};

/// Priority of our filters ("RW"): far from those that other tools use by default.
pub const FILTER_PRIORITY: u16 = 0x5257;
/// Handle of our filters.
pub const FILTER_HANDLE: u32 = 1;

/// The hook of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Packets that the device has received.
    Ingress,
    /// Packets that the device is about to send.
    Egress,
}

/// A filter as the kernel shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Index of the device.
    pub index: IfIndex,
    /// The clsact hook to which the filter is attached.
    pub direction: Direction,
    /// Order among the filters of the hook.
    pub priority: u16,
    /// Number within the priority.
    pub handle: u32,
    /// Kind of the classifier; `bpf` for programs.
    pub kind: String,
    /// Name given when it was attached.
    pub name: Option<String>,
    /// Id of the program.
    pub program: Option<u32>,
    /// The program's return value is the verdict.
    pub direct_action: bool,
}

impl Filter {
    /// Returns whether it has the priority and handle of Ropeway's filters.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.priority == FILTER_PRIORITY && self.handle == FILTER_HANDLE && self.kind == TcFilterBpf::KIND
    }
}

impl Direction {
    const fn parent(self) -> TcHandle {
        let minor = match self {
            Self::Ingress => TcHandle::MIN_INGRESS,
            Self::Egress => TcHandle::MIN_EGRESS,
        };
        TcHandle { major: TcHandle::CLSACT.major, minor }
    }
}

fn device(index: IfIndex) -> i32 {
    index.0.cast_signed()
}

/// Adds the clsact hooks unless the device has them.
#[must_use]
pub fn add_clsact(index: IfIndex) -> NetlinkRequest {
    let mut message = TcMessage::with_index(device(index));
    message.header.handle = TcHandle { major: TcHandle::CLSACT.major, minor: 0 };
    message.header.parent = TcHandle::CLSACT;
    message.attributes = vec![TcAttribute::Kind("clsact".into())];
    NetlinkRequest::ensure(RouteNetlinkMessage::NewQueueDiscipline(message), format!("device {index}: add clsact"))
}

fn filter_message(index: IfIndex, direction: Direction) -> TcMessage {
    let all_protocols = 3_u16.to_be(); // ETH_P_ALL
    let mut message = TcMessage::with_index(device(index));
    message.header = TcHeader {
        index: device(index),
        handle: TcHandle::from(FILTER_HANDLE),
        parent: direction.parent(),
        info: u32::from(FILTER_PRIORITY) << 16 | u32::from(all_protocols),
        ..TcHeader::default()
    };
    message.attributes = vec![TcAttribute::Kind(TcFilterBpf::KIND.into())];
    message
}

/// Attaches a program in direct-action mode and replaces Ropeway's previous one, if any. The
/// descriptor must stay open until the request has run.
#[must_use]
pub fn replace_filter(index: IfIndex, direction: Direction, name: &str, program: BorrowedFd<'_>) -> NetlinkRequest {
    let mut message = filter_message(index, direction);
    message.attributes.push(TcAttribute::Options(vec![
        TcOption::Bpf(TcFilterBpfOption::ProgFd(program.as_raw_fd().cast_unsigned())),
        TcOption::Bpf(TcFilterBpfOption::ProgName(name.into())),
        TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
    ]));
    let attempt = format!("device {index}: attach {name} to {direction:?}");
    NetlinkRequest::replace(RouteNetlinkMessage::NewTrafficFilter(message), attempt)
}

/// Detaches our program from a hook.
#[must_use]
pub fn delete_filter(index: IfIndex, direction: Direction) -> NetlinkRequest {
    let message = filter_message(index, direction);
    let attempt = format!("device {index}: detach from {direction:?}");
    NetlinkRequest::change(RouteNetlinkMessage::DelTrafficFilter(message), attempt)
}

impl Socket {
    /// Lists the filters on a device's clsact hooks, Ropeway's and others. A device without clsact
    /// has none.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn filters(&mut self, index: IfIndex) -> Result<Vec<Filter>, NetlinkError> {
        let mut filters = Vec::new();
        for direction in [Direction::Ingress, Direction::Egress] {
            let mut message = TcMessage::with_index(device(index));
            message.header.parent = direction.parent();
            let attempt = format!("device {index}: list filters of {direction:?}");
            let request = NetlinkRequest::dump(RouteNetlinkMessage::GetTrafficFilter(message), &attempt);
            for message in self.dump(&request)? {
                if let RouteNetlinkMessage::NewTrafficFilter(message) = message {
                    filters.extend(from_message(message, direction));
                }
            }
        }
        Ok(filters)
    }
}

/// Parses a filter. The kernel also lists each priority as a whole, with handle 0, which is not a
/// filter.
fn from_message(message: TcMessage, direction: Direction) -> Option<Filter> {
    let handle = u32::from(message.header.handle);
    let mut filter = Filter {
        index: IfIndex(message.header.index.cast_unsigned()),
        direction,
        priority: (message.header.info >> 16) as u16,
        handle,
        kind: String::new(),
        name: None,
        program: None,
        direct_action: false,
    };
    for attribute in message.attributes {
        match attribute {
            TcAttribute::Kind(kind) => filter.kind = kind,
            TcAttribute::Options(options) => {
                for option in options {
                    match option {
                        TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => filter.name = Some(name),
                        TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => filter.program = Some(id),
                        TcOption::Bpf(TcFilterBpfOption::Flags(flags)) => {
                            filter.direct_action = flags.contains(TcBpfFlags::DirectAction);
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    (handle != 0).then_some(filter)
}
