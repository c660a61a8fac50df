//! VERSION: which versions of the specification are supported.

use serde::Deserialize;

use crate::config::{NEWEST, VERSIONS};
use crate::error::CniError;

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Input {
    cni_version: Option<String>,
}

/// Answers in the version that is asked for, also one that is not supported.
pub(crate) fn run(input: &[u8]) -> Result<String, CniError> {
    let decode = |e: serde_json::Error| CniError::Decode { what: "standard input".into(), reason: e.to_string() };
    let input =
        if input.trim_ascii().is_empty() { Input::default() } else { serde_json::from_slice(input).map_err(decode)? };
    let version = input.cni_version.unwrap_or_else(|| NEWEST.into());
    Ok(serde_json::json!({ "cniVersion": version, "supportedVersions": VERSIONS }).to_string())
}
