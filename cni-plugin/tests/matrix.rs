//! A matrix of versions, verbs and input: good, invalid and hostile. Every call ends, its answer
//! has the form and the code of the specification and contains nothing of other plugins'
//! configuration, and a rejected call changes nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use common::{Answer, Node, Sandbox, call, environment, plugin};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Value, json};

const VERBS: &[&str] = &["ADD", "DEL", "CHECK", "STATUS", "GC"];
const OF_AN_ATTACHMENT: &[&str] = &["ADD", "DEL", "CHECK"];
const IN_THE_POD: &[&str] = &["ADD", "CHECK"];
const KNOWN: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// Value of a field of another plugin in every configuration; it must not appear in any answer.
const SECRET: &str = "correct-horse-battery-staple";
/// Longest allowed answer in bytes; a longer one repeats its input.
const MOST_BYTES: usize = 40 << 10;

/// A node with one pod, `c1`, and the namespace of a second one.
struct Stage {
    node: Node,
    pod: Sandbox,
    spare: Sandbox,
    result: Value,
}

/// One invalid input: its verbs, and the error that they must return.
struct Case {
    what: String,
    /// Environment variables that differ from those of a valid call.
    environment: Option<(&'static str, OsString)>,
    input: Vec<u8>,
    /// The verbs that must reject it; the others must ignore it.
    refusing: &'static [&'static str],
    code: u64,
    /// Text that the message must contain.
    names: &'static str,
}

impl Stage {
    fn new() -> Self {
        let (node, pod) = (Node::new(), Sandbox::new());
        let result = node.add("c1", &pod).ok();
        pod.await_running();
        Self { node, pod, spare: Sandbox::new(), result }
    }

    /// Returns input that is valid for every verb, with fields changed or (by null) removed.
    fn input(&self, changes: &Value) -> String {
        let mut all = json!({
            "prevResult": self.result,
            "cni.dev/valid-attachments": [{ "containerID": "c1", "ifname": "eth0" }],
            "password": SECRET,
        });
        for (key, value) in changes.as_object().into_iter().flatten() {
            all[key] = value.clone();
        }
        self.node.config(&all)
    }

    /// Returns a command for a verb, a container and a pod's namespace; a call that hangs is ended
    /// with code 124.
    fn command(verb: &str, container: &str, sandbox: &Sandbox) -> Command {
        let mut command = Command::new("/usr/bin/timeout");
        command.arg("30").arg(plugin());
        environment(command, verb, container, &sandbox.path())
    }

    /// Collects the state that a rejected call must not change.
    fn state(&self) -> BTreeMap<&'static str, Vec<String>> {
        let mut all = self.node.traces();
        let inside = |sandbox: &Sandbox| sandbox.socket().links().unwrap().iter().map(|l| format!("{l:?}")).collect();
        all.insert("pod", inside(&self.pod));
        all.insert("spare", inside(&self.spare));
        let mut files = Vec::new();
        walk(&self.node.path(""), &mut files);
        all.insert("files", files);
        all
    }

    fn check(&self, case: &Case) {
        let before = self.state();
        for verb in VERBS {
            let refuses = case.refusing.contains(verb);
            // A verb that ignores the fault must not affect the pod, so it gets another attachment.
            let (container, sandbox) = match *verb {
                "ADD" => ("c2", &self.spare),
                "DEL" if !refuses => ("unknown", &self.spare),
                _ => ("c1", &self.pod),
            };
            let what = format!("{verb}: {}", case.what);
            let mut command = Self::command(verb, container, sandbox);
            if let Some((name, value)) = &case.environment {
                command.env(name, value);
            }
            let answer = call(&mut command, &case.input);
            if refuses {
                check_rejected(&answer, case.code, case.names, &what);
            } else {
                check_accepted(&answer, *verb == "ADD", &what);
                if *verb == "ADD" {
                    call(&mut Self::command("DEL", container, sandbox), &self.input(&Value::Null)).ok();
                    self.node.settle();
                }
            }
        }
        assert_eq!(self.state(), before, "{}", case.what);
    }
}

/// Collects the names below a directory.
fn walk(directory: &Path, names: &mut Vec<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        names.push(path.display().to_string());
        if path.is_dir() {
            walk(&path, names);
        }
    }
    names.sort();
}

fn check_secrecy(answer: &Answer, what: &str) {
    assert!(!answer.log.contains(SECRET) && !answer.json.to_string().contains(SECRET), "{what}: {answer:?}");
    assert!(!answer.log.contains("panicked"), "{what}: {}", answer.log);
    assert!(answer.log.len() < MOST_BYTES && answer.json.to_string().len() < MOST_BYTES, "{what}: {answer:?}");
}

