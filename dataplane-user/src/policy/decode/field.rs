//! A JSON value with its path in the object, so that each fault names its field. The decoders of
//! policies walk objects by it.

use serde_json::Value;

use super::Fault;

/// A field of an object.
pub(super) struct Field<'a> {
    /// The path from the object's root.
    path: String,
    /// The field's value.
    pub(super) value: &'a Value,
}

impl<'a> Field<'a> {
    pub(super) fn new(path: impl Into<String>, value: &'a Value) -> Self {
        Self { path: path.into(), value }
    }

    /// Returns a field of this object; `None` if it is absent or null.
    pub(super) fn get(&self, name: &str) -> Option<Self> {
        let value = self.value.get(name).filter(|value| !value.is_null())?;
        Some(Self::new(format!("{}.{name}", self.path), value))
    }

    /// Returns the items of this list; `None` if it is not a list.
    pub(super) fn items(&self) -> Option<Vec<Self>> {
        let item = |(index, value)| Self::new(format!("{}[{index}]", self.path), value);
        Some(self.value.as_array()?.iter().enumerate().map(item).collect())
    }

    /// Fails unless this is an object.
    pub(super) fn object(&self) -> Result<(), Fault> {
        if self.value.is_object() { Ok(()) } else { Err(self.fault("is not an object")) }
    }

    /// Fails if this object has a field that is not in the list.
    pub(super) fn known(&self, names: &[&str]) -> Result<(), Fault> {
        let mut fields = self.value.as_object().into_iter().flatten();
        match fields.find(|(name, value)| !names.contains(&name.as_str()) && !value.is_null()) {
            None => Ok(()),
            Some((name, _)) => Err(Fault::new(format!("{}.{name}", self.path), "is not a known field")),
        }
    }

    /// Returns the text of a field that must be there.
    pub(super) fn text(&self, name: &str) -> Result<&'a str, Fault> {
        match self.get(name) {
            None => Err(Fault::new(format!("{}.{name}", self.path), "is missing")),
            Some(field) => field.value.as_str().ok_or_else(|| field.fault("is not a string")),
        }
    }

    pub(super) fn fault(&self, reason: impl Into<String>) -> Fault {
        Fault::new(self.path.clone(), reason)
    }
}
