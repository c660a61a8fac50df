//! The ranges from which one address of a pod is chosen, and the restrictions on it.
//!
//! The plugin builds one choice per address family; the store draws from it.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnetwork::IpNetwork;

use super::{Range, StoreError};

/// The ranges for one address, used up in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// The ranges, all of one family.
    pub ranges: Vec<Range>,
    /// Parts of them from which no address is chosen.
    pub excluded: Vec<IpNetwork>,
    /// Only addresses of these spans, if there are any.
    pub within: Vec<RangeInclusive<IpAddr>>,
    /// Exactly this address; it may lie in an excluded part.
    pub fixed: Option<IpAddr>,
}

impl From<Range> for Choice {
    fn from(range: Range) -> Self {
        Self { ranges: vec![range], ..Self::default() }
    }
}

impl Choice {
    pub(super) fn excludes(&self, address: IpAddr) -> bool {
        !self.is_within(address) || self.excluded.iter().any(|part| part.contains(address))
    }

    /// Returns whether an address is in one of the spans, or there are no spans.
    #[must_use]
    pub fn is_within(&self, address: IpAddr) -> bool {
        self.within.is_empty() || self.within.iter().any(|span| span.contains(&address))
    }

    /// Returns whether an address could have been chosen from these ranges.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.fixed.is_none_or(|fixed| fixed == address)
            && self.is_within(address)
            && self.ranges.iter().any(|r| r.slot(address).is_some())
    }

    /// Returns the error for a choice without a free address.
    pub(super) fn exhausted(&self) -> StoreError {
        let usable = |range: &Range| {
            let free = |slot: &u32| !range.is_reserved(*slot) && !self.excludes(range.address(*slot));
            (0..range.slots()).filter(free).count() as u32
        };
        let ranges: Vec<_> = self.ranges.iter().map(ToString::to_string).collect();
        let spans: Vec<_> = self.within.iter().map(|span| format!("{} to {}", span.start(), span.end())).collect();
        let range = match (ranges.join(", "), spans.join(", ")) {
            (ranges, spans) if spans.is_empty() => ranges,
            (ranges, spans) => format!("{ranges} from {spans}"),
        };
        StoreError::Exhausted { range, held: self.ranges.iter().map(usable).sum() }
    }
}
