//! Generates docs/configuration.md from the declarations of options and commands, and compares it.
//!
//! The agent's options come from [`Options`] (clap and serde attributes, doc comments), the
//! commands from [`Cli`]. The plugin's keys are written out here, because the plugin is a crate of
//! its own. `ROPEWAY_WRITE_DOCS=1 cargo test -p dataplane-user configuration_reference` writes the
//! file. Other tests here prove that the documented defaults and ranges are those of the code.

use std::fmt::Write as _;
use std::path::Path;

use clap::{Arg, ArgAction, Args as _, Command, CommandFactory, FromArgMatches as _};
use serde::Deserialize;
use serde::de::value::Error as ValueError;
use serde::de::{Deserializer, Error as _, Visitor};

use crate::cli::Cli;
use crate::config::{Config, Options};
use crate::load::sizes::Sizes;

const FILE: &str = "../docs/configuration.md";
const COLUMNS: usize = 100;

const INTRODUCTION: &str = "\
# Configuration

This page is generated from the options of the code; a test compares the two.

The agent reads each option from its flag, else from its environment variable, else from the
configuration file (`--config FILE` or `ROPEWAY_CONFIG`), else it takes the default. The file is
YAML. Its keys are the flags' names in camel case; lists are YAML lists. A list in a flag or in a
variable is separated by commas, and a flag can be repeated. Unknown keys and values out of range
are errors: the agent names the option and exits with code 2.

In a cluster the file is the ConfigMap `ropeway` ([example](../manifests/base/config.yaml)). A
change of an option takes effect when the agent is restarted, which does not interrupt traffic.
`curl 127.0.0.1:10249/configz` shows the configuration of a running agent.
";

const PLUGIN: &str = "\
## CNI plugin

The container runtime passes the network configuration to `ropeway-cni`. With `--cni-conflist` the
agent writes it and these keys need no attention. For a configuration of your own:

| key | default | value |
|---|---|---|
| `cniVersion` | required | 0.3.0, 0.3.1, 0.4.0, 1.0.0 or 1.1.0 |
| `name` | required | network name, at most 255 characters |
| `type` | required | `ropeway-cni` |
| `pinRoot` | `/sys/fs/bpf/ropeway` | absolute path; the same as the agent's `--pin-root` |
| `stateDir` | `/var/lib/ropeway` | absolute path; the same as the agent's `--state-dir` |
| `ranges` | the node's pod ranges or pool blocks, from the agent | list of CIDRs; a pod gets one address per family |
| `mtu` | the agent's pod MTU, else 1500 | bytes, 1280 to 65535 (from 68 if all ranges are IPv4) |
| `dns` | none | returned to the runtime unchanged |
| `capabilities` | none | `portMappings`, `bandwidth`, `ips`, `mac`, `dns`, `ipRanges`; the runtime then passes the values of a pod in `runtimeConfig` |

With `--ipam pools` the capability `io.kubernetes.cri.pod-annotations` lets pods choose pools by
annotation. `ipRanges` narrows `ranges` and is rejected if the agent manages the ranges.
";

/// One of the agent's options as clap and serde know it.
struct Documented {
    arg: Arg,
    key: &'static str,
    summary: String,
    default: Option<String>,
    range: Option<String>,
    advice: String,
}

/// Returns the options in the order of their declaration.
fn documented() -> Vec<Documented> {
    let command = Options::augment_args(Command::new("ropeway-agent"));
    let keys = file_keys();
    let args: Vec<_> = command.get_arguments().cloned().collect();
    assert_eq!(args.len(), keys.len(), "an option without a file key");
    args.into_iter().zip(keys).map(|(arg, key)| Documented::new(arg, key)).collect()
}

impl Documented {
    fn new(arg: Arg, key: &'static str) -> Self {
        let short = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let long = arg.get_long_help().map(ToString::to_string).unwrap_or_default();
        let advice = long.strip_prefix(&short).unwrap_or_default().trim().to_owned();
        assert!(!advice.is_empty(), "--{}: the second paragraph says when to change it", arg.get_id());
        let (short, range) = annotation(&short, "range");
        let (summary, default) = annotation(&short, "default");
        Self { arg, key, summary, default, range, advice }
    }

