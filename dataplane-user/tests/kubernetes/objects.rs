//! Requests for single objects of the test API server: create, read, patch, delete, with
//! preconditions.
//!
//! Each change increments the version and produces a watch event, as in a real API server.

use serde_json::{Value, json};

use super::server::Server;

/// A request for a single object, or to create one.
pub(crate) struct Request<'a> {
    pub(crate) method: &'a str,
    pub(crate) collection: &'a str,
    /// Name of the object; empty to create one in the collection.
    pub(crate) name: &'a str,
    pub(crate) body: &'a [u8],
}

/// The response, and the watch event of the change.
pub(crate) struct Answer {
    pub(crate) status: &'static str,
    pub(crate) body: Value,
    pub(crate) event: Option<Value>,
}

impl Answer {
    const fn plain(status: &'static str, body: Value) -> Self {
        Self { status, body, event: None }
    }

    fn failure(status: &'static str, reason: &str) -> Self {
        let code: u64 = status.split(' ').next().unwrap().parse().unwrap();
        let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason,
                          "message": reason, "metadata": {}});
        Self::plain(status, body)
    }
}

/// Executes the request on the objects of a collection.
pub(crate) fn answer(request: &Request<'_>, objects: &mut Vec<Value>, version: &mut u64) -> Answer {
    let found = objects.iter().position(|o| o["metadata"]["name"] == request.name);
    match (request.method, found) {
        ("GET", Some(i)) => Answer::plain("200 OK", objects[i].clone()),
        ("POST", _) => {
            let mut object: Value = serde_json::from_slice(request.body).unwrap();
            let name = object["metadata"]["name"].clone();
            if objects.iter().any(|o| o["metadata"]["name"] == name) {
                return Answer::failure("409 Conflict", "AlreadyExists");
            }
            *version += 1;
            let meta = object["metadata"].as_object_mut().unwrap();
            meta.insert("uid".into(), format!("uid-{version}").into());
            meta.insert("resourceVersion".into(), version.to_string().into());
            meta.insert("creationTimestamp".into(), format!("2026-01-01T00:00:{:02}Z", *version % 60).into());
            objects.push(object.clone());
            let event = Some(json!({"type": "ADDED", "object": object}));
            Answer { status: "201 Created", body: object, event }
        }
        // A merge patch with preconditions.
        ("PATCH", Some(i)) => {
            let wanted: Value = serde_json::from_slice(request.body).unwrap();
            for field in ["uid", "resourceVersion"] {
                if wanted["metadata"][field] != objects[i]["metadata"][field] {
                    return Answer::failure("409 Conflict", "Conflict");
                }
            }
            let spec = objects[i]["spec"].as_object_mut().unwrap();
            for (field, value) in wanted["spec"].as_object().unwrap() {
                spec.insert(field.clone(), value.clone());
            }
            spec.retain(|_, value| !value.is_null());
            *version += 1;
            objects[i]["metadata"]["resourceVersion"] = version.to_string().into();
            let object = objects[i].clone();
            let event = Some(json!({"type": "MODIFIED", "object": object}));
            Answer { status: "200 OK", body: object, event }
        }
        ("DELETE", Some(i)) => {
            let wanted: Value = serde_json::from_slice(request.body).unwrap_or_default();
            for field in ["uid", "resourceVersion"] {
                let precondition = &wanted["preconditions"][field];
                if !precondition.is_null() && *precondition != objects[i]["metadata"][field] {
                    return Answer::failure("409 Conflict", "Conflict");
                }
            }
            *version += 1;
            let mut object = objects.remove(i);
            object["metadata"]["resourceVersion"] = version.to_string().into();
            let event = Some(json!({"type": "DELETED", "object": object}));
            Answer { status: "200 OK", body: object, event }
        }
        _ => Answer::failure("404 Not Found", "NotFound"),
    }
}

impl Server {
    /// Adds an object to a collection and notifies the watches.
    pub(crate) fn add(&self, collection: &str, object: &Value) -> Value {
        let body = object.to_string();
        let request = Request { method: "POST", collection, name: "", body: body.as_bytes() };
        let (status, body) = self.change(&request);
        assert_eq!(status, "201 Created", "{body}");
        body
    }

    /// Removes an object of a collection and notifies the watches.
    pub(crate) fn remove(&self, collection: &str, name: &str) {
        let request = Request { method: "DELETE", collection, name, body: b"" };
        assert_eq!(self.change(&request).0, "200 OK");
    }
}
