//! Tests of the files that agent and plugin share: versions, damaged content, error texts.

use super::pools::{NamespacesFile, PoolsFile};
use super::*;

struct StateDir(PathBuf);

impl StateDir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("rw-contract-{}-{name}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn read(&self, text: &str) -> Result<Option<NodeFile>, String> {
        fs::write(self.0.join(NodeFile::NAME), text).unwrap();
        read(&self.0).map_err(|e| e.to_string().replace(&format!("{}/", self.0.display()), ""))
    }
}

impl Drop for StateDir {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

#[test]
fn node_file_is_read_as_written_and_only_changes_are_written() {
    let dir = StateDir::new("write");
    assert_eq!(read::<NodeFile>(&dir.0).unwrap(), None);
    let cidrs = ["10.244.1.0/24".parse().unwrap(), "fd00:10:244:1::/64".parse().unwrap()];
    let file = NodeFile::new("n1", &cidrs, 1500);
    assert!(write(&dir.0, &file).unwrap());
    assert!(!write(&dir.0, &file).unwrap());
    let text = fs::read_to_string(dir.0.join("node.json")).unwrap();
    let expected = r#"{"version":1,"node":"n1","podCIDRs":["10.244.1.0/24","fd00:10:244:1::/64"],"mtu":1500}"#;
    assert_eq!(text.trim_end(), expected);
    assert_eq!(read(&dir.0).unwrap(), Some(file));
    assert!(write(&dir.0, &NodeFile::of_pools("n1", 9000)).unwrap());
    assert_eq!(read(&dir.0).unwrap(), Some(NodeFile::of_pools("n1", 9000)));
    assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 1, "no temporary file is left");
}

#[test]
fn missing_fields_have_defaults_and_unknown_fields_are_ignored() {
    let dir = StateDir::new("lenient");
    let empty = NodeFile { version: 1, ..NodeFile::default() };
    assert_eq!(dir.read(r#"{"version":1}"#).unwrap(), Some(empty.clone()));
    assert_eq!(dir.read(r#"{"version":1,"zone":"a","mtu":0}"#).unwrap(), Some(empty));
}

#[test]
fn previous_version_is_read_and_others_are_rejected() {
    let path = Path::new("/state/node.json");
    let parse = |text: &str| parse::<NodeFile>(path, text.as_bytes(), &(1..=2)).map_err(|e| e.to_string());
    assert_eq!(parse(r#"{"version":1,"mtu":1400}"#).unwrap().mtu, 1400);
    assert_eq!(parse(r#"{"version":2,"mtu":1400}"#).unwrap().mtu, 1400);
    for version in [0, 3] {
        // The version is looked at before fields that may have another form.
        let error = parse(&format!(r#"{{"version":{version},"mtu":"auto"}}"#)).unwrap_err();
        let expected = format!(
            "/state/node.json: field version: {version}, but this program reads 1 to 2: \
             install agent and plugin of the same version"
        );
        assert_eq!(error, expected);
    }
}

#[test]
fn each_error_names_file_field_and_remedy() {
    let dir = StateDir::new("errors");
    let remedy = "restart ropeway-agent, which rewrites the file";
    for (text, words) in [
        ("", "node.json: is not valid JSON: EOF while parsing"),
        ("{", "node.json: is not valid JSON: EOF while parsing"),
        (r#"{"version":1}}"#, "node.json: is not valid JSON: trailing characters"),
        ("[]", "node.json: field (top level): "),
        ("{}", "node.json: field version: is missing"),
        (r#"{"version":"1"}"#, "node.json: field version: invalid type"),
        (r#"{"version":1,"mtu":-1}"#, "node.json: field mtu: invalid value"),
        (r#"{"version":1,"podCIDRs":["10.1.0.0/24","x"]}"#, "node.json: field podCIDRs[1]: "),
    ] {
        let error = dir.read(text).unwrap_err();
        assert!(error.starts_with(words) && error.ends_with(remedy), "{text}: {error}");
    }
    let file = PoolsFile { version: 1, node: "n1".into(), ..PoolsFile::default() };
    assert!(write(&dir.0, &file).unwrap() && !write(&dir.0, &file).unwrap());
    assert_eq!(read(&dir.0).unwrap(), Some(file));
    fs::write(dir.0.join(PoolsFile::NAME), r#"{"version":2}"#).unwrap();
    let error = read::<PoolsFile>(&dir.0).unwrap_err().to_string();
    assert!(error.contains("pools.json: field version: 2, but this program reads 1 to 1"), "{error}");
    let pools = r#"{"version":1,"node":"n1","default":[],"pools":[{}]}"#;
    fs::write(dir.0.join(PoolsFile::NAME), pools).unwrap();
    let error = read::<PoolsFile>(&dir.0).unwrap_err().to_string();
    assert!(error.contains("pools.json: field pools[0]: missing field `name`"), "{error}");
}

#[test]
fn unreadable_and_unwritable_files_name_the_attempt() {
    let dir = StateDir::new("unreadable");
    fs::create_dir(dir.0.join(NodeFile::NAME)).unwrap();
    let error = read::<NodeFile>(&dir.0).unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot read {}/node.json: ", dir.0.display())), "{error}");
    let error = write(Path::new("/nonexistent"), &NodeFile::default()).unwrap_err().to_string();
    assert!(error.starts_with("cannot write /nonexistent/node.json: "), "{error}");
}

#[test]
fn state_directory_is_empty_or_has_a_file_of_ropeway() {
    let is = |entries: &[&str]| is_state_dir(entries.iter().copied());
    assert!(is(&[]) && is(&["lost+found"]));
    for own in ["agent.lock", "addresses", "node.json", "pools.json", "namespaces.json"] {
        assert!(is(&["note.txt", own]), "{own}");
    }
    assert!(!is(&["passwd", "shadow"]) && !is(&["lost+found", "home"]));
}

/// The agent writes these files, and the plugin of another version, or a fault of the disk, may
/// have changed them.
#[test]
fn fuzz_files_of_the_agent() {
    let seeds: [&[u8]; 3] = [
        br#"{"version":1,"node":"n1","podCIDRs":["10.1.0.0/24"],"mtu":1500,
            "reservedPorts":[{"protocol":"tcp","port":10250,"user":"kubelet"}]}"#,
        br#"{"version":1,"node":"n1","boot":"b","default":["a"],"pools":[{"name":"a","cidr":"10.1.0.0/16",
            "allowFixedAddresses":true,"reserved":["10.1.0.0/32"],"blocks":["10.1.0.64/26"]}]}"#,
        br#"{"version":1,"chosen":{},"plain":["default"],"permitted":{"a":["shop"]},"broken":{"odd":"why"}}"#,
    ];
    let words = ["version", "node", "podCIDRs", "mtu", "pools", "blocks", "namespaces", "labels", "boot", "reserved"];
    let path = Path::new("node.json");
    fuzzing::run("agent_files", &seeds, &words, |input| {
        let node = parse::<NodeFile>(path, input, &NodeFile::VERSIONS).is_ok();
        let pools = parse::<PoolsFile>(path, input, &PoolsFile::VERSIONS).is_ok();
        let namespaces = parse::<NamespacesFile>(path, input, &NamespacesFile::VERSIONS).is_ok();
        node || pools || namespaces
    });
}