    fn flag(&self) -> &str {
        self.arg.get_long().unwrap_or_default()
    }

    fn value_name(&self) -> &str {
        self.arg.get_value_names().and_then(|names| names.first()).map_or("", |name| name.as_str())
    }

    fn is_list(&self) -> bool {
        matches!(self.arg.get_action(), ArgAction::Append)
    }

    fn value(&self) -> String {
        let one = match self.value_name() {
            "SECONDS" => "seconds",
            "BYTES" => "bytes",
            "ENTRIES" => "entries",
            "SLOTS" => "slots",
            "BOOL" => "`true` or `false`",
            "DIR" => "directory",
            "FILE" => "file",
            other => &format!("`{other}`"),
        };
        if self.is_list() { format!("list of {one}") } else { one.to_owned() }
    }

    /// Appends the section of this option.
    fn render(&self, out: &mut String) {
        let env = self.arg.get_env().unwrap_or_default().to_string_lossy();
        let cell = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
        let default = self.default.as_ref().map(|d| if d.contains(' ') { d.clone() } else { format!("`{d}`") });
        let (default, range) = (cell(&default), cell(&self.range));
        let _ = writeln!(out, "\n### `--{} {}`\n", self.flag(), self.value_name());
        let _ = writeln!(out, "{}\n", fill(&format!("{}.", self.summary)));
        let _ = writeln!(out, "| file | environment | value | default | range |\n|---|---|---|---|---|");
        let _ = writeln!(out, "| `{}` | `{env}` | {} | {default} | {range} |\n", self.key, self.value());
        let values: Vec<_> = self.arg.get_possible_values().into_iter().filter(|v| v.get_help().is_some()).collect();
        for value in &values {
            let help = value.get_help().map(ToString::to_string).unwrap_or_default();
            let _ = writeln!(out, "- `{}`: {help}", value.get_name());
        }
        let _ = writeln!(out, "{}{}", if values.is_empty() { "" } else { "\n" }, fill(&self.advice));
    }
}

/// Splits `[name: value]` off the end of a text.
fn annotation(text: &str, name: &str) -> (String, Option<String>) {
    match text.split_once(&format!(" [{name}: ")) {
        Some((before, after)) => (before.to_owned(), after.strip_suffix(']').map(ToOwned::to_owned)),
        None => (text.to_owned(), None),
    }
}

/// Returns the keys of the configuration file in the order of the fields of [`Options`].
fn file_keys() -> &'static [&'static str] {
    let mut fields: &'static [&'static str] = &[];
    // Always an error: the deserializer only records the names with which serde calls it.
    assert!(Options::deserialize(FieldNames(&mut fields)).is_err());
    fields
}

