//! Builds the Event object for a notice.
//!
//! Keeps to the API's length limits, and chooses the name so that equal Events of all nodes
//! collide. Sends nothing.

use dataplane_common::types::fnv;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;

use super::Notice;
use crate::proxy::source::ObjectKind;

/// Maximum length of the note in bytes; the API's limit is 1024.
const NOTE: usize = 1000;
/// Maximum length of the reporting instance in characters; the API's limit.
const INSTANCE: usize = 128;
/// Maximum length of the object's name in the Event's name, which may have 253 characters in all.
const NAME: usize = 230;

/// Builds the Event.
///
/// The name contains a hash of object, reason, text and hour. The API server rejects a second Event
/// with the same name, and accepts it again in the next hour.
pub(super) fn event(notice: &Notice, uid: String, node: &str, now: Timestamp) -> Event {
    let mut note = notice.note.clone();
    if notice.local && !note.contains(node) {
        note = format!("node {node}: {note}");
    }
    if note.len() > NOTE {
        // The limit counts bytes, but the text must end between two characters.
        let end = (0..=NOTE).rev().find(|i| note.is_char_boundary(*i)).unwrap_or(0);
        note.truncate(end);
        note.push_str("...");
    }
    // With the hour in the name, a lasting fault gets a new Event every hour.
    let hour = (now.as_second() / 3600).to_string();
    let hash = hash_of([notice.kind.name(), uid.as_str(), notice.reason, note.as_str(), hour.as_str()]);
    let api_version = if notice.kind == ObjectKind::Slice { "discovery.k8s.io/v1" } else { "v1" };
    let name: String = notice.key.name.chars().take(NAME).collect();
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}.{hash:016x}")),
            namespace: Some(notice.key.namespace.to_string()),
            ..ObjectMeta::default()
        },
        action: Some("Serve".into()),
        event_time: Some(MicroTime(now)),
        note: Some(note),
        reason: Some(notice.reason.into()),
        regarding: Some(ObjectReference {
            api_version: Some(api_version.into()),
            kind: Some(notice.kind.name().into()),
            name: Some(notice.key.name.to_string()),
            namespace: Some(notice.key.namespace.to_string()),
            uid: Some(uid),
            ..ObjectReference::default()
        }),
        reporting_controller: Some("ropeway.dev/agent".into()),
        reporting_instance: Some(node.chars().take(INSTANCE).collect()),
        type_: Some("Warning".into()),
        ..Event::default()
    }
}

/// Hashes the parts, each with a zero byte after it so that no two lists of parts have the same
/// bytes.
pub(super) fn hash_of(parts: [&str; 5]) -> u64 {
    parts.iter().fold(fnv::BASIS64, |hash, part| fnv::extend64(fnv::extend64(hash, part.as_bytes()), &[0]))
}