fn check_rejected(answer: &Answer, code: u64, names: &str, what: &str) {
    check_secrecy(answer, what);
    assert_eq!(answer.exit, Some(1), "{what}: {answer:?}");
    let (got, message) = answer.error();
    assert!(got == code && message.contains(names), "{what}: {got}, not {code} with {names:?}: {message}");
    assert_eq!(answer.json.as_object().unwrap().keys().len(), 4, "{what}: {answer:?}");
    assert!(KNOWN.iter().any(|version| answer.json["cniVersion"] == *version), "{what}: {answer:?}");
}

fn check_accepted(answer: &Answer, with_result: bool, what: &str) {
    check_secrecy(answer, what);
    assert_eq!(answer.exit, Some(0), "{what}: {answer:?}");
    assert_eq!(answer.json.is_object(), with_result, "{what}: {answer:?}");
}

#[test]
#[ignore = "needs root"]
fn every_verb_works_in_every_version() {
    let stage = Stage::new();
    let before = stage.state();
    for version in KNOWN {
        let input = stage.input(&json!({ "cniVersion": version }));
        let at_least = |since: &str| version >= since;
        for (verb, container, sandbox, known, answers) in [
            ("ADD", "c2", &stage.spare, true, true),
            ("CHECK", "c1", &stage.pod, at_least("0.4.0"), false),
            ("STATUS", "", &stage.pod, at_least("1.1.0"), false),
            ("GC", "", &stage.pod, at_least("1.1.0"), false),
            ("DEL", "c2", &stage.spare, true, false),
            ("VERSION", "", &stage.pod, true, true),
        ] {
            // GC may not know the attachment.
            let input = if verb == "GC" {
                stage.input(&json!({ "cniVersion": version, "name": "others" }))
            } else {
                input.clone()
            };
            let (answer, what) =
                (call(&mut Stage::command(verb, container, sandbox), &input), format!("{verb} {version}"));
            if known {
                check_accepted(&answer, answers, &what);
            } else {
                check_rejected(&answer, 1, verb, &what);
            }
            assert!(answer.json.is_null() || answer.json["cniVersion"] == version, "{what}: {answer:?}");
        }
        stage.node.settle();
        assert_eq!(stage.state(), before, "{version}");
    }
}

#[test]
#[ignore = "needs root"]
fn unknown_verbs_are_rejected() {
    let stage = Stage::new();
    let before = stage.state();
    for verb in [&b""[..], b"HOP", b"add", b"ADD ", b"ADD\nDEL", b"../ADD", b"\xff", &vec![b'A'; 100_000]] {
        let mut command = Stage::command("", "c1", &stage.pod);
        command.env("CNI_COMMAND", OsString::from_vec(verb.to_vec()));
        let answer = call(&mut command, &stage.input(&Value::Null));
        check_rejected(&answer, 4, "CNI_COMMAND", &String::from_utf8_lossy(&verb[..verb.len().min(20)]));
    }
    assert_eq!(stage.state(), before);
}

