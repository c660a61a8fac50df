//! Lists the chains of `nf_tables`. kube-proxy's rules are in such chains in its mode nftables, and
//! in its mode iptables if the `iptables` command is `iptables-nft`.
//!
//! The agent uses the list to find rules that kube-proxy has left. Reads only.

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NlasIterator};
use netlink_sys::{Socket as RawSocket, SocketAddr, protocols::NETLINK_NETFILTER};

use super::NetlinkError;
use super::socket::read;

const ATTEMPT: &str = "list the chains of nf_tables";
/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETCHAIN` (include/uapi/linux/netfilter/nfnetlink.h,
/// `nf_tables.h`).
const GET_CHAIN: u16 = 10 << 8 | 4;
/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWCHAIN`: one chain of the answer.
const NEW_CHAIN: u16 = 10 << 8 | 3;
/// Attribute `NFTA_CHAIN_TABLE` with the table's name.
const TABLE: u16 = 1;
/// Attribute `NFTA_CHAIN_NAME` with the chain's name.
const NAME: u16 = 3;
/// Size of `struct nlmsghdr` in bytes.
const HEADER: usize = 16;
/// Size of `struct nfgenmsg` in bytes.
const FAMILY: usize = 4;

/// A chain of rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NftChain {
    /// The table that it is in.
    pub table: String,
    /// The chain's name within its table.
    pub name: String,
}

/// Lists the chains of all families in the network namespace of the calling thread. Needs
/// `CAP_NET_ADMIN`.
///
/// # Errors
/// The kernel refused, or has no `nf_tables`.
pub fn chains() -> Result<Vec<NftChain>, NetlinkError> {
    let failed = |e| NetlinkError::socket(ATTEMPT, e);
    let mut socket = match RawSocket::new(NETLINK_NETFILTER) {
        Err(e) if is_without_nf_tables(&e) => return Ok(Vec::new()),
        socket => socket.map_err(failed)?,
    };
    socket.bind_auto().map_err(failed)?;
    socket.connect(&SocketAddr::new(0, 0)).map_err(failed)?;
    let mut request = NetlinkBuffer::new([0; HEADER + FAMILY]);
    request.set_length((HEADER + FAMILY) as u32);
    request.set_message_type(GET_CHAIN);
    request.set_flags(NLM_F_REQUEST | NLM_F_DUMP);
    socket.send(&request.into_inner(), 0).map_err(failed)?;
    let (mut chains, mut buffer) = (Vec::new(), Vec::new());
    loop {
        read(&socket, &mut buffer, ATTEMPT)?;
        if collect(&buffer, &mut chains)? {
            return Ok(chains);
        }
    }
}

/// Returns whether the error is how a kernel without nfnetlink (`EPROTONOSUPPORT`) or without
/// `nf_tables` (`EINVAL`, `EOPNOTSUPP`; `nfnetlink_rcv_msg`) answers. Such a kernel has no chains.
fn is_without_nf_tables(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPROTONOSUPPORT | libc::EINVAL | libc::EOPNOTSUPP))
}

/// Adds the chains of one datagram. Returns whether it was the last one.
fn collect(mut rest: &[u8], chains: &mut Vec<NftChain>) -> Result<bool, NetlinkError> {
    const ERROR: u16 = 2;
    const DONE: u16 = 3;
    while !rest.is_empty() {
        let message = NetlinkBuffer::new_checked(rest).map_err(|e| NetlinkError::answer(ATTEMPT, e.to_string()))?;
        let payload = message.payload();
        match message.message_type() {
            DONE => return Ok(true),
            ERROR => {
                let code = payload.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                let error = std::io::Error::from_raw_os_error(-code);
                return if is_without_nf_tables(&error) { Ok(true) } else { Err(NetlinkError::socket(ATTEMPT, error)) };
            }
            NEW_CHAIN => chains.extend(payload.get(FAMILY..).and_then(chain)),
            _ => {}
        }
        rest = rest.get((message.length() as usize).next_multiple_of(4)..).unwrap_or(&[]);
    }
    Ok(false)
}

fn chain(attributes: &[u8]) -> Option<NftChain> {
    let text = |kind: u16| {
        let found = NlasIterator::new(attributes).flatten().find(|a| a.kind() == kind)?;
        Some(String::from_utf8_lossy(found.value()).trim_end_matches('\0').to_owned())
    };
    Some(NftChain { table: text(TABLE)?, name: text(NAME)? })
}
