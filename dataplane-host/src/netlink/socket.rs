//! The netlink socket: sends requests, checks sequence numbers, collects acknowledgements and
//! listings.
//!
//! Blocking. One socket serves one thread; a request's error names what was attempted.

use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_core::{NLM_F_DUMP_INTR, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket as RawSocket, SocketAddr, protocols::NETLINK_ROUTE};

use super::{NetlinkError, NetlinkRequest};

/// The kernel's answers are never longer (`NLMSG_GOODSIZE` and the largest listing datagram, 32
/// KiB).
const BUFFER: usize = 64 << 10;
/// Requests in one datagram: as many errors still fit into the socket's buffer, and so do the
/// requests.
const BATCH: usize = 128;
/// Number of attempts at a listing that changed while it was read (`NLM_F_DUMP_INTR`).
const DUMP_ATTEMPTS: usize = 16;

/// A blocking rtnetlink socket of one network namespace.
#[derive(Debug)]
pub struct Socket {
    raw: RawSocket,
    sequence: u32,
    buffer: Vec<u8>,
}

/// The meaning of one message of an answer for its request.
enum Response {
    Done,
    Error(NetlinkError),
    Item(RouteNetlinkMessage),
    Foreign,
}

impl Socket {
    /// Opens a socket in the network namespace of the calling thread.
    ///
    /// # Errors
    /// The kernel gives no socket.
    pub fn open() -> Result<Self, NetlinkError> {
        let open = || {
            let mut socket = RawSocket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            socket.set_ext_ack(true)?;
            socket.set_cap_ack(true)?;
            socket.set_netlink_get_strict_chk(true)?;
            Ok(socket)
        };
        let socket = open().map_err(|e| NetlinkError::socket("open", e))?;
        Ok(Self { raw: socket, sequence: 0, buffer: Vec::with_capacity(BUFFER) })
    }

    /// Sends the requests, many in one datagram, and waits for the last one's acknowledgement. The
    /// kernel works on all of them, in order, also after one of them failed.
    ///
    /// # Errors
    /// The first error.
    pub fn run(&mut self, requests: &[NetlinkRequest]) -> Result<(), NetlinkError> {
        self.run_each(requests).into_iter().next().map_or(Ok(()), |(_, error)| Err(error))
    }

    /// Runs the requests like [`Self::run`], and returns every error with the position of its
    /// request.
    pub fn run_each(&mut self, requests: &[NetlinkRequest]) -> Vec<(usize, NetlinkError)> {
        let mut errors = Vec::new();
        for (number, part) in requests.chunks(BATCH).enumerate() {
            errors.extend(self.run_part(part).into_iter().map(|(i, e)| (number * BATCH + i, e)));
        }
        errors
    }

    fn run_part(&mut self, requests: &[NetlinkRequest]) -> Vec<(usize, NetlinkError)> {
        let Some(last) = requests.len().checked_sub(1) else { return Vec::new() };
        let first = self.sequence.wrapping_add(1);
        let mut datagram = Vec::with_capacity(256 * requests.len());
        for (i, request) in requests.iter().enumerate() {
            request.write(first.wrapping_add(i as u32), i == last, &mut datagram);
        }
        self.sequence = first.wrapping_add(last as u32);
        let attempt = |i: usize| requests[i].attempt.as_str();
        let mut errors = Vec::new();
        if let Err(e) = self.raw.send(&datagram, 0) {
            return vec![(0, NetlinkError::socket(attempt(0), e))];
        }
        loop {
            let mut answered = false;
            let result = self.receive(attempt(last), |header_sequence, _, payload| {
                let i = header_sequence.wrapping_sub(first) as usize;
                if i > last {
                    return;
                }
                match response(attempt(i), payload) {
                    Response::Error(e) => errors.push((i, e)),
                    Response::Done | Response::Item(_) | Response::Foreign => {}
                }
                answered |= i == last;
            });
            match result {
                Ok(()) if answered => return errors,
                Ok(()) => {}
                Err(e) => {
                    errors.push((last, e));
                    return errors;
                }
            }
        }
    }

    /// Sends one request and returns the messages of the answer, for requests that ask for an
    /// object.
    pub(super) fn get(&mut self, request: &NetlinkRequest) -> Result<Option<RouteNetlinkMessage>, NetlinkError> {
        let (items, _) = self.collect(request, true)?;
        Ok(items.into_iter().next())
    }

