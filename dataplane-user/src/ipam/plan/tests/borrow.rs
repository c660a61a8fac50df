//! Tests of lending: when a node asks, how the owner answers, and when parts are given back.
//!
//! Each test runs decisions of `n1` on hand-made blocks and compares the actions as text.

use super::*;
use crate::ipam::plan::borrow::without;

/// Returns a fixture with two blocks of 64 addresses, of `n1` and `n2`.
fn two_blocks(borrow: bool) -> Fixture {
    let mut fixture = Fixture::new(vec![pool("a", "10.1.0.0/25", |s| s.borrow = borrow)]);
    fixture.block("10.1.0.0/26", "a", "n1");
    fixture.block("10.1.0.64/26", "a", "n2");
    fixture
}

fn sharing<'a>(fixture: &'a mut Fixture, block: &str) -> &'a mut Sharing {
    let block = fixture.blocks.get_mut(block).unwrap();
    block.state.version.push('+');
    &mut block.sharing
}

fn lent(cidr: &str, node: &str) -> Lent {
    Lent { cidr: cidr.parse().unwrap(), node: node.into() }
}

fn addresses(range: std::ops::Range<u8>) -> impl Iterator<Item = IpAddr> {
    range.map(|last| [10, 1, 0, last].into())
}

fn usable(decision: &PoolDecision) -> Vec<String> {
    decision.pools[0].blocks.iter().map(ToString::to_string).collect()
}

const THEIRS: &str = "10-1-0-64-26";
const OURS: &str = "10-1-0-0-26";
const ASK: &str = r#"share 10-1-0-64-26: lent [], asked Some("n1"), given None"#;
const WITHDRAW: &str = r"share 10-1-0-64-26: lent [], asked None, given None";

#[test]
fn node_with_few_free_addresses_asks_for_a_part() {
    for (borrow, held, expected) in [(true, 57, &[ASK][..]), (true, 56, &[]), (false, 64, &[])] {
        let mut fixture = two_blocks(borrow);
        fixture.held.extend(addresses(1..held));
        assert_eq!(fixture.actions(S), expected, "{borrow} {held}");
    }
    let mut fixture = two_blocks(true);
    fixture.held.extend(addresses(1..64));
    assert_eq!(fixture.actions(S), [ASK]);
    let decision = fixture.decide(S * 2);
    assert_eq!((decision.actions.len(), decision.next), (0, Some(S * 11)), "the request is not seen yet");
    sharing(&mut fixture, THEIRS).asked = Some("n1".into());
    assert_eq!(fixture.decide(S * 3).next, Some(S * 11), "the request is seen but not answered");
    assert_eq!(fixture.actions(S * 11), [WITHDRAW]);
    sharing(&mut fixture, THEIRS).asked = None;
    assert_eq!(fixture.decide(S * 12).next, Some(S * 61), "the same block is not asked again soon");
    assert_eq!(fixture.actions(S * 61), [ASK]);
    sharing(&mut fixture, THEIRS).asked = Some("n1".into());
    fixture.held.clear();
    assert_eq!(fixture.actions(S * 62), [WITHDRAW], "the part is not needed any more");
    fixture.nodes.remove("n2");
    fixture.held.extend(addresses(1..64));
    sharing(&mut fixture, THEIRS).asked = None;
    assert_eq!(fixture.actions(S * 200), [""; 0], "a deleted node is not asked");
}

