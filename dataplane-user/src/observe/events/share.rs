//! Decides which nodes report a fault that all nodes find.
//!
//! All of them would create the same Event, and the API server would reject all but one. Three
//! report it, one after the other, so that it is told although one of them is down. Every hour it
//! is other nodes, by a hash that all nodes compute alike.

use dataplane_common::types::address::mix;
use dataplane_common::types::fnv;

use super::NoticeId;
use super::object::hash_of;

/// Nodes that report a fault.
const REPORTERS: usize = 3;

/// Returns the place of `node` among the nodes that report a fault in this hour (since 1970): 0 is
/// the first; `None`: others report it. Without nodes the list is not known yet, and `node` is the
/// first.
pub(super) fn place<'a>(
    node: &str,
    nodes: impl Iterator<Item = &'a str>,
    (kind, key, reason): &NoticeId,
    hour: i64,
) -> Option<u32> {
    let hour = hour.to_string();
    let fault = hash_of([kind.name(), &key.namespace, &key.name, reason, &hour]);
    let rank = |node: &str| (mix(fnv::extend64(fault, node.as_bytes())), node.to_owned());
    let own = rank(node);
    let before = nodes.filter(|other| *other != node && rank(other) < own).take(REPORTERS).count();
    (before < REPORTERS).then_some(before as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::source::{ObjectKey, ObjectKind};

    #[test]
    fn three_nodes_report_each_fault_and_others_do_in_the_next_hour() {
        let nodes: Vec<String> = (0..500).map(|n| format!("node-{n}.example")).collect();
        let places = |fault: usize, hour: i64| -> Vec<(u32, usize)> {
            let id = (ObjectKind::Service, ObjectKey::new("shop", &format!("web-{fault}")), "InvalidField");
            let place = |node: &String| place(node, nodes.iter().map(String::as_str), &id, hour);
            let mut places: Vec<_> = (0..).zip(&nodes).filter_map(|(i, node)| Some((place(node)?, i))).collect();
            places.sort_unstable();
            places
        };
        let mut reports = vec![0; nodes.len()];
        for fault in 0..40 {
            let [now, next] = [places(fault, 500_000), places(fault, 500_001)];
            assert_eq!(now.iter().map(|(place, _)| *place).collect::<Vec<_>>(), [0, 1, 2]);
            assert_ne!(now[0], next[0]);
            now.iter().for_each(|(_, node)| reports[*node] += 1);
        }
        assert!(reports.iter().all(|count| *count <= 5), "{reports:?}");
    }

    #[test]
    fn node_reports_while_it_knows_no_others() {
        let id = (ObjectKind::Service, ObjectKey::new("shop", "web"), "InvalidField");
        assert_eq!(place("n1", std::iter::empty(), &id, 0), Some(0));
        assert_eq!(place("n1", ["n1"].into_iter(), &id, 0), Some(0));
        let mut both = ["n1", "n2"].map(|node| place(node, ["n1", "n2"].into_iter(), &id, 0));
        both.sort_unstable();
        assert_eq!(both, [Some(0), Some(1)]);
    }
}
