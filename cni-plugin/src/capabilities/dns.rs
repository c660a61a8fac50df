//! DNS settings for the result: capability `dns`.
//!
//! Passed on in the field names of a result; the plugin does not use them.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::CniError;

/// The runtime's form; results use other field names.
#[derive(Default, Deserialize)]
struct RawDns {
    #[serde(default)]
    servers: Option<Vec<String>>,
    #[serde(default)]
    searches: Option<Vec<String>>,
    #[serde(default)]
    options: Option<Vec<String>>,
}

/// Parses the runtime's settings and returns them under the field names of a result.
pub(super) fn parse(value: Option<Value>) -> Result<Option<Value>, CniError> {
    let raw: Option<RawDns> = value
        .map_or(Ok(None), serde_json::from_value)
        .map_err(|e| CniError::config("runtimeConfig.dns", e.to_string()))?;
    let Some(RawDns { servers, searches, options }) = raw else { return Ok(None) };
    let mut dns = json!({});
    for (name, list) in [("nameservers", servers), ("search", searches), ("options", options)] {
        if let Some(list) = list.filter(|list| !list.is_empty()) {
            dns[name] = list.into();
        }
    }
    Ok(dns.as_object().is_some_and(|fields| !fields.is_empty()).then_some(dns))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dns_uses_result_field_names() {
        let dns = |value| parse(Some(value)).map_err(|e| e.to_string());
        let value = json!({ "servers": ["10.96.0.10"], "searches": ["svc.cluster.local"], "options": ["ndots:5"] });
        let expected =
            json!({ "nameservers": ["10.96.0.10"], "search": ["svc.cluster.local"], "options": ["ndots:5"] });
        assert_eq!(dns(value).unwrap(), Some(expected));
        assert_eq!(dns(json!({ "servers": null, "searches": [] })).unwrap(), None);
        assert!(dns(json!({ "servers": "10.96.0.10" })).unwrap_err().contains("runtimeConfig.dns: invalid type"));
    }
}