#[test]
fn largest_unused_part_is_lent_if_as_much_stays_free() {
    let mut fixture = two_blocks(true);
    fixture.hold(&["10.1.0.5", "10.1.0.50"]);
    assert!(fixture.actions(S).is_empty());
    sharing(&mut fixture, OURS).asked = Some("n3".into());
    let refusal = "share 10-1-0-0-26: lent [], asked None, given None";
    assert_eq!(fixture.actions(S * 2), [refusal], "recently used addresses are not known for long enough");
    fixture.held.remove(&"10.1.0.50".parse().unwrap());
    let lent_16 = |range: &str| format!(r#"share 10-1-0-0-26: lent ["{range} n3"], asked None, given Some("{range}")"#);
    assert_eq!(
        fixture.actions(S * 61),
        [lent_16("10.1.0.32/28")],
        "an address of the last sixteen was in use a moment ago"
    );
    let decision = fixture.decide(S * 62);
    assert_eq!(usable(&decision), ["10.1.0.0/27", "10.1.0.48/28"], "the plugin must not use the lent part");
    assert_eq!(decision.actions.len(), 1, "the action is repeated until it is seen");

    sharing(&mut fixture, OURS).lent.push(lent("10.1.0.32/28", "n3"));
    sharing(&mut fixture, OURS).asked = Some("n3".into());
    let again =
        r#"share 10-1-0-0-26: lent ["10.1.0.32/28 n3", "10.1.0.48/28 n3"], asked None, given Some("10.1.0.48/28")"#;
    assert_eq!(fixture.actions(S * 200), [again]);
    // A pod gets an address of the part first.
    fixture.hold(&["10.1.0.49"]);
    assert!(fixture.actions(S * 200)[0].contains(r#"given Some("10.1.0.16/28")"#), "{:?}", fixture.actions(S * 200));
    fixture.held.extend(addresses(0..64));
    let nothing_left = r#"share 10-1-0-0-26: lent ["10.1.0.32/28 n3"], asked None, given None"#;
    assert_eq!(fixture.actions(S * 200), [ASK, nothing_left], "it asks for a part itself");
    fixture.held.clear();
    fixture.nodes.remove("n3");
    sharing(&mut fixture, OURS).lent.clear();
    assert_eq!(fixture.actions(S * 300), [refusal], "a deleted node gets no part");
}

#[test]
fn borrowed_part_is_used_kept_while_needed_and_given_back() {
    let mut fixture = two_blocks(true);
    fixture.held.extend(addresses(0..64));
    sharing(&mut fixture, THEIRS).lent.push(lent("10.1.0.96/27", "n1"));
    let decision = fixture.decide(S);
    assert_eq!((usable(&decision), decision.actions.len()), (vec!["10.1.0.0/26".into(), "10.1.0.96/27".into()], 0));
    assert_eq!(fixture.actions(S + IDLE * 2), [""; 0], "no address would be free without the part");
    fixture.held.retain(|address| !addresses(8..24).any(|a| a == *address));
    assert_eq!(fixture.actions(S * 2 + IDLE * 2), [""; 0]);
    let back = r#"share 10-1-0-64-26: lent [], asked None, given Some("10.1.0.96/27")"#;
    assert_eq!(fixture.actions(S * 2 + IDLE * 3), [back]);
    assert_eq!(usable(&fixture.decide(S * 2 + IDLE * 3)), ["10.1.0.0/26"]);
    fixture.hold(&["10.1.0.100"]);
    assert_eq!(fixture.actions(S * 2 + IDLE * 3), [""; 0], "a pod got an address of the part first");
    assert_eq!(usable(&fixture.decide(S * 2 + IDLE * 3)).len(), 2);
}

#[test]
fn block_with_lent_parts_is_not_given_back() {
    let mut fixture = two_blocks(true);
    fixture.block("10.1.0.128/26", "b", "n1"); // of no pool: given back when idle
    sharing(&mut fixture, "10-1-0-128-26").lent.push(lent("10.1.0.160/27", "n2"));
    assert!(fixture.actions(S).is_empty() && fixture.actions(S + IDLE).is_empty());
    fixture.nodes.remove("n2");
    let theirs = lent("10.1.0.96/27", "n3");
    sharing(&mut fixture, THEIRS).lent.push(theirs);
    assert!(fixture.actions(S * 2 + IDLE).is_empty());
    let actions = fixture.actions(S * 2 + IDLE + GONE * 3);
    let reclaimed = "share 10-1-0-128-26: lent [], asked None, given None";
    assert_eq!(actions, [reclaimed], "n3 uses a part of n2's block");
    fixture.nodes.remove("n3");
    fixture.decide(S * 3 + IDLE + GONE * 3);
    assert!(fixture.actions(S * 3 + IDLE + GONE * 6).contains(&format!("collect {THEIRS} of n2, n3")));
}

#[test]
fn remainder_of_a_range_has_few_pieces() {
    for (range, taken, expected) in [
        ("10.1.0.0/26", &[][..], &["10.1.0.0/26"][..]),
        ("10.1.0.0/26", &["10.1.0.0/25"], &[]),
        ("10.1.0.0/26", &["10.1.0.32/28"], &["10.1.0.0/27", "10.1.0.48/28"]),
        ("10.1.0.0/30", &["10.1.0.1/32", "10.1.0.2/31"], &["10.1.0.0/32"]),
        ("10.1.0.0/26", &["10.2.0.0/26"], &["10.1.0.0/26"]),
        ("fd00::/122", &["fd00::30/124"], &["fd00::/123", "fd00::20/124"]),
    ] {
        let taken: Vec<IpNetwork> = taken.iter().map(|t| t.parse().unwrap()).collect();
        let shown: Vec<_> = without(range.parse().unwrap(), &taken).iter().map(ToString::to_string).collect();
        assert_eq!(shown, expected, "{range} without {taken:?}");
    }
}
