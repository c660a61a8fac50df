//! Parses a manifest file into events.
//!
//! A syntax error or a value of the wrong type makes the whole file invalid. An invalid value of
//! the right type only affects its field (see `decode`). Objects of kinds that the agent does not
//! use are skipped.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::proxy::source::decode::{Decoded, Decoder};
use crate::proxy::source::kubernetes::split;
use crate::proxy::source::wire::{NodeWire, ServiceCidrWire, ServiceWire, SliceWire};
use crate::proxy::source::{ObjectKey, ObjectKind, SourceEvent};

/// Identity of an object in a manifest.
pub(super) type ManifestId = (ObjectKind, ObjectKey);

/// The reason why a file is invalid.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ParseError {
    /// Number of the document in the file, from 1.
    pub(super) document: Option<usize>,
    /// Path of the field in the document.
    pub(super) field: String,
    /// The reason, as text for an operator.
    pub(super) reason: String,
}

/// The contents of a valid file.
#[derive(Default)]
pub(super) struct ParsedFile {
    /// Document number, identity and events of each object.
    pub(super) objects: Vec<(usize, ManifestId, Vec<SourceEvent>)>,
}

/// Parses a file. Skips objects of other kinds.
pub(super) fn parse(path: &Path, bytes: &[u8], decoder: &mut Decoder) -> Result<ParsedFile, ParseError> {
    let mut parsed = ParsedFile::default();
    let json = path.extension().is_some_and(|e| e == "json");
    let documents = if json { json_documents(bytes) } else { yaml_documents(bytes) };
    for (document, value) in (1..).zip(documents) {
        let value = value.map_err(|reason| ParseError { document: Some(document), field: String::new(), reason })?;
        let mut sink = |id, events| parsed.objects.push((document, id, events));
        object(value, "", decoder, &mut sink).map_err(|(field, reason)| ParseError {
            document: Some(document),
            field,
            reason,
        })?;
    }
    Ok(parsed)
}

fn json_documents(bytes: &[u8]) -> Vec<Result<Value, String>> {
    serde_json::Deserializer::from_slice(bytes).into_iter().map(|v| v.map_err(|e| e.to_string())).collect()
}

fn yaml_documents(mut bytes: &[u8]) -> Vec<Result<Value, String>> {
    let options = serde_saphyr::options! {
        with_snippet: false,
        budget: serde_saphyr::budget! { max_events: MAX_EVENTS, max_nodes: MAX_EVENTS, max_documents: MAX_EVENTS },
    };
    let documents = serde_saphyr::read_with_options::<_, Value>(&mut bytes, options);
    documents.map(|v| v.map_err(|e| e.to_string())).collect()
}

/// Limit on YAML nodes, which is enough for 50,000 Services in one file.
const MAX_EVENTS: usize = 20_000_000;

/// Path of a field, and the reason why it is invalid.
type FieldError = (String, String);

fn object(
    value: Value,
    at: &str,
    decoder: &mut Decoder,
    sink: &mut impl FnMut(ManifestId, Vec<SourceEvent>),
) -> Result<(), FieldError> {
    // An empty YAML document, as after a trailing `---`.
    if value.is_null() {
        return Ok(());
    }
    let text = |field: &str| value.get(field).and_then(Value::as_str).map(str::to_owned);
    let (Some(version), Some(kind)) = (text("apiVersion"), text("kind")) else {
        let field = if text("kind").is_none() { "kind" } else { "apiVersion" };
        return Err((format!("{at}{field}"), "is missing; every Kubernetes object has it".into()));
    };
    match (version.as_str(), kind.as_str()) {
        (_, list) if list.ends_with("List") && value.get("items").is_some() => items(value, at, decoder, sink),
        ("v1", "Service") => {
            let decoded = decoder.service(&typed::<ServiceWire>(value, at)?);
            emit(ObjectKind::Service, decoded, at, sink, SourceEvent::Service)
        }
        ("discovery.k8s.io/v1", "EndpointSlice") => {
            let decoded = decoder.slice(&typed::<SliceWire>(value, at)?);
            emit(ObjectKind::Slice, decoded, at, sink, SourceEvent::Slice)
        }
        ("v1", "Node") => {
            let decoded = decoder.node(&typed::<NodeWire>(value, at)?);
            emit(ObjectKind::Node, decoded, at, sink, |key, object| SourceEvent::Node(key.name, object))
        }
        ("networking.k8s.io/v1", "ServiceCIDR") => {
            let decoded = decoder.service_cidr(&typed::<ServiceCidrWire>(value, at)?);
            emit(ObjectKind::ServiceCidr, decoded, at, sink, |key, ranges| SourceEvent::ServiceCidr(key.name, ranges))
        }
        (other, "Service" | "EndpointSlice" | "Node" | "ServiceCIDR") => {
            Err((format!("{at}apiVersion"), format!("{other:?} is not a supported version of {kind}")))
        }
        _ => Ok(()),
    }
}

/// Parses a list. Its items may omit kind and version, as in responses of the API server.
fn items(
    mut value: Value,
    at: &str,
    decoder: &mut Decoder,
    sink: &mut impl FnMut(ManifestId, Vec<SourceEvent>),
) -> Result<(), FieldError> {
    let kind = value.get("kind").and_then(Value::as_str).unwrap_or_default().trim_end_matches("List").to_owned();
    let version = value.get("apiVersion").cloned().unwrap_or_default();
    let Some(Value::Array(items)) = value.get_mut("items").map(Value::take) else {
        return Err((format!("{at}items"), "is not a list".into()));
    };
    for (i, mut item) in items.into_iter().enumerate() {
        // In responses of the API server only the list itself names kind and version.
        if let Some(fields) = item.as_object_mut().filter(|_| !kind.is_empty()) {
            fields.entry("kind").or_insert_with(|| kind.clone().into());
            fields.entry("apiVersion").or_insert_with(|| version.clone());
        }
        object(item, &format!("{at}items[{i}]."), decoder, sink)?;
    }
    Ok(())
}

fn typed<T: DeserializeOwned>(value: Value, at: &str) -> Result<T, FieldError> {
    serde_path_to_error::deserialize(value).map_err(|e| (format!("{at}{}", e.path()), e.inner().to_string()))
}

fn emit<T>(
    kind: ObjectKind,
    decoded: Decoded<T>,
    at: &str,
    sink: &mut impl FnMut(ManifestId, Vec<SourceEvent>),
    event: impl FnOnce(ObjectKey, Option<T>) -> SourceEvent,
) -> Result<(), FieldError> {
    if decoded.key.name.is_empty() {
        return Err((format!("{at}metadata.name"), "is missing".into()));
    }
    sink((kind, decoded.key.clone()), split(decoded, event));
    Ok(())
}
