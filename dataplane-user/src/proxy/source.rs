//! Reads the desired state: from Kubernetes or from a directory of manifests.
//!
//! Both sources decode objects into the same compact types and send the same [`SourceEvent`]s over
//! one channel to the controller: a complete initial state, then [`SourceEvent::InSync`], then
//! changes. A source only reads; it decides nothing about the dataplane.

pub mod decode;
mod intern;
pub mod kubernetes;
pub mod manifests;
pub mod object;
pub mod wire;

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use ipnetwork::IpNetwork;
use tokio::sync::mpsc;

pub use object::{NodeObject, ServiceObject, SliceObject};

/// The sending side of the channel from a source to the controller.
pub type EventSender = mpsc::Sender<SourceEvent>;

/// Namespace and name of an object.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ObjectKey {
    /// Namespace. All objects of a namespace share one allocation.
    pub namespace: Arc<str>,
    /// Name, unique within the namespace and kind.
    pub name: Box<str>,
}

impl ObjectKey {
    /// Creates a key with a separate copy of the namespace.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The kinds of objects that the agent watches.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum ObjectKind {
    /// A Service of the core API group.
    Service,
    /// An `EndpointSlice` of the group `discovery.k8s.io`.
    Slice,
    /// A Node of the core API group.
    Node,
    /// `ServiceCIDR`: a range of cluster IPs.
    ServiceCidr,
}

impl ObjectKind {
    /// All kinds that a source sends.
    pub const ALL: [Self; 4] = [Self::Service, Self::Slice, Self::Node, Self::ServiceCidr];

    /// Returns the kind's name in the Kubernetes API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::Slice => "EndpointSlice",
            Self::Node => "Node",
            Self::ServiceCidr => "ServiceCIDR",
        }
    }
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A change of the desired state.
#[derive(Clone, PartialEq, Debug)]
pub enum SourceEvent {
    /// A Service was added or has changed. `None`: it was deleted, or another proxy serves it.
    Service(ObjectKey, Option<ServiceObject>),
    /// An `EndpointSlice` was added, has changed, or was deleted (`None`).
    Slice(ObjectKey, Option<SliceObject>),
    /// A Node, by name; `None` if it was deleted.
    Node(Box<str>, Option<NodeObject>),
    /// The ranges of a `ServiceCIDR`, by name; `None` if it was deleted.
    ServiceCidr(Box<str>, Option<Box<[IpNetwork]>>),
    /// All addresses at which the source may reach API servers.
    ApiServers(BTreeSet<IpAddr>),
    /// The source starts to list a kind again. Objects missing before the next
    /// [`SourceEvent::InSync`] were deleted.
    Relist(ObjectKind),
    /// The list of the kind is complete.
    InSync(ObjectKind),
    /// Part of an object, or a whole file, can't be used. The other parts and objects are used.
    Rejected(Rejection),
    /// All rejections of a file are void. (An object's rejections are voided by the object's own
    /// event, which comes before the new ones.)
    Cleared(PathBuf),
    /// The source can't read a kind at present, for this reason. It keeps trying.
    WatchError(ObjectKind, String),
}

/// The origin of a rejection.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum RejectionOrigin {
    /// An object of the API.
    Object {
        /// Kind of the object.
        kind: ObjectKind,
        /// Namespace (empty for Nodes and `ServiceCIDR`s) and name of the object.
        key: ObjectKey,
    },
    /// A file of the manifest directory.
    File {
        /// Path of the file.
        path: PathBuf,
    },
}

/// The category of a rejection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub enum Cause {
    /// The value of a field is invalid.
    #[default]
    Invalid,
    /// The address belongs to a node, to pods or to another Service's range.
    AddressRefused,
    /// An older Service has the same address, port and protocol.
    AddressConflict,
    /// The object is larger than what is served.
    LimitExceeded,
    /// A map has no room for the Service.
    TableFull,
    /// The kernel rejected a write.
    WriteFailed,
}

impl Cause {
    /// Returns the `reason` of the Event.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Invalid => "InvalidField",
            Self::AddressRefused => "AddressRefused",
            Self::AddressConflict => "AddressConflict",
            Self::LimitExceeded => "LimitExceeded",
            Self::TableFull => "TableFull",
            Self::WriteFailed => "WriteFailed",
        }
    }

    /// Returns true if the cause is specific to this node; other nodes may serve the Service.
    #[must_use]
    pub const fn is_local(self) -> bool {
        matches!(self, Self::TableFull | Self::WriteFailed)
    }
}

/// Most rejections of one object: one object with thousands of faults must not fill the log, the
/// Events and the memory of all nodes.
pub const MAX_OF_OBJECT: usize = 16;

/// A part of an object or file that can't be used, with the reason. Shown in the log, in Events and
/// by `ropeway status`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rejection {
    /// The object or file that contains it.
    pub origin: RejectionOrigin,
    /// Category of the reason.
    pub cause: Cause,
    /// Number of the YAML or JSON document in the file, from 1. `None` for objects.
    pub document: Option<usize>,
    /// Path of the field, such as `spec.ports[0].port`; empty for the whole object.
    pub field: String,
    /// The reason, as text for an operator.
    pub reason: String,
}

impl Rejection {
    /// Creates a rejection of a field of an object.
    #[must_use]
    pub fn of(kind: ObjectKind, key: &ObjectKey, field: impl Into<String>, reason: impl Into<String>) -> Self {
        let origin = RejectionOrigin::Object { kind, key: key.clone() };
        Self { origin, cause: Cause::Invalid, document: None, field: field.into(), reason: reason.into() }
    }

    /// Returns the rejection with another cause.
    #[must_use]
    pub fn because(self, cause: Cause) -> Self {
        Self { cause, ..self }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            RejectionOrigin::Object { kind, key } if key.namespace.is_empty() => write!(f, "{kind} {}", key.name)?,
            RejectionOrigin::Object { kind, key } => write!(f, "{kind} {key}")?,
            RejectionOrigin::File { path } => write!(f, "{}", path.display())?,
        }
        if let Some(document) = self.document {
            write!(f, ", document {document}")?;
        }
        if !self.field.is_empty() {
            write!(f, ", {}", self.field)?;
        }
        write!(f, ": {}", self.reason)
    }
}
