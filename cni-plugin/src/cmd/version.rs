//! VERSION: returns the supported versions of the CNI specification.
//!
//! Reads no state.

use crate::config::{object, take};
use crate::error::CniError;
use crate::spec::{NEWEST, VERSIONS};

/// Answers in the version that is asked for, also one that is not supported.
pub(crate) fn run(input: &[u8]) -> Result<String, CniError> {
    let asked = if input.trim_ascii().is_empty() { None } else { take::<String>(&mut object(input)?, "cniVersion")? };
    let version = asked.unwrap_or_else(|| NEWEST.into());
    Ok(serde_json::json!({ "cniVersion": version, "supportedVersions": VERSIONS }).to_string())
}
