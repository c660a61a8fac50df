//! Tests of the socket hooks: no process sends to the port of the tunnel.

use super::*;

/// F3: the host's stack believes every datagram at that port, also one that a process of the node
/// sends to itself.
#[test]
fn port_of_the_tunnel_is_refused() {
    let mut fake = with_datagrams(0, 1);
    fake.config.tunnel_port = 4789;
    let ask = |fake: &Fake, addr, port, proto, unconnected| {
        connect(fake, &ConnectRequest { addr, port, proto, unconnected, cookie: 1, netns_cookie: NODE_NETNS }).action
    };
    for addr in [NODE, LOOPBACK, OUTSIDE, POD] {
        for unconnected in [false, true] {
            assert_eq!(ask(&fake, addr, 4789, proto::UDP, unconnected), SocketVerdict::Reject);
            assert_eq!(ask(&fake, addr, 4790, proto::UDP, unconnected), SocketVerdict::Keep);
        }
        assert_eq!(ask(&fake, addr, 4789, proto::TCP, false), SocketVerdict::Keep);
    }
    fake.config.tunnel_port = 0;
    assert_eq!(ask(&fake, NODE, 4789, proto::UDP, true), SocketVerdict::Keep, "there is no tunnel");
}
