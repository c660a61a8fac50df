//! The environment of a call: verb, container, interface, namespace, `CNI_ARGS`.
//!
//! Names are checked here, before they become parts of file or device names. They never become
//! paths.

use std::ffi::OsString;
use std::path::PathBuf;

use dataplane_host::store::AttachmentId;

use crate::error::CniError;

/// The verb of the call (`CNI_COMMAND`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

/// The environment after all checks; names are safe as parts of file and device names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Invocation {
    pub(crate) verb: Verb,
    /// Id of the container; empty for verbs without one.
    pub(crate) id: AttachmentId,
    /// Path of the pod's network namespace; optional for DEL.
    pub(crate) netns: Option<PathBuf>,
    /// `<namespace>/<name>` of the pod, if the runtime says so.
    pub(crate) pod: Option<String>,
    pub(crate) arguments: Arguments,
}

/// Requests in `CNI_ARGS`, unchecked. Other keys are ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Arguments {
    /// Addresses, with commas between them.
    pub(crate) ip: Option<String>,
    pub(crate) mac: Option<String>,
}

/// Longest name of an interface, bytes: the kernel's limit of 16 (`IFNAMSIZ`) includes the
/// terminating zero.
const MOST_IFNAME: usize = 15;
const MOST_CONTAINER: usize = 1024;

impl Invocation {
    pub(crate) fn from_environment(get: impl Fn(&'static str) -> Option<OsString>) -> Result<Self, CniError> {
        let text = |name: &'static str| match get(name).map(OsString::into_string) {
            None => Ok(None),
            Some(Ok(value)) => Ok(Some(value).filter(|v| !v.is_empty())),
            Some(Err(_)) => Err(CniError::environment(name, "is not UTF-8")),
        };
        let need = |name| text(name)?.ok_or_else(|| CniError::environment(name, "is missing"));
        let verb = match need("CNI_COMMAND")?.as_str() {
            "ADD" => Verb::Add,
            "DEL" => Verb::Del,
            "CHECK" => Verb::Check,
            "GC" => Verb::Gc,
            "STATUS" => Verb::Status,
            "VERSION" => Verb::Version,
            other => {
                let reason = format!("{other:?} is none of ADD, DEL, CHECK, GC, STATUS, VERSION");
                return Err(CniError::environment("CNI_COMMAND", reason));
            }
        };
        if matches!(verb, Verb::Version | Verb::Gc | Verb::Status) {
            let id = AttachmentId { container: String::new(), ifname: String::new() };
            return Ok(Self { verb, id, netns: None, pod: None, arguments: Arguments::default() });
        }
        let id = AttachmentId { container: need("CNI_CONTAINERID")?, ifname: need("CNI_IFNAME")? };
        check_container(&id.container)?;
        check_ifname(&id.ifname)?;
        let netns = match verb {
            Verb::Add | Verb::Check => Some(need("CNI_NETNS")?),
            _ => text("CNI_NETNS")?,
        };
        let args = text("CNI_ARGS")?.unwrap_or_default();
        let wanted = |key| argument(&args, key).filter(|value| !value.is_empty()).map(str::to_owned);
        let arguments = Arguments { ip: wanted("IP"), mac: wanted("MAC") };
        Ok(Self { verb, id, netns: netns.map(PathBuf::from), pod: pod_name(&args), arguments })
    }
}

/// Returns whether a name starts with a letter or digit and contains only these, `.`, `_` and `-`.
pub(crate) fn is_plain(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}

fn check_container(container: &str) -> Result<(), CniError> {
    let bad = |reason: String| Err(CniError::environment("CNI_CONTAINERID", reason));
    if container.len() > MOST_CONTAINER {
        return bad(format!("has {} bytes, {MOST_CONTAINER} are allowed", container.len()));
    }
    if is_plain(container) {
        Ok(())
    } else {
        bad(format!("{container:?} must start with a letter or digit and consist of these, '.', '_' and '-'"))
    }
}

fn check_ifname(ifname: &str) -> Result<(), CniError> {
    let bad = |reason: String| Err(CniError::environment("CNI_IFNAME", reason));
    if ifname.len() > MOST_IFNAME {
        return bad(format!("{ifname:?} has {} bytes, {MOST_IFNAME} are allowed", ifname.len()));
    }
    // The last two are those of settings for all interfaces, so the kernel gives them to none.
    if matches!(ifname, "." | ".." | "all" | "default") {
        return bad(format!("{ifname:?} is not an interface name"));
    }
    match ifname.chars().find(|c| matches!(c, '/' | ':' | '%') || c.is_whitespace() || c.is_control()) {
        Some(c) => bad(format!("{ifname:?} contains {c:?}")),
        None => Ok(()),
    }
}

/// Returns the value of a key of `CNI_ARGS`.
fn argument<'a>(args: &'a str, key: &str) -> Option<&'a str> {
    args.split(';').find_map(|pair| pair.split_once('=').filter(|(k, _)| *k == key)).map(|(_, value)| value)
}

fn pod_name(args: &str) -> Option<String> {
    const MOST_BYTES: usize = 512;
    let name = format!("{}/{}", argument(args, "K8S_POD_NAMESPACE")?, argument(args, "K8S_POD_NAME")?);
    (name.len() <= MOST_BYTES).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<Invocation, String> {
        let get = |name: &'static str| pairs.iter().find(|(k, _)| *k == name).map(|(_, v)| OsString::from(v));
        Invocation::from_environment(get).map_err(|e| e.to_string())
    }

    fn add(container: &str, ifname: &str) -> Result<Invocation, String> {
        parse(&[
            ("CNI_COMMAND", "ADD"),
            ("CNI_CONTAINERID", container),
            ("CNI_IFNAME", ifname),
            ("CNI_NETNS", "/n"),
            ("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0"),
        ])
    }

    #[test]
    fn valid_environment_is_parsed() {
        let invocation = add("0a1b-c_d.e", "eth0").unwrap();
        assert_eq!(invocation.verb, Verb::Add);
        assert_eq!(invocation.id.ifname, "eth0");
        assert_eq!(invocation.pod.as_deref(), Some("default/web-0"));
        let del = [("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", "c"), ("CNI_IFNAME", "eth0"), ("CNI_NETNS", "")];
        assert_eq!(parse(&del).unwrap().netns, None);
        assert_eq!(parse(&[("CNI_COMMAND", "VERSION")]).unwrap().verb, Verb::Version);
    }

    #[test]
    fn invalid_environment_names_the_variable() {
        assert_eq!(parse(&[]).unwrap_err(), "environment variable CNI_COMMAND: is missing");
        assert_eq!(
            parse(&[("CNI_COMMAND", "add")]).unwrap_err(),
            "environment variable CNI_COMMAND: \"add\" is none of ADD, DEL, CHECK, GC, STATUS, VERSION"
        );
        let del = [("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", "c")];
        assert_eq!(parse(&del).unwrap_err(), "environment variable CNI_IFNAME: is missing");
        let no_netns = [("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", "c"), ("CNI_IFNAME", "eth0")];
        assert_eq!(parse(&no_netns).unwrap_err(), "environment variable CNI_NETNS: is missing");
        for container in ["../x", ".x", "a/b", "a b", "ä", "a\0b"] {
            assert!(add(container, "eth0").unwrap_err().contains("CNI_CONTAINERID"), "{container:?}");
        }
        for ifname in [".", "..", "a/b", "a:b", "eth%d", "a b", "a\tb", "a\nb", "sixteen-bytes-xx"] {
            assert!(add("c", ifname).unwrap_err().contains("CNI_IFNAME"), "{ifname:?}");
        }
    }
}