#[test]
#[ignore = "needs root"]
fn unsupported_versions_and_malformed_input_are_rejected() {
    let stage = Stage::new();
    let good = stage.input(&Value::Null);
    let nested = |open: &str, close: &str| {
        format!(r#"{{"x":{}{}{},{}"#, open.repeat(20_000), 1, close.repeat(20_000), &good[1..]).into_bytes()
    };
    let text = |text: &str| text.as_bytes().to_vec();
    let invalid_text = good.replace(SECRET, "\u{fffd}").into_bytes();
    let invalid_text: Vec<u8> = invalid_text.iter().map(|b| if *b == 0xef { 0xff } else { *b }).collect();
    for (what, input, code) in [
        ("only spaces", text(" \n\t "), 6),
        ("a brace", text("{"), 6),
        ("no JSON", text(&format!("password={SECRET}")), 6),
        ("cut off", text(&good[..good.len() - 1]), 6),
        ("cut off in the secret", text(&good[..good.find(SECRET).unwrap() + 20]), 6),
        ("more than one", [good.as_bytes(), good.as_bytes()].concat(), 6),
        ("more behind it", text(&format!("{good}{SECRET}")), 6),
        ("a byte order mark", text(&format!("\u{feff}{good}")), 6),
        ("zeros", vec![0; 4096], 6),
        ("no UTF-8", invalid_text, 6),
        ("UTF-16", good.encode_utf16().flat_map(u16::to_le_bytes).collect(), 6),
        ("no number", text(&format!(r#"{{"x":1e999,{}"#, &good[1..])), 6),
        ("deep lists", nested("[", "]"), 6),
        ("deep objects", nested(r#"{"x":"#, "}"), 6),
        ("ten megabytes", text(&format!(r#"{{"x":"{}",{}"#, "y".repeat(10 << 20), &good[1..])), 6),
        ("null", text("null"), 7),
        ("a list", text("[]"), 7),
        ("a list of it", text(&format!("[{good}]")), 7),
        ("a number", text("7"), 7),
        ("a text", text(&format!("{SECRET:?}")), 7),
    ] {
        let version = call(&mut Stage::command("VERSION", "", &stage.pod), &input);
        if what == "only spaces" {
            check_accepted(&version, true, what);
        } else {
            check_rejected(&version, code, "standard input", &format!("VERSION: {what}"));
        }
        stage.check(&Case {
            what: what.into(),
            environment: None,
            input,
            refusing: VERBS,
            code,
            names: "standard input",
        });
    }
    let empty = Case {
        what: "nothing".into(),
        environment: None,
        input: vec![],
        refusing: VERBS,
        code: 6,
        names: "standard input",
    };
    stage.check(&empty);
    for found in ["0.1.0", "0.2.0", "2.0.0", "1.1", "1.1.0.0", "v1.1.0", "1.1.0 ", "", "\0", "../1.1.0"] {
        let input = stage.input(&json!({ "cniVersion": found }));
        let version = call(&mut Stage::command("VERSION", "", &stage.pod), &input);
        check_accepted(&version, true, found);
        assert_eq!(version.json, json!({ "cniVersion": found, "supportedVersions": KNOWN }));
        let what = format!("cniVersion {found:?}");
        stage.check(&Case {
            what,
            environment: None,
            input: input.into(),
            refusing: VERBS,
            code: 1,
            names: "cniVersion",
        });
    }
}

#[test]
#[ignore = "needs root"]
fn missing_and_invalid_fields_are_rejected() {
    let stage = Stage::new();
    let long = "x".repeat(3 << 20);
    let check = |field: &'static str, refusing, values: &[Value]| {
        for value in values {
            let what = format!("{field}: {}", value.to_string().chars().take(100).collect::<String>());
            let input = stage.input(&json!({ field: value })).into_bytes();
            stage.check(&Case { what, environment: None, input, refusing, code: 7, names: field });
        }
    };
    let missing = Value::Null;
    check("cniVersion", VERBS, &[json!(7), json!(["1.1.0"]), json!({})]);
    check(
        "name",
        VERBS,
        &[missing.clone(), json!(""), json!(7), json!("../x"), json!("a b"), json!("a\0b"), json!(long)],
    );
    check("type", VERBS, &[missing, json!(""), json!(7), json!(["ropeway-cni"])]);
    for field in ["pinRoot", "stateDir"] {
        check(field, VERBS, &[json!(7), json!(""), json!("x"), json!("../x"), json!("/x\0y"), json!([])]);
    }
    let ranges =
        ["x", "10.77.0.0/33", "10.77.0.1/24", "0.0.0.0/0", "224.0.0.0/8", "::1/128"].map(|range| json!([range]));
    check("ranges", VERBS, &ranges);
    check("ranges", VERBS, &[json!("10.77.0.0/24"), json!([7]), json!({ "a": 7 }), json!(long)]);
    check("mtu", VERBS, &[json!("1500"), json!(-1), json!(1.5), json!(1_u64 << 32), json!([]), json!(long)]);
    let field = "cni.dev/valid-attachments";
    check(field, VERBS, &[json!(7), json!("x"), json!({}), json!([7]), json!([{}]), json!([{ "containerID": 7 }])]);
    check(
        "dns",
        &["ADD"],
        &[json!(7), json!([]), json!({ "nameservers": "x" }), json!({ "search": [7] }), json!({ "domain": [] })],
    );
    check("runtimeConfig", IN_THE_POD, &[json!(7), json!("x"), json!([]), json!({ "ips": 7 }), json!({ "mac": "x" })]);
    for list in ["interfaces", "ips", "routes"] {
        check("prevResult", IN_THE_POD, &[json!({ list: 7 }), json!({ list: {} }), json!({ list: [7] })]);
    }
    check("prevResult", IN_THE_POD, &[json!(7), json!("x"), json!([])]);
    check("prevResult", &["CHECK"], &[Value::Null]);
}

#[test]
#[ignore = "needs root"]
fn missing_and_invalid_environment_is_rejected() {
    let stage = Stage::new();
    let path = |name: &str| stage.node.path(name);
    fs::write(path("file"), "x").unwrap();
    mknodat(CWD, path("pipe"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    let socket = UnixListener::bind(path("socket")).unwrap();
    let input = stage.input(&Value::Null).into_bytes();
    let check = |name: &'static str, refusing, code, values: &[&[u8]]| {
        for value in values {
            let what = format!("{name}={}", String::from_utf8_lossy(&value[..value.len().min(100)]));
            let environment = Some((name, OsString::from_vec(value.to_vec())));
            stage.check(&Case { what, environment, input: input.clone(), refusing, code, names: name });
        }
    };
    let long = vec![b'x'; 100_000];
    check("CNI_IFNAME", OF_AN_ATTACHMENT, 4, &[b"", b".", b"..", b"a/b", b"../../x", b"sixteen-bytes-xx", &long]);
    check(
        "CNI_IFNAME",
        OF_AN_ATTACHMENT,
        4,
        &[b"e h", b"e\th", b"e\x01h", b"e:h", b"eth%d", b"\xff", b"all", b"default"],
    );
    check(
        "CNI_CONTAINERID",
        OF_AN_ATTACHMENT,
        4,
        &[b"", b".", b"..", b"../c1", b"/etc/passwd", b"c1/..", b"-c", &long],
    );
    check("CNI_CONTAINERID", OF_AN_ATTACHMENT, 4, &[b"c 1", b"c\n1", b"c;id", b"$(id)", b"\xff", "\u{e9}".as_bytes()]);
    check("CNI_ARGS", OF_AN_ATTACHMENT, 4, &[b"\xff"]);
    check(
        "CNI_ARGS",
        IN_THE_POD,
        4,
        &[b"IP=x", b"IP=10.77.0.8,10.77.0.9", b"IP=../x", b"MAC=x", b"MAC=ff:ff:ff:ff:ff:ff"],
    );
    check(
        "CNI_ARGS",
        &[],
        0,
        &[b"", b"x", b"=;;==;", b"K8S_POD_NAME", b"K8S_POD_NAMESPACE=../x;K8S_POD_NAME=../y", &long],
    );
    let bytes = |name: &str| path(name).into_os_string().into_vec();
    check("CNI_NETNS", OF_AN_ATTACHMENT, 4, &[b"\xff"]);
    check("CNI_NETNS", IN_THE_POD, 4, &[b"", b"/", b"/dev/null", b"/proc/self/ns/mnt", b"/proc/thread-self/ns/net"]);
    check("CNI_NETNS", IN_THE_POD, 4, &[&bytes("file"), &bytes("pipe"), &bytes("socket")]);
    drop(socket);
    // The specification's code for an unknown container; its message need not name the variable.
    for value in [&b"/run/netns/there-is-none"[..], b"there/is/none", b"/dev/null/x", &long] {
        let environment = Some(("CNI_NETNS", OsString::from_vec(value.to_vec())));
        let what = String::from_utf8_lossy(&value[..value.len().min(100)]).into_owned();
        let (input, names) = (input.clone(), "network namespace");
        stage.check(&Case { what, environment, input, refusing: IN_THE_POD, code: 3, names });
    }
}

#[test]
#[ignore = "needs root"]
fn unusual_but_valid_input_is_accepted() {
    let stage = Stage::new();
    let good = stage.input(&Value::Null);
    let before_it = |text: &str| format!("{{{text},{}", &good[1..]).into_bytes();
    for (what, input) in [
        // Of duplicate keys the last one is used, as in the reference's decoder.
        ("keys twice", before_it(r#""cniVersion":"9","name":7,"type":7,"prevResult":7,"ranges":7"#)),
        ("unknown fields", before_it(r#""":null,"x":[[{}]],"ipam":{"type":"host-local"},"capabilities":7,"args":[]"#)),
        ("nested, but not too deep", before_it(&format!(r#""x":{}{}"#, "[".repeat(100), "]".repeat(100)))),
        ("escapes", good.replacen("\"name\"", r#""n\u0061me""#, 1).into_bytes()),
        ("much space", good.replace(',', &format!(",{}", " \n".repeat(10_000))).into_bytes()),
    ] {
        stage.check(&Case { what: what.into(), environment: None, input, refusing: &[], code: 0, names: "" });
    }
}
