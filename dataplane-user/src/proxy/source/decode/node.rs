//! Decodes Nodes and `ServiceCIDR`s.
//!
//! Takes addresses, ranges, and of a Node its zone and whether it is about to leave.

use ipnetwork::IpNetwork;

use super::{Decoded, Decoder, FieldErrors, label};
use crate::proxy::source::ObjectKind;
use crate::proxy::source::object::NodeObject;
use crate::proxy::source::wire::{NodeWire, ServiceCidrWire};

const ZONE: &str = "topology.kubernetes.io/zone";
const AUTOSCALER_TAINT: &str = "ToBeDeletedByClusterAutoscaler";

impl Decoder {
    /// Decodes a Node to addresses, pod ranges and zone.
    pub fn node(&mut self, wire: &NodeWire) -> Decoded<NodeObject> {
        let key = self.key(&wire.metadata, "");
        let mut faults = FieldErrors::new(ObjectKind::Node, &key);
        // Internal addresses first, because routes use the first one of a family.
        let [mut addresses, external] = ["InternalIP", "ExternalIP"].map(|kind| {
            let of_kind = wire.status.addresses.iter().flatten().enumerate().filter(|(_, a)| a.r#type == kind);
            let field = |i| format!("status.addresses[{i}].address");
            of_kind.filter_map(|(i, a)| faults.address(|| field(i), &a.address)).collect::<Vec<_>>()
        });
        let external_count = external.len();
        addresses.extend(external);
        // `podCIDR` is the older field with a single range.
        let cidrs = wire.spec.pod_cidrs.as_deref().filter(|c| !c.is_empty());
        let cidrs = cidrs.map_or_else(|| wire.spec.pod_cidr.iter().collect::<Vec<_>>(), |c| c.iter().collect());
        let mut pod_cidrs = Vec::new();
        for (i, cidr) in cidrs.into_iter().enumerate().filter(|(_, c)| !c.is_empty()) {
            pod_cidrs.extend(faults.range(|| format!("spec.podCIDRs[{i}]"), cidr));
        }
        let leaving = wire.metadata.deletion_timestamp.is_some()
            || wire.spec.taints.iter().flatten().any(|t| t.key == AUTOSCALER_TAINT);
        let zone = label(&wire.metadata, ZONE).filter(|z| !z.is_empty()).map(Into::into);
        let (addresses, pod_cidrs) = (addresses.into(), pod_cidrs.into());
        let object = NodeObject { addresses, external: external_count, pod_cidrs, zone, leaving };
        let rejections = faults.found;
        Decoded { key, object: Some(object), rejections }
    }

    /// Decodes a `ServiceCIDR` to its ranges.
    pub fn service_cidr(&mut self, wire: &ServiceCidrWire) -> Decoded<Box<[IpNetwork]>> {
        let key = self.key(&wire.metadata, "");
        let mut faults = FieldErrors::new(ObjectKind::ServiceCidr, &key);
        let texts = wire.spec.cidrs.iter().flatten().enumerate();
        let ranges = texts.filter_map(|(i, text)| faults.range(|| format!("spec.cidrs[{i}]"), text)).collect();
        let rejections = faults.found;
        Decoded { key, object: Some(ranges), rejections }
    }
}
