//! Decodes label selectors. A selector with an unusable part is unusable as a whole, because
//! without that part it would match more.

use std::collections::BTreeSet;

use super::Fault;
use super::field::Field;
use crate::policy::selector::{Condition, Requirement, Selector};

/// Decodes a selector.
pub(super) fn of(field: &Field<'_>) -> Result<Selector, Fault> {
    field.object()?;
    field.known(&["matchLabels", "matchExpressions"])?;
    let mut requirements = Vec::new();
    if let Some(labels) = field.get("matchLabels") {
        let Some(pairs) = labels.value.as_object() else { return Err(labels.fault("is not an object")) };
        for (key, value) in pairs {
            let Some(value) = value.as_str() else {
                return Err(labels.fault(format!("the value of {key:?} is not a string")));
            };
            let condition = Condition::In([value.into()].into());
            requirements.push(Requirement { key: key.as_str().into(), condition });
        }
    }
    if let Some(expressions) = field.get("matchExpressions") {
        let Some(items) = expressions.items() else { return Err(expressions.fault("is not a list")) };
        for item in items {
            requirements.push(requirement(&item)?);
        }
    }
    Ok(Selector { requirements })
}

fn requirement(field: &Field<'_>) -> Result<Requirement, Fault> {
    field.object()?;
    field.known(&["key", "operator", "values"])?;
    let key = field.text("key")?;
    if key.is_empty() {
        return Err(field.fault("has an empty key"));
    }
    let values = values(field)?;
    let condition = match (field.text("operator")?, values.is_empty()) {
        ("In", false) => Condition::In(values),
        ("NotIn", false) => Condition::NotIn(values),
        ("In" | "NotIn", true) => return Err(field.fault("has no values")),
        ("Exists", true) => Condition::Exists,
        ("DoesNotExist", true) => Condition::DoesNotExist,
        ("Exists" | "DoesNotExist", false) => return Err(field.fault("has values, which its operator does not take")),
        (other, _) => return Err(field.fault(format!("{other:?} is not a known operator"))),
    };
    Ok(Requirement { key: key.into(), condition })
}

fn values(field: &Field<'_>) -> Result<BTreeSet<Box<str>>, Fault> {
    let Some(list) = field.get("values") else { return Ok(BTreeSet::new()) };
    let Some(items) = list.items() else { return Err(list.fault("is not a list")) };
    items.iter().map(|item| item.value.as_str().map(Box::from).ok_or_else(|| item.fault("is not a string"))).collect()
}
