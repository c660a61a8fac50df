//! Tests of the choice of pools.

use super::*;

fn entry(name: &str, cidr: &str, fixed: bool, blocks: &[&str]) -> PoolEntry {
    PoolEntry {
        name: name.into(),
        cidr: cidr.parse().unwrap(),
        allow_fixed_addresses: fixed,
        restricted: false,
        reserved: vec![],
        blocks: blocks.iter().map(|b| b.parse().unwrap()).collect(),
    }
}

fn file() -> PoolsFile {
    let reserved = vec!["10.1.0.0/32".parse().unwrap()];
    PoolsFile {
        version: 1,
        node: "n1".into(),
        boot: boot_id().unwrap(),
        default: ["a", "b", "six", "gone"].map(str::to_owned).into(),
        pools: vec![
            PoolEntry { reserved, ..entry("a", "10.1.0.0/16", false, &["10.1.0.0/26", "10.1.5.64/26"]) },
            entry("b", "10.2.0.0/16", true, &["10.2.0.0/26"]),
            entry("red", "10.3.0.0/16", true, &["10.3.7.0/26"]),
            entry("bare", "10.4.0.0/16", true, &[]),
            entry("six", "fd00:1::/64", true, &["fd00:1::40/122"]),
        ],
    }
}

fn pool_request(pairs: &[(&str, &str)]) -> PoolRequest {
    PoolRequest::from_annotations(|name| pairs.iter().find(|(k, _)| *k == name).map(|(_, v)| *v)).unwrap()
}

/// The ranges of a choice, and the requested address.
type Shown = (Vec<String>, Option<IpAddr>);

/// Returns the choice for a family, or the error's code and message.
fn choose(pairs: &[(&str, &str)], family: IpFamily) -> Result<Option<Shown>, (u32, String)> {
    let show = |c: Choice| (c.ranges.iter().map(ToString::to_string).collect(), c.fixed);
    choice(&file(), &pool_request(pairs), family).map(|c| c.map(show)).map_err(|e| (e.code(), e.to_string()))
}

