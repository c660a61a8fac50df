//! Tests of the compiled form itself; `policy/tests` compares its decisions with the evaluator's.

use super::*;

const A: Decision = Decision { allowed: true, reason: 7 };
const B: Decision = Decision { allowed: true, reason: 8 };
const REST: Decision = Decision { allowed: false, reason: 9 };

fn blocks<'a>(list: impl IntoIterator<Item = &'a Block>) -> Blocks<'a> {
    Blocks::new(list.into_iter().collect())
}

fn block(cidr: &str, excepts: &[&str]) -> Block {
    Block { cidr: cidr.parse().unwrap(), excepts: excepts.iter().map(|except| except.parse().unwrap()).collect() }
}

/// NP-29, NP-35: nested and overlapping blocks mean the union of each one's own meaning.
#[test]
fn exception_narrows_only_its_own_block() {
    let wide = block("10.0.0.0/8", &["10.1.0.0/16"]);
    let narrow = block("10.1.2.0/24", &["10.1.2.3/32"]);
    let single = block("10.1.2.3/32", &[]);
    let blocks = blocks([&wide, &narrow, &single]);
    for (address, expected) in [
        ("10.2.0.1", vec![&wide]),
        ("10.1.9.9", vec![]),
        ("10.1.2.9", vec![&narrow]),
        ("10.1.2.3", vec![&single]),
        ("11.0.0.1", vec![]),
        ("fd00::1", vec![]),
    ] {
        let expected = expected.into_iter().filter_map(|block| blocks.number(block)).collect();
        assert_eq!(blocks.containing(address.parse().unwrap()), expected, "{address}");
    }
}

/// NP-28: a zero-length prefix with both halves excepted contains nothing.
#[test]
fn block_with_everything_excepted_contains_nothing() {
    let halves = block("0.0.0.0/0", &["0.0.0.0/1", "128.0.0.0/1"]);
    let whole = block("10.0.0.0/8", &["0.0.0.0/0"]);
    let blocks = blocks([&halves, &whole]);
    for address in ["10.0.0.1", "200.0.0.1"] {
        assert_eq!(blocks.containing(address.parse().unwrap()), BlockSet::new(), "{address}");
    }
}

#[test]
fn first_painted_decision_stays() {
    let mut painter = Painter::new();
    painter.paint(6, 80, 80, A);
    painter.paint(6, 70, 90, B);
    painter.paint(6, 91, 95, B);
    painter.paint(17, 0, u16::MAX, REST);
    let function = painter.finish(REST);
    assert_eq!(function.pieces, [(6, vec![(70, 79, B), (80, 80, A), (81, 95, B)])].into());
}

#[test]
fn prefixes_cover_exactly_their_range() {
    for (first, last) in [(0, u16::MAX), (80, 80), (1, u16::MAX), (0, u16::MAX - 1), (1, 65534), (7, 1000), (0, 0)] {
        let prefixes = prefixes(first, last);
        assert!(prefixes.len() <= 30, "{first}-{last}: {}", prefixes.len());
        let mut next = u32::from(first);
        for (port, bits) in prefixes {
            let size = 1 << (16 - bits);
            assert_eq!((u32::from(port), next % size), (next, 0), "{first}-{last}");
            next += size;
        }
        assert_eq!(next, u32::from(last) + 1, "{first}-{last}");
    }
}

/// CNP-12, CNP-14: the lower tier decides where the upper one passes or does not match.
#[test]
fn upper_tier_lies_over_the_lower_one() {
    let mut upper = Painter::new();
    upper.paint(6, 80, 80, Some(A));
    upper.paint(6, 70, 90, None);
    upper.paint(17, 0, u16::MAX, None);
    let mut lower = Painter::new();
    lower.paint(6, 75, 85, B);
    lower.paint(17, 53, 53, B);
    let lower = lower.finish(REST);
    let passing = upper.finish(Some(A)).over(&lower);
    let tcp = vec![(70, 74, REST), (75, 79, B), (81, 85, B), (86, 90, REST)];
    let udp = vec![(0, 52, REST), (53, 53, B), (54, u16::MAX, REST)];
    assert_eq!((passing.pieces, passing.rest), ([(6, tcp), (17, udp)].into(), A));
    let silent: PortFunction<Option<Decision>> = Painter::new().finish(None);
    assert_eq!(silent.over(&lower), lower);
}