    /// Lists a whole table; repeats the listing if the table changed meanwhile.
    pub(super) fn dump(&mut self, request: &NetlinkRequest) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        for _ in 0..DUMP_ATTEMPTS {
            let (items, interrupted) = self.collect(request, false)?;
            if !interrupted {
                return Ok(items);
            }
        }
        Err(NetlinkError::Interrupted { attempt: request.attempt.clone() })
    }

    fn collect(
        &mut self,
        request: &NetlinkRequest,
        acknowledge: bool,
    ) -> Result<(Vec<RouteNetlinkMessage>, bool), NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        let mut datagram = Vec::with_capacity(128);
        request.write(sequence, acknowledge, &mut datagram);
        self.raw.send(&datagram, 0).map_err(|e| NetlinkError::socket(&request.attempt, e))?;
        let (mut items, mut interrupted, mut done, mut error) = (Vec::new(), false, false, None);
        while !done {
            self.receive(&request.attempt, |got, flags, payload| {
                if got != sequence {
                    return;
                }
                interrupted |= flags & NLM_F_DUMP_INTR != 0;
                match response(&request.attempt, payload) {
                    Response::Done => done = true,
                    Response::Error(e) => {
                        done = true;
                        error = Some(e);
                    }
                    Response::Item(m) => items.push(m),
                    Response::Foreign => {}
                }
            })?;
        }
        error.map_or(Ok((items, interrupted)), Err)
    }

    /// Reads one datagram and hands out its messages: sequence number, flags, payload.
    fn receive(
        &mut self,
        attempt: &str,
        mut each: impl FnMut(u32, u16, NetlinkPayload<RouteNetlinkMessage>),
    ) -> Result<(), NetlinkError> {
        read(&self.raw, &mut self.buffer, attempt)?;
        for message in messages(&self.buffer) {
            let message = message.map_err(|e| NetlinkError::answer(attempt, e))?;
            let (header, payload) = message.into_parts();
            each(header.sequence_number, header.flags, payload);
        }
        Ok(())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.raw.as_fd()
    }
}

fn response(attempt: &str, payload: NetlinkPayload<RouteNetlinkMessage>) -> Response {
    match payload {
        NetlinkPayload::Done(done) if done.code == 0 => Response::Done,
        NetlinkPayload::Done(done) => Response::Error(NetlinkError::Refused {
            attempt: attempt.into(),
            text: String::new(),
            source: std::io::Error::from_raw_os_error(done.code.abs()),
        }),
        NetlinkPayload::Error(e) if e.code.is_none() => Response::Done,
        NetlinkPayload::Error(e) => Response::Error(NetlinkError::refused(attempt, &e)),
        NetlinkPayload::InnerMessage(m) => Response::Item(m),
        _ => Response::Foreign,
    }
}

/// Reads one datagram into `buffer`, replacing its content.
pub(super) fn read(socket: &RawSocket, buffer: &mut Vec<u8>, attempt: &str) -> Result<(), NetlinkError> {
    buffer.clear();
    buffer.reserve(BUFFER);
    loop {
        // The length of the kernel's datagram, also where the buffer is too short for it.
        match socket.recv(buffer, libc::MSG_TRUNC) {
            Ok(n) if n > buffer.len() => return Err(NetlinkError::answer(attempt, format!("{n} bytes at once"))),
            Ok(_) => return Ok(()),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => buffer.clear(),
            Err(e) => return Err(NetlinkError::socket(attempt, e)),
        }
    }
}

/// Cuts a datagram into its messages.
pub(super) fn messages(
    datagram: &[u8],
) -> impl Iterator<Item = Result<NetlinkMessage<RouteNetlinkMessage>, String>> + '_ {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let length = rest.first_chunk::<4>().map(|l| u32::from_ne_bytes(*l) as usize)?;
        let Some(message) = rest.get(..length).filter(|_| length >= 16) else {
            let error = format!("a message of {length} bytes in {} bytes", rest.len());
            rest = &[];
            return Some(Err(error));
        };
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some(NetlinkMessage::deserialize(message).map_err(|e| e.to_string()))
    })
}