fn ranges(list: &[&str]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

#[test]
fn pod_without_request_gets_default_pools_in_order() {
    let all = ranges(&["10.1.0.0/26", "10.1.5.64/26", "10.2.0.0/26"]);
    assert_eq!(choose(&[], IpFamily::V4).unwrap(), Some((all, None)));
    assert_eq!(choose(&[], IpFamily::V6).unwrap(), Some((ranges(&["fd00:1::40/122"]), None)));
    let excluded = choice(&file(), &PoolRequest::default(), IpFamily::V4).unwrap().unwrap().excluded;
    assert_eq!(excluded, ["10.1.0.0/32".parse().unwrap()]);
    let only_six = PoolsFile { default: vec!["six".into()], ..file() };
    assert_eq!(choice(&only_six, &PoolRequest::default(), IpFamily::V4).unwrap(), None, "no family without a pool");
}

#[test]
fn named_pools_come_before_the_default() {
    let red = [("ropeway.dev/ipv4pools", r#"["red","b"]"#)];
    assert_eq!(choose(&red, IpFamily::V4).unwrap(), Some((ranges(&["10.3.7.0/26", "10.2.0.0/26"]), None)));
    assert_eq!(
        choose(&red, IpFamily::V6).unwrap(),
        Some((ranges(&["fd00:1::40/122"]), None)),
        "the other family is the default"
    );
}

#[test]
fn unavailable_pools_ask_for_a_retry() {
    for (pairs, words) in [
        ([("ropeway.dev/ipv4pools", r#"["none"]"#)], "pool none: there is none of that name"),
        ([("ropeway.dev/ipv4pools", r#"["bare"]"#)], "this node has no block of bare"),
        ([("ropeway.dev/ipAddrs", r#"["10.3.8.1"]"#)], "address 10.3.8.1 is in no block of this node"),
    ] {
        let (code, message) = choose(&pairs, IpFamily::V4).unwrap_err();
        assert!(code == 11 && message.contains(words), "{code} {message}");
    }
}

#[test]
fn fixed_address_needs_a_pool_that_allows_it() {
    let fixed = [("ropeway.dev/ipAddrs", r#"["10.3.7.9"]"#)];
    assert_eq!(choose(&fixed, IpFamily::V4).unwrap(), Some((ranges(&["10.3.7.0/26"]), "10.3.7.9".parse().ok())));
    let other = [("ropeway.dev/ipAddrs", r#"["10.3.7.9"]"#), ("ropeway.dev/ipv4pools", r#"["b"]"#)];
    for (pairs, words) in [
        (&[("ropeway.dev/ipAddrs", r#"["10.1.0.9"]"#)][..], "pool a does not allow fixed addresses"),
        (&[("ropeway.dev/ipAddrs", r#"["192.168.50.1"]"#)], "is in none of the pools"),
        (&[("ropeway.dev/ipAddrs", r#"["127.0.0.1"]"#)], "is in none of the pools"),
        (&other, "is in none of the pools"),
        (&[("ropeway.dev/ipv4pools", r#"["six"]"#)], "pool six (fd00:1::/64) is asked for an IPv4 address"),
    ] {
        let (code, message) = choose(pairs, IpFamily::V4).unwrap_err();
        assert!(code == 7 && message.contains(words), "{code} {message}");
    }
}

/// A machine that comes back with its disk would give out addresses of blocks that other nodes have
/// got meanwhile.
#[test]
fn blocks_of_an_earlier_boot_are_not_used() {
    let directory = std::env::temp_dir().join(format!("rw-boot-{}", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    let get = |boot: String| {
        contract::write(&directory, &PoolsFile { boot, ..file() }).unwrap();
        choices(&PodPools::default(), &directory).map(|choices| choices.len()).map_err(|e| e.code())
    };
    assert_eq!(get("an earlier boot".into()), Err(11));
    assert_eq!(get(String::new()), Err(11));
    assert_eq!(get(boot_id().unwrap()), Ok(2));
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn restricted_pool_is_for_permitted_namespaces_only() {
    let directory = std::env::temp_dir().join(format!("rw-permitted-{}", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    let mut pools = file();
    pools.pools.iter_mut().filter(|pool| pool.name == "red").for_each(|pool| pool.restricted = true);
    contract::write(&directory, &pools).unwrap();
    let of = |namespace: Option<&str>, pairs: &[(&str, &str)]| {
        let pod = PodPools { request: pool_request(pairs), namespace: namespace.map(Into::into) };
        choices(&pod, &directory).map(|c| c[0].ranges[0].to_string()).map_err(|e| (e.code(), e.to_string()))
    };
    let (named, fixed) = ([("ropeway.dev/ipv4pools", r#"["red"]"#)], [("ropeway.dev/ipAddrs", r#"["10.3.7.9"]"#)]);
    assert_eq!(of(Some("team"), &named).unwrap_err().0, 11, "the agent has not written the namespaces");
    let file = NamespacesFile {
        version: 1,
        permitted: [("red".into(), ["team".into()].into())].into(),
        ..NamespacesFile::default()
    };
    contract::write(&directory, &file).unwrap();
    for pairs in [&named, &fixed] {
        assert_eq!(of(Some("team"), pairs).unwrap(), "10.3.7.0/26");
        for other in [Some("tea"), None] {
            let (code, message) = of(other, pairs).unwrap_err();
            assert!(
                matches!(code, 7 | 11) && (message.contains("namespace") || message.contains("none of")),
                "{message}"
            );
        }
    }
    assert_eq!(of(None, &[]).unwrap(), "10.1.0.0/26", "other pools are for all");
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn pod_annotation_overrides_namespace() {
    let directory = std::env::temp_dir().join(format!("rw-request-{}", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    let red = pool_request(&[("ropeway.dev/ipv4pools", r#"["red"]"#), ("ropeway.dev/ipv6pools", r#"["six"]"#)]);
    let file = NamespacesFile {
        version: 1,
        chosen: [("team".into(), red.clone())].into(),
        plain: vec!["default".into()],
        ..NamespacesFile::default()
    };
    contract::write(&directory, &file).unwrap();
    let of = |annotations: Value, pod| {
        let config = serde_json::json!({ "io.kubernetes.cri.pod-annotations": annotations });
        request_for_pod(&config, pod, &directory)
    };
    assert_eq!(of(Value::Null, "team/web-0").unwrap(), red);
    assert_eq!(of(Value::Null, "default/web-0").unwrap(), PoolRequest::default());
    let own = of(serde_json::json!({"ropeway.dev/ipv4pools": "[\"b\"]", "secret": "x"}), "team/web-0").unwrap();
    assert_eq!(
        (own.pools(IpFamily::V4), own.pools(IpFamily::V6)),
        (Some(&["b".to_owned()][..]), Some(&["six".to_owned()][..]))
    );
    let (code, message) = of(serde_json::json!({"ropeway.dev/ipAddrs": "../x"}), "default/web-0").unwrap_err();
    assert!(code == 7 && message.contains("the pod's annotation ropeway.dev/ipAddrs"), "{message}");
    // Other namespaces ask for pools, so a namespace that is not in the file may ask for pools as
    // well.
    let (code, message) = of(Value::Null, "new/web-0").unwrap_err();
    assert!(code == 11 && message.contains("namespace new"), "{message}");
    contract::write(&directory, &NamespacesFile { chosen: [].into(), ..file }).unwrap();
    assert_eq!(of(Value::Null, "new/web-0").unwrap(), PoolRequest::default(), "no namespace asks for pools");
    std::fs::remove_dir_all(directory).unwrap();
}

fn request_for_pod(config: &Value, pod: &str, directory: &Path) -> Result<PoolRequest, (u32, String)> {
    let found = request(Some(config), Some(pod), directory).map_err(|e| (e.code(), e.to_string()))?;
    assert_eq!(found.namespace.as_deref(), pod.split_once('/').map(|(namespace, _)| namespace));
    Ok(found.request)
}
