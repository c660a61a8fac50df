//! Label selectors.
//!
//! `matchLabels` becomes requirements like those of `matchExpressions`. Keys and values are
//! compared as plain strings, because the API server keeps old objects whose values are no valid
//! labels.

use std::collections::BTreeSet;

use super::object::Labels;

/// Chooses objects by their labels; all requirements must hold.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Selector {
    /// The requirements; none matches every object.
    pub requirements: Vec<Requirement>,
}

/// A condition on one label.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Requirement {
    /// The label's key.
    pub key: Box<str>,
    /// The condition on the label's value.
    pub condition: Condition,
}

/// A condition on the value of a label.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Condition {
    /// The label exists and has one of the values.
    In(BTreeSet<Box<str>>),
    /// The label does not exist or has none of the values.
    NotIn(BTreeSet<Box<str>>),
    /// The label exists.
    Exists,
    /// The label does not exist.
    DoesNotExist,
}

impl Selector {
    /// Returns the selector that matches every object.
    #[must_use]
    pub fn everything() -> Self {
        Self::default()
    }

    /// Returns true if an object with these labels matches.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        self.requirements.iter().all(|requirement| requirement.matches(labels))
    }
}

impl Requirement {
    fn matches(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        match &self.condition {
            Condition::In(values) => value.is_some_and(|value| values.contains(value)),
            Condition::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            Condition::Exists => value.is_some(),
            Condition::DoesNotExist => value.is_none(),
        }
    }
}