struct FieldNames<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for FieldNames<'_> {
    type Error = ValueError;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, ValueError> {
        Err(ValueError::custom("no value"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, ValueError> {
        *self.0 = fields;
        Err(ValueError::custom("no value"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// Breaks a paragraph into lines of at most 100 columns.
fn fill(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().unwrap();
        if !line.is_empty() && line.len() + 1 + word.len() > COLUMNS {
            lines.push(word.to_owned());
        } else {
            line.push_str(if line.is_empty() { "" } else { " " });
            line.push_str(word);
        }
    }
    lines.join("\n")
}

fn agent() -> String {
    let mut out = String::new();
    let mut heading = String::new();
    for option in documented() {
        let group = option.arg.get_help_heading().unwrap_or_default();
        if group != heading {
            heading = group.to_owned();
            let _ = write!(out, "\n## Agent: {}\n", heading.to_lowercase());
        }
        option.render(&mut out);
    }
    out
}

fn commands() -> String {
    let command = Cli::command();
    let mut out = String::from("\n## Commands\n\n");
    let about =
        "`ropeway` shows and removes the dataplane of a node. It works without the agent and without an API server.";
    let _ = writeln!(out, "{}\n", fill(about));
    let _ = writeln!(out, "| option | environment | default | what it sets |\n|---|---|---|---|");
    for arg in command.get_arguments().filter(|a| a.get_env().is_some() || a.get_short() == Some('o')) {
        let name = arg.get_long().unwrap_or_default();
        let env = arg.get_env().map_or("-".into(), |env| format!("`{}`", env.to_string_lossy()));
        let default = arg.get_default_values().first().map_or("-".into(), |v| format!("`{}`", v.to_string_lossy()));
        let _ = writeln!(out, "| `--{name}` | {env} | {default} | {} |", arg.get_help().unwrap_or_default());
    }
    let _ = writeln!(out, "\n| command | what it does |\n|---|---|");
    list(&command, "ropeway", &mut out);
    out
}

/// Appends a row for each command that has no subcommands.
fn list(command: &Command, path: &str, out: &mut String) {
    if !command.has_subcommands() {
        let values = command.get_positionals().map(|a| {
            let name = a.get_value_names().and_then(|n| n.first()).map_or("", |n| n.as_str());
            if a.is_required_set() { format!(" {name}") } else { format!(" [{name}]") }
        });
        let values: String = values.collect();
        let _ = writeln!(out, "| `{path}{values}` | {} |", command.get_about().unwrap_or_default());
    }
    for sub in command.get_subcommands() {
        list(sub, &format!("{path} {}", sub.get_name()), out);
    }
}

#[test]
fn configuration_reference_matches_the_options() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE);
    let text = format!("{INTRODUCTION}{}\n{PLUGIN}{}", agent(), commands());
    if std::env::var_os("ROPEWAY_WRITE_DOCS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    let line = text.lines().zip(found.lines()).position(|(a, b)| a != b).map_or(0, |n| n + 1);
    assert!(found == text, "docs/configuration.md differs from line {line}: ROPEWAY_WRITE_DOCS=1 writes it");
    let long = text.lines().find(|l| l.len() > COLUMNS && !l.starts_with('|'));
    assert_eq!(long, None, "more than {COLUMNS} columns");
    for default in [dataplane_host::pins::DEFAULT_ROOT, "/var/lib/ropeway"] {
        assert!(PLUGIN.contains(default), "{default}");
    }
}

fn parse(args: &[String]) -> Result<Config, String> {
    let command = Options::augment_args(Command::new("ropeway-agent").no_binary_name(true));
    let matches = command.try_get_matches_from(args).map_err(|e| e.to_string())?;
    let mut options = Options::from_arg_matches(&matches).map_err(|e| e.to_string())?;
    options.node_name.get_or_insert_with(|| "n1".into());
    Config::new(options).map_err(|e| e.to_string())
}

#[test]
fn documented_defaults_are_those_of_the_code() {
    let unset = parse(&[]).unwrap();
    let mut checked = 0;
    for option in documented() {
        // Defaults with blanks describe a rule, such as "from the Node object".
        let Some(default) = option.default.as_ref().filter(|d| !d.contains(' ')) else { continue };
        let set = parse(&[format!("--{}={default}", option.flag())]).unwrap();
        if option.value_name() == "ENTRIES" {
            assert_eq!(Sizes::new(&set.tables, 0), Sizes::new(&unset.tables, 0), "--{}", option.flag());
        } else {
            assert_eq!(set, unset, "--{}", option.flag());
        }
        checked += 1;
    }
    assert!(checked >= 22, "{checked}");
}

#[test]
fn documented_ranges_are_those_of_the_code() {
    let mut checked = 0;
    for option in documented() {
        let Some(range) = &option.range else { continue };
        let accepts = |value: i64| parse(&[format!("--{}={value}", option.flag())]).is_ok();
        if let Some(values) = range.strip_prefix("one of ") {
            for value in values.split(", ").map(|v| v.parse::<i64>().unwrap()) {
                assert!(accepts(value) && !accepts(value + 1), "--{}={value}", option.flag());
                checked += 1;
            }
        } else if !range.starts_with("within ") {
            for part in range.split(" or ") {
                let (first, last) = part.split_once(" to ").unwrap();
                let (first, last) = (first.parse::<i64>().unwrap(), last.parse::<i64>().unwrap());
                assert!(accepts(first) && accepts(last), "--{} {part}", option.flag());
                assert!(!accepts(first - 1) && !accepts(last + 1), "--{} {part}", option.flag());
                checked += 1;
            }
        }
    }
    assert!(checked >= 25, "{checked}");
}
