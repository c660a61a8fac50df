//! Reads the `JUnit` reports of upstream's tests.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use quick_xml::Reader;
use quick_xml::escape::unescape;
use quick_xml::events::{BytesStart, Event};

/// The outcome of a test.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    Passed,
    Failed,
    Skipped,
}

/// One test of a `JUnit` report.
#[derive(PartialEq, Debug)]
pub(super) struct Case {
    pub(super) name: String,
    pub(super) seconds: f64,
    pub(super) outcome: Outcome,
    /// The failure in one line; empty if the test did not fail.
    pub(super) reason: String,
}

/// Reads all tests of a run, by name.
pub(super) fn read(directory: &Path) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with("junit") && path.extension().is_some_and(|e| e == "xml") {
            let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            cases.extend(parse(&text).with_context(|| format!("cannot parse {}", path.display()))?);
        }
    }
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(cases)
}

fn parse(text: &str) -> Result<Vec<Case>> {
    let mut reader = Reader::from_str(text);
    let (mut cases, mut current): (Vec<Case>, Option<Case>) = (Vec::new(), None);
    loop {
        match reader.read_event()? {
            Event::Start(e) if e.name().as_ref() == b"testcase" => current = case(&e)?,
            Event::Empty(e) if e.name().as_ref() == b"testcase" => cases.extend(case(&e)?),
            Event::Start(e) if e.name().as_ref() == b"failure" => {
                let reason = reader.read_text(e.name())?;
                if let Some(case) = &mut current {
                    case.reason = one_line(&unescape(&reason)?);
                }
            }
            Event::End(e) if e.name().as_ref() == b"testcase" => cases.extend(current.take()),
            Event::Eof => return Ok(cases),
            _ => {}
        }
    }
}

/// Parses a test; set-up and tear-down of the suite do not count.
fn case(element: &BytesStart) -> Result<Option<Case>> {
    let name = attribute(element, "name")?;
    let Some(name) = name.strip_prefix("[It] ") else { return Ok(None) };
    let outcome = match attribute(element, "status")?.as_str() {
        "passed" => Outcome::Passed,
        "skipped" | "pending" => Outcome::Skipped,
        _ => Outcome::Failed,
    };
    let seconds = attribute(element, "time")?.parse().unwrap_or_default();
    Ok(Some(Case { name: name.into(), seconds, outcome, reason: String::new() }))
}

fn attribute(element: &BytesStart, name: &str) -> Result<String> {
    let value =
        element.try_get_attribute(name)?.map(|a| a.unescape_value().map(std::borrow::Cow::into_owned)).transpose()?;
    Ok(value.unwrap_or_default())
}

fn one_line(text: &str) -> String {
    let text = text.trim().trim_start_matches("[FAILED] ");
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "/");
    line.chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn junit_outcomes_and_reasons_are_parsed() {
        let text = r#"<testsuites><testsuite>
            <testcase name="[SynchronizedBeforeSuite]" status="passed" time="1"></testcase>
            <testcase name="[It] a &amp; b" status="passed" time="1.5"><system-out>x</system-out></testcase>
            <testcase name="[It] c" status="failed" time="2"><failure message="" type="failed">[FAILED] it&#xA;broke | here</failure></testcase>
            <testcase name="[It] d" status="skipped" time="0"><skipped message="skipped"></skipped></testcase>
            </testsuite></testsuites>"#;
        let cases = parse(text).unwrap();
        let found: Vec<_> = cases.iter().map(|c| (c.name.as_str(), c.seconds, c.outcome, c.reason.as_str())).collect();
        let expected = [
            ("a & b", 1.5, Outcome::Passed, ""),
            ("c", 2.0, Outcome::Failed, "it broke / here"),
            ("d", 0.0, Outcome::Skipped, ""),
        ];
        assert_eq!(found, expected);
    }
}
