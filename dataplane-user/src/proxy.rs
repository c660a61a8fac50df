//! The service proxy's control plane: from the API's objects to the entries of the service maps.
//!
//! Control flow: `source` (Kubernetes or a directory of manifests) -> `desired` (pure) ->
//! `reconcile` (pure) -> `apply` (the only writer of service maps), driven by one `controller`.
//! Called by `agent`; `network`, `ipam` and `observe` read the objects and the snapshot that it
//! publishes. It touches no link, route or program.

pub mod apply;
pub mod controller;
pub mod desired;
pub mod reconcile;
pub mod source;
