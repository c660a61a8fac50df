//! Where the desired state comes from: Kubernetes or a directory of manifests.
//!
//! Both sources decode objects into the same compact types and send the same [`SourceEvent`]s over one channel: a complete
//! initial state, then [`Event::InSync`], then changes. A source only reads; it decides nothing about the dataplane.

pub mod decode;
mod intern;
pub mod kubernetes;
pub mod manifests;
pub mod object;
pub(crate) mod watch_errors;
pub mod wire;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use ipnetwork::IpNetwork;
use tokio::sync::mpsc;

pub use object::{NodeObject, PodObject, ServiceObject, SliceObject};

/// What both sources send to.
pub type EventSender = mpsc::Sender<SourceEvent>;

/// Names an object of a namespace.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ObjectKey {
    /// Namespace; one allocation for all objects in it.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Box<str>,
}

impl ObjectKey {
    /// A key with its own copy of the namespace.
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
    /// `Service`.
    Service,
    /// `EndpointSlice`.
    Slice,
    /// `Node`.
    Node,
    /// `Pod`, of this node only.
    Pod,
    /// `ServiceCIDR`: a range of cluster IPs.
    ServiceCidr,
}

impl ObjectKind {
    /// All kinds.
    pub const ALL: [Self; 5] = [Self::Service, Self::Slice, Self::Node, Self::Pod, Self::ServiceCidr];

    /// The kind's name in the Kubernetes API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::Slice => "EndpointSlice",
            Self::Node => "Node",
            Self::Pod => "Pod",
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
    /// A Service is there or has changed; `None`: it is gone or no longer ours.
    Service(ObjectKey, Option<ServiceObject>),
    /// An `EndpointSlice`.
    Slice(ObjectKey, Option<SliceObject>),
    /// A Node, by name.
    Node(Box<str>, Option<NodeObject>),
    /// A Pod of this node.
    Pod(ObjectKey, Option<PodObject>),
    /// A `ServiceCIDR`, by name: its ranges.
    ServiceCidr(Box<str>, Option<Box<[IpNetwork]>>),
    /// The source starts to list a kind anew: what it does not mention before the next [`Event::InSync`] is gone.
    Relist(ObjectKind),
    /// The kind is complete.
    InSync(ObjectKind),
    /// Part of an object, or a whole file, can't be used. Nothing else is disturbed.
    Rejected(Rejection),
    /// What was rejected of a file before no longer holds. (For an object, the object's own event says so: it comes before
    /// the rejections of its parts.)
    Cleared(PathBuf),
    /// The source can't read a kind at present; it tries again by itself.
    Trouble(ObjectKind, String),
}

/// What a rejection is about.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum RejectionOrigin {
    /// An object.
    Object {
        /// Its kind.
        kind: ObjectKind,
        /// Its namespace (empty for Nodes and `ServiceCIDR`s) and name.
        key: ObjectKey,
    },
    /// A file of the manifest directory.
    File {
        /// Its path.
        path: PathBuf,
    },
}

/// Why something can't be used, in a word.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub enum Cause {
    /// A value that makes no sense.
    #[default]
    Invalid,
    /// An address that no Service may have.
    AddressRefused,
    /// An address, port and protocol that another Service has.
    AddressConflict,
    /// A table has no room.
    TableFull,
    /// The kernel refused.
    WriteFailed,
}

impl Cause {
    /// The `reason` of an Event.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Invalid => "InvalidField",
            Self::AddressRefused => "AddressRefused",
            Self::AddressConflict => "AddressConflict",
            Self::TableFull => "TableFull",
            Self::WriteFailed => "WriteFailed",
        }
    }

    /// Whether only this node knows of it; other nodes may have room.
    #[must_use]
    pub const fn is_local(self) -> bool {
        matches!(self, Self::TableFull | Self::WriteFailed)
    }
}

/// Something that can't be used, and why: for the log, for Events and for `ropeway status`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rejection {
    /// The object or file.
    pub origin: RejectionOrigin,
    /// Why, in a word.
    pub cause: Cause,
    /// Files: which YAML document, from 1.
    pub document: Option<usize>,
    /// The field, as in `spec.ports[0].port`; empty: the whole.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

impl Rejection {
    /// About a field of an object.
    #[must_use]
    pub fn of(kind: ObjectKind, key: &ObjectKey, field: impl Into<String>, reason: impl Into<String>) -> Self {
        let origin = RejectionOrigin::Object { kind, key: key.clone() };
        Self { origin, cause: Cause::Invalid, document: None, field: field.into(), reason: reason.into() }
    }

    /// The same with another cause.
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
