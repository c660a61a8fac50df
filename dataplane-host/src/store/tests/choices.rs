//! Tests of choices: several ranges for an address, excluded parts, and requested addresses.

use super::*;

fn block(list: &[&str]) -> Choice {
    let ranges = list.iter().map(|r| Range::block(r.parse().unwrap()).unwrap()).collect();
    Choice { ranges, ..Choice::default() }
}

fn fixed(address: &str, range: &str) -> Choice {
    Choice { fixed: address.parse().ok(), ..block(&[range]) }
}

#[test]
fn blocks_are_exhausted_in_order() {
    let scratch = Scratch::new();
    let (store, two) = (scratch.store("a"), [block(&["10.1.0.4/31", "10.1.0.8/30"])]);
    for (n, address) in ["10.1.0.4", "10.1.0.5", "10.1.0.8", "10.1.0.9", "10.1.0.10", "10.1.0.11"].iter().enumerate() {
        assert_eq!(reserve(&store, &format!("c{n}"), &two).unwrap(), [*address]);
    }
    let error = reserve(&store, "c9", &two).unwrap_err().to_string();
    assert_eq!(error, "no free address in range 10.1.0.4/31, 10.1.0.8/30: all 6 are held");
}

#[test]
fn later_block_precedes_an_address_in_cool_down() {
    let scratch = Scratch::new();
    let store = scratch.store("a").with_cool_down(Duration::from_secs(1000));
    let two = [block(&["10.1.0.4/31", "10.1.0.8/31"])];
    for n in 0..3 {
        reserve(&store, &format!("c{n}"), &two).unwrap();
    }
    release(&store, "c0");
    assert_eq!(reserve(&store, "c3", &two).unwrap(), ["10.1.0.9"]);
    assert_eq!(reserve(&store, "c4", &two).unwrap(), ["10.1.0.4"], "nothing else is left");
}

#[test]
fn excluded_addresses_are_not_reserved() {
    let scratch = Scratch::new();
    let excluded = vec!["10.1.0.0/31".parse().unwrap(), "10.1.0.3/32".parse().unwrap()];
    let (store, choice) = (scratch.store("a"), [Choice { excluded, ..block(&["10.1.0.0/30"]) }]);
    assert_eq!(reserve(&store, "c1", &choice).unwrap(), ["10.1.0.2"]);
    assert!(!store.lock(SOON).unwrap().has_free(&choice[0]).unwrap());
    let error = reserve(&store, "c2", &choice).unwrap_err().to_string();
    assert_eq!(error, "no free address in range 10.1.0.0/30: all 1 are held");
}

#[test]
fn only_addresses_in_the_spans_are_reserved() {
    let scratch = Scratch::new();
    let span = |from: &str, to: &str| from.parse().unwrap()..=to.parse().unwrap();
    let within = vec![span("10.1.0.5", "10.1.0.5"), span("10.1.0.9", "10.1.0.10")];
    let (store, choice) = (scratch.store("a"), [Choice { within, ..block(&["10.1.0.0/28"]) }]);
    reserve(&store, "c0", &[block(&["10.1.0.0/28"])]).unwrap();
    for (n, address) in ["10.1.0.5", "10.1.0.9", "10.1.0.10"].iter().enumerate() {
        assert_eq!(reserve(&store, &format!("s{n}"), &choice).unwrap(), [*address]);
    }
    assert!(!store.lock(SOON).unwrap().has_free(&choice[0]).unwrap());
    let error = reserve(&store, "s9", &choice).unwrap_err().to_string();
    let all = "10.1.0.0/28 from 10.1.0.5 to 10.1.0.5, 10.1.0.9 to 10.1.0.10";
    assert_eq!(error, format!("no free address in range {all}: all 3 are held"));
    assert_eq!(reserve(&store, "c1", &[block(&["10.1.0.0/28"])]).unwrap(), ["10.1.0.11"], "the rest is others'");
    let contained = ["10.1.0.5", "10.1.0.6", "10.1.0.10"].map(|a| choice[0].contains(a.parse().unwrap()));
    assert_eq!(contained, [true, false, true]);
}

