//! Peers by address.

use super::*;

/// Returns which of these addresses reach `x/a` under rules with one ipBlock each.
fn reaching<'a>(blocks: &[Value], addresses: &[&'a str]) -> Vec<&'a str> {
    let rules: Vec<_> = blocks.iter().map(|block| json!({"from": [{"ipBlock": block}]})).collect();
    let cluster = cluster(&[("x", json!({"ingress": rules}))]);
    let to_a = |from: &str| cluster.decide(from, "x/a", (TCP, 80), &[Direction::Ingress]);
    addresses.iter().copied().filter(|from| to_a(from)).collect()
}

/// NP-27: inside cidr and outside of every exception; a family has no part in the other's ranges.
#[test]
fn block_matches_its_range_without_its_exceptions() {
    let addresses = ["192.0.2.1", "192.0.2.129", "192.0.2.193", "198.51.100.1", "2001:db8::1"];
    let excepts = json!(["192.0.2.128/26", "192.0.2.192/26"]);
    assert_eq!(reaching(&[json!({"cidr": "192.0.2.0/24", "except": excepts})], &addresses), ["192.0.2.1"]);
    assert_eq!(reaching(&[json!({"cidr": "0.0.0.0/0"})], &addresses), addresses[..4]);
    assert_eq!(reaching(&[json!({"cidr": "::/0"})], &addresses), ["2001:db8::1"]);
    let halves = json!(["0.0.0.0/1", "128.0.0.0/1"]);
    assert_eq!(reaching(&[json!({"cidr": "0.0.0.0/0", "except": halves})], &addresses), [""; 0]);
}

/// NP-29, NP-35: an exception narrows only its own item; blocks of all rules are a union.
#[test]
fn another_block_allows_what_one_excepts() {
    let addresses = ["192.0.2.1", "192.0.2.129", "192.0.2.130", "192.0.3.1"];
    let wide = json!({"cidr": "192.0.2.0/24", "except": ["192.0.2.128/25"]});
    let single = json!({"cidr": "192.0.2.129/32"});
    let nested = json!({"cidr": "192.0.2.0/23", "except": ["192.0.2.0/24"]});
    assert_eq!(reaching(std::slice::from_ref(&wide), &addresses), ["192.0.2.1"]);
    assert_eq!(reaching(&[wide.clone(), single.clone()], &addresses), ["192.0.2.1", "192.0.2.129"]);
    assert_eq!(reaching(&[single, nested, wide], &addresses), ["192.0.2.1", "192.0.2.129", "192.0.3.1"]);
}

/// NP-35: nested blocks keep their own ports.
#[test]
fn nested_block_does_not_hide_the_ports_of_the_wider_one() {
    let rule = |cidr: &str, port: u16| json!({"from": [{"ipBlock": {"cidr": cidr}}], "ports": [{"port": port}]});
    let cluster = cluster(&[("x", json!({"ingress": [rule("192.0.2.1/32", 81), rule("192.0.0.0/16", 80)]}))]);
    for (from, port, expected) in
        [("192.0.2.1", 80, true), ("192.0.2.1", 81, true), ("192.0.2.2", 80, true), ("192.0.2.2", 81, false)]
    {
        assert_eq!(cluster.decide(from, "x/a", (TCP, port), &[Direction::Ingress]), expected, "{from} {port}");
    }
}

/// NP-31: addresses of pods match blocks, as sources and as destinations.
#[test]
fn pod_addresses_match_blocks() {
    let block = json!([{"ipBlock": {"cidr": "10.0.2.0/24", "except": ["10.0.2.2/32"]}}]);
    let cluster = cluster(&[("x", json!({"ingress": [{"from": block}], "egress": [{"to": block}]}))]);
    for (peer, expected) in [("10.0.2.1", true), ("10.0.2.2", false), ("10.0.3.1", false)] {
        assert_eq!(cluster.passes(peer, "10.0.1.1", (TCP, 80)), expected, "{peer}");
        assert_eq!(cluster.passes("10.0.1.1", peer, (TCP, 80)), expected, "{peer}");
    }
}

/// NP-32, NP-54, NP-69: other nodes and multicast are addresses like others.
#[test]
fn node_and_multicast_addresses_match_blocks() {
    let to = json!([{"ipBlock": {"cidr": "192.0.2.0/24"}}, {"ipBlock": {"cidr": "224.0.0.0/4"}}]);
    let cluster = cluster(&[("x", json!({"egress": [{"to": to}]}))]);
    for (to, expected) in [("192.0.2.10", true), ("224.0.0.251", true), ("203.0.113.1", false)] {
        assert_eq!(cluster.decide("x/a", to, (UDP, 5353), &[Direction::Egress]), expected, "{to}");
    }
}
