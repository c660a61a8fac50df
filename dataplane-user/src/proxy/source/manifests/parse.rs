//! From the bytes of a manifest to events. Any fault of form spoils the file; what is only out of place in an object spoils its field.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::files::ManifestId;
use crate::proxy::source::decode::{Decoded, Decoder};
use crate::proxy::source::kubernetes::split;
use crate::proxy::source::wire::{NodeWire, PodWire, ServiceCidrWire, ServiceWire, SliceWire};
use crate::proxy::source::{ObjectKey, ObjectKind, SourceEvent};

/// Why a file can't be used.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// Which document, from 1.
    pub(super) document: Option<usize>,
    /// Where in it.
    pub(super) field: String,
    /// What is wrong.
    pub(super) reason: String,
}

/// What a file says.
#[derive(Default)]
pub(super) struct ParsedFile {
    /// The document, the object, and its events.
    pub(super) objects: Vec<(usize, ManifestId, Vec<SourceEvent>)>,
}

/// Objects of other kinds are none of our business and are skipped.
pub(super) fn parse(path: &Path, bytes: &[u8], decoder: &mut Decoder) -> Result<ParsedFile, Fault> {
    let mut parsed = ParsedFile::default();
    let json = path.extension().is_some_and(|e| e == "json");
    let documents = if json { json_documents(bytes) } else { yaml_documents(bytes) };
    for (document, value) in (1..).zip(documents) {
        let value = value.map_err(|reason| Fault { document: Some(document), field: String::new(), reason })?;
        let mut sink = |id, events| parsed.objects.push((document, id, events));
        object(value, "", decoder, &mut sink).map_err(|(field, reason)| Fault {
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

/// Enough for 50,000 Services in one file.
const MAX_EVENTS: usize = 20_000_000;

type FieldFault = (String, String);

fn object(
    value: Value,
    at: &str,
    decoder: &mut Decoder,
    sink: &mut impl FnMut(ManifestId, Vec<SourceEvent>),
) -> Result<(), FieldFault> {
    if value.is_null() {
        return Ok(());
    }
    let text = |field: &str| value.get(field).and_then(Value::as_str).map(str::to_owned);
    let (Some(version), Some(kind)) = (text("apiVersion"), text("kind")) else {
        let field = if text("kind").is_none() { "kind" } else { "apiVersion" };
        return Err((format!("{at}{field}"), "is missing: this is no Kubernetes object".into()));
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
        ("v1", "Pod") => {
            let decoded = decoder.pod(&typed::<PodWire>(value, at)?);
            emit(ObjectKind::Pod, decoded, at, sink, SourceEvent::Pod)
        }
        ("networking.k8s.io/v1", "ServiceCIDR") => {
            let decoded = decoder.service_cidr(&typed::<ServiceCidrWire>(value, at)?);
            emit(ObjectKind::ServiceCidr, decoded, at, sink, |key, ranges| SourceEvent::ServiceCidr(key.name, ranges))
        }
        (other, "Service" | "EndpointSlice" | "Node" | "Pod" | "ServiceCIDR") => {
            Err((format!("{at}apiVersion"), format!("{other:?} is not a version of {kind} that is understood")))
        }
        _ => Ok(()),
    }
}

/// A list whose items need not say what they are, as in the API's own answers.
fn items(
    mut value: Value,
    at: &str,
    decoder: &mut Decoder,
    sink: &mut impl FnMut(ManifestId, Vec<SourceEvent>),
) -> Result<(), FieldFault> {
    let kind = value.get("kind").and_then(Value::as_str).unwrap_or_default().trim_end_matches("List").to_owned();
    let version = value.get("apiVersion").cloned().unwrap_or_default();
    let Some(Value::Array(items)) = value.get_mut("items").map(Value::take) else {
        return Err((format!("{at}items"), "is not a list".into()));
    };
    for (i, mut item) in items.into_iter().enumerate() {
        if let Some(fields) = item.as_object_mut().filter(|_| !kind.is_empty()) {
            fields.entry("kind").or_insert_with(|| kind.clone().into());
            fields.entry("apiVersion").or_insert_with(|| version.clone());
        }
        object(item, &format!("{at}items[{i}]."), decoder, sink)?;
    }
    Ok(())
}

fn typed<T: DeserializeOwned>(value: Value, at: &str) -> Result<T, FieldFault> {
    serde_path_to_error::deserialize(value).map_err(|e| (format!("{at}{}", e.path()), e.inner().to_string()))
}

fn emit<T>(
    kind: ObjectKind,
    decoded: Decoded<T>,
    at: &str,
    sink: &mut impl FnMut(ManifestId, Vec<SourceEvent>),
    event: impl FnOnce(ObjectKey, Option<T>) -> SourceEvent,
) -> Result<(), FieldFault> {
    if decoded.key.name.is_empty() {
        return Err((format!("{at}metadata.name"), "is missing".into()));
    }
    sink((kind, decoded.key.clone()), split(decoded, event));
    Ok(())
}
