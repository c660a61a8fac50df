//! Decodes `EndpointSlice`s.
//!
//! Reduces each endpoint to its first address, its conditions, and the hints that matter to this
//! node. Slices of headless Services, of other proxies and of type FQDN have no object.

use std::sync::Arc;

use dataplane_common::types::ip_family::IpFamily;
use k8s_openapi::jiff::Timestamp;

use super::address::refused;
use super::{Decoded, Decoder, FieldErrors, HEADLESS, SERVICE_NAME, SERVICE_PROXY_NAME, annotation, label};
use crate::proxy::source::ObjectKind;
use crate::proxy::source::object::{Endpoint, SliceObject, SlicePort, Zones, endpoint_flags as flags, name_hash};
use crate::proxy::source::wire::{EndpointWire, SliceWire};

/// Maximum number of endpoints; the API's limit.
const MAX_ENDPOINTS: usize = 1000;
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

impl Decoder {
    /// Decodes a slice; no object if it has no addresses, no Service, or a headless or another
    /// proxy's Service.
    pub fn slice(&mut self, wire: &SliceWire) -> Decoded<SliceObject> {
        let key = self.key(&wire.metadata, "default");
        let mut faults = FieldErrors::new(ObjectKind::Slice, &key);
        let object = self.slice_object(wire, &mut faults);
        let rejections = faults.found;
        Decoded { key, object, rejections }
    }

    fn slice_object(&mut self, wire: &SliceWire, faults: &mut FieldErrors<'_>) -> Option<SliceObject> {
        let meta = &wire.metadata;
        let service = label(meta, SERVICE_NAME)?;
        if label(meta, HEADLESS).is_some() || label(meta, SERVICE_PROXY_NAME).is_some() {
            return None;
        }
        let family = match wire.address_type.as_str() {
            "IPv4" => IpFamily::V4,
            "IPv6" => IpFamily::V6,
            "FQDN" => return None,
            other => {
                faults.add("addressType", format!("{other:?} is not IPv4, IPv6 or FQDN"));
                return None;
            }
        };
        let wired = wire.endpoints.as_deref().unwrap_or_default();
        if wired.len() > MAX_ENDPOINTS {
            faults.add("endpoints", format!("has {} elements, more than {MAX_ENDPOINTS}", wired.len()));
            return None;
        }
        let mut endpoints: Vec<Endpoint> = Vec::with_capacity(wired.len());
        endpoints.extend(wired.iter().enumerate().filter_map(|(i, e)| self.endpoint(i, e, family, faults)));
        endpoints.sort_by_key(|e| e.addr);
        let triggered = annotation(meta, TRIGGER_TIME).and_then(|t| t.parse::<Timestamp>().ok());
        Some(SliceObject {
            service: service.into(),
            ports: self.slice_ports(wire, faults),
            endpoints: endpoints.into(),
            triggered: triggered.map_or(0, |t| t.as_millisecond().max(0).cast_unsigned()),
            family,
        })
    }

    /// Decodes the ports. A port without a number stands for all ports and can't be used by a
    /// Service. A port without a name has the empty name.
    fn slice_ports(&mut self, wire: &SliceWire, faults: &mut FieldErrors<'_>) -> Box<[SlicePort]> {
        let mut ports: Vec<SlicePort> = Vec::new();
        for (i, p) in wire.ports.iter().flatten().enumerate() {
            let Some(number) = p.port.filter(|n| *n != 0) else { continue };
            let Some(port) = faults.port(|| format!("ports[{i}].port"), number) else { continue };
            let proto = faults.protocol(|| format!("ports[{i}].protocol"), p.protocol.as_deref());
            let Some(proto) = proto else { continue };
            let name = self.interner.string(p.name.as_deref().unwrap_or_default());
            if ports.iter().any(|known| known.name == name) {
                faults.add(format!("ports[{i}].name"), format!("duplicate name {name:?}"));
            } else {
                ports.push(SlicePort { name, port, proto });
            }
        }
        ports.into()
    }

    fn endpoint(
        &mut self,
        i: usize,
        wire: &EndpointWire,
        family: IpFamily,
        faults: &mut FieldErrors<'_>,
    ) -> Option<Endpoint> {
        let field = || format!("endpoints[{i}].addresses[0]");
        let Some(text) = wire.addresses.iter().flatten().next() else {
            faults.add(format!("endpoints[{i}].addresses"), "is empty");
            return None;
        };
        let addr = faults.address(field, text)?;
        if !family.has(addr) {
            faults.add(field(), format!("{addr} does not match addressType"));
            return None;
        }
        if let Some(reason) = refused(addr) {
            faults.add(field(), format!("{addr} {reason}"));
            return None;
        }
        let (zones, node_hints) = self.hints(wire);
        // An endpoint without a node name is neither local nor remote.
        let place = match wire.node_name.as_deref() {
            Some(name) if name == &*self.node => flags::LOCAL,
            Some(_) => flags::REMOTE,
            None => 0,
        };
        let node = name_hash(wire.node_name.as_deref().unwrap_or_default());
        Some(Endpoint { addr, zones, node, flags: conditions(wire) | place | node_hints })
    }

    fn hints(&mut self, wire: &EndpointWire) -> (Option<Arc<Zones>>, u8) {
        let Some(hints) = &wire.hints else { return (None, 0) };
        let zones = hints.for_zones.as_deref().unwrap_or_default();
        let zones =
            (!zones.is_empty()).then(|| self.interner.zones(zones.iter().map(|z| z.name.as_str().into()).collect()));
        let nodes = hints.for_nodes.as_deref().unwrap_or_default();
        let any = if nodes.is_empty() { 0 } else { flags::NODE_HINTS };
        let this = if nodes.iter().any(|n| *n.name == *self.node) { flags::THIS_NODE_HINTED } else { 0 };
        (zones, any | this)
    }
}

/// Decodes the conditions. `ready` defaults to true, `serving` to `ready`, `terminating` to false.
fn conditions(wire: &EndpointWire) -> u8 {
    let (ready, serving, terminating) =
        wire.conditions.as_ref().map_or((None, None, None), |c| (c.ready, c.serving, c.terminating));
    let ready = ready.unwrap_or(true);
    let bit = |set: bool, flag: u8| if set { flag } else { 0 };
    bit(ready, flags::READY)
        | bit(serving.unwrap_or(ready), flags::SERVING)
        | bit(terminating.unwrap_or(false), flags::TERMINATING)
}
