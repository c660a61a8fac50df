//! Tests of the core with external addresses that belong to API servers.
//!
//! A tenant who could take such an address would get the requests of the whole cluster to the API.

use super::*;
use crate::proxy::source::Cause;
use crate::proxy::source::object::ServiceExtra;

fn external(addr: &str) -> SourceEvent {
    let mut service = service(&["10.96.0.10"], &[("http", 80)]);
    service.extra = Some(Box::new(ServiceExtra { external_ips: [ip(addr)].into(), ..ServiceExtra::default() }));
    SourceEvent::Service(key("web"), Some(service))
}

fn endpoints(of: &str, addresses: &[&str]) -> SourceEvent {
    SourceEvent::Slice(ObjectKey::new(of, "kubernetes-1"), Some(slice("kubernetes", &[("https", 6443)], addresses)))
}

/// An address that a Service has already is taken from it, and comes back with the next change.
#[test]
fn addresses_of_api_servers_are_taken_from_services() {
    let memory = memory();
    let mut core = serving(&memory);
    let mut frontends = |event: SourceEvent| {
        core.handle(event);
        core.reconcile(NOW);
        let snapshot = core.snapshot();
        assert!(snapshot.rejections.iter().all(|r| r.cause == Cause::AddressRefused));
        (snapshot.frontends.0, snapshot.rejected)
    };
    let (served, refused) = ((2, 0), (1, 1));
    assert_eq!(frontends(external("198.51.100.1")), served);
    assert_eq!(frontends(SourceEvent::ApiServers([ip("198.51.100.1")].into())), refused, "reached by the agent");
    assert_eq!(frontends(SourceEvent::ApiServers([ip("198.51.100.2")].into())), served);
    assert_eq!(frontends(endpoints("shop", &["198.51.100.1"])), served, "a Service of a tenant");
    assert_eq!(frontends(endpoints("default", &["198.51.100.1", "198.51.100.3"])), refused);
    assert_eq!(frontends(external("198.51.100.2")), refused, "endpoints do not replace the other addresses");
    assert_eq!(frontends(external("198.51.100.3")), refused);
    core.handle(SourceEvent::Relist(ObjectKind::Slice));
    core.handle(SourceEvent::InSync(ObjectKind::Slice));
    core.reconcile(NOW);
    assert_eq!(core.snapshot().rejected, 0, "the slice was deleted during a relist");
}
