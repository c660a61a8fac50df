//! Network policy in the tests of the socket hooks: they never ask for it, because the packet path
//! judges the connections that they translate.

use super::Fake;
use crate::maps::RuleMaps;
use crate::types::address::V4;
use crate::types::policy::{Rule, RuleKey};

impl RuleMaps<V4> for Fake {
    fn peer_class(&self, _addr: &V4) -> Option<u32> {
        unreachable!()
    }
    fn block_class(&self, _addr: &V4) -> Option<u32> {
        unreachable!()
    }
    fn rule(&self, _key: &RuleKey) -> Option<&Rule> {
        unreachable!()
    }
    fn port_decision(&self, _table: u32, _proto: u8, _port: u16) -> Option<u32> {
        unreachable!()
    }
}