#[test]
fn requested_address_is_reserved_unless_held() {
    let scratch = Scratch::new();
    let store = scratch.store("a").with_cool_down(Duration::from_secs(1000));
    let seven = [fixed("10.1.0.7", "10.1.0.0/26")];
    assert_eq!(reserve(&store, "c1", &seven).unwrap(), ["10.1.0.7"]);
    let error = reserve(&store, "c2", &seven).unwrap_err();
    assert_eq!(error.to_string(), "address 10.1.0.7 is held by another attachment");
    let outside = reserve(&store, "c3", &[fixed("10.9.0.1", "10.1.0.0/26")]).unwrap_err();
    assert!(matches!(outside, StoreError::Exhausted { .. }), "{outside}");
    // An address of another process's unfinished reservation is held as well.
    let on_its_way = store.lock(SOON).unwrap().reserve(&facts("c4"), &[fixed("10.1.0.8", "10.1.0.0/26")]).unwrap();
    let eight = [fixed("10.1.0.8", "10.1.0.0/26")];
    assert!(matches!(reserve(&scratch.store("a"), "c5", &eight), Err(StoreError::InUse { .. })));
    drop(on_its_way.commit(&store).unwrap());
    let held: std::collections::BTreeSet<_> = store.lock(SOON).unwrap().held_addresses().unwrap().into_iter().collect();
    assert_eq!(held.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.1.0.7", "10.1.0.8"]);
}

/// Others may still send to the pod that had the address, and trust it by that address. A pod that
/// comes back under its name, as those of a `StatefulSet` do, is the one that they mean.
#[test]
fn requested_address_rests_unless_the_same_pod_comes_back() {
    let scratch = Scratch::new();
    let store = scratch.store("a").with_cool_down(Duration::from_secs(1000));
    let seven = [fixed("10.1.0.7", "10.1.0.0/26")];
    let of = |container: &str, pod: Option<&str>| AttachmentRecord { pod: pod.map(Into::into), ..facts(container) };
    let get = |container: &str, pod: Option<&str>| reserve_for(&store, &of(container, pod), &seven);
    assert_eq!(get("c1", Some("shop/db-0")).unwrap(), ["10.1.0.7"], "nobody had it");
    release(&store, "c1");
    for other in [Some("shop/db-1"), Some("tenant/db-0"), None] {
        let error = get("c2", other).unwrap_err();
        assert!(matches!(error, StoreError::CoolingDown { seconds: 999..=1000, .. }), "{other:?}: {error}");
    }
    assert!(!store.lock(SOON).unwrap().has_free(&seven[0]).unwrap());
    assert_eq!(get("c3", Some("shop/db-0")).unwrap(), ["10.1.0.7"]);
    release(&store, "c3");
    let at_once = scratch.store("a");
    assert_eq!(
        reserve_for(&at_once, &of("c4", Some("shop/db-1")), &seven).unwrap(),
        ["10.1.0.7"],
        "it has cooled down"
    );
    release(&store, "c4");
    // A pod that the runtime did not name has no identity.
    assert_eq!(reserve_for(&at_once, &facts("c5"), &seven).unwrap(), ["10.1.0.7"]);
    release(&store, "c5");
    assert!(matches!(get("c6", None), Err(StoreError::CoolingDown { .. })));
}

#[test]
fn held_address_of_one_family_reserves_none_of_the_other() {
    let scratch = Scratch::new();
    let store = scratch.store("a");
    reserve(&store, "c1", &[fixed("fd00:1::7", "fd00:1::/122")]).unwrap();
    let both = [block(&["10.1.0.0/26"]), fixed("fd00:1::7", "fd00:1::/122")];
    assert!(matches!(reserve(&store, "c2", &both), Err(StoreError::InUse { .. })));
    assert_eq!(reserve(&store, "c3", &both[..1]).unwrap(), ["10.1.0.0"], "no IPv4 address was lost");
}
