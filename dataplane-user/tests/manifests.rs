//! Tests of the manifests that are applied to a cluster: probes, mounts, capabilities, permissions.
//!
//! They read the files as they are; `cargo xtask cluster` applies the overlays to a real cluster.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::path::Path;

use serde_json::{Value, json};

/// Returns the first document of a file below `manifests/`.
fn manifest(path: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests").join(path);
    let text = std::fs::read_to_string(&path).unwrap();
    serde_saphyr::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Returns all documents of a file below `manifests/`.
fn documents(path: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests").join(path);
    serde_saphyr::from_multiple(&std::fs::read_to_string(&path).unwrap()).unwrap()
}

/// Returns the rules of the `ClusterRole` in a file.
fn rules(path: &str) -> Vec<Value> {
    let documents = documents(path);
    let role = documents.iter().find(|document| document["kind"] == "ClusterRole").unwrap();
    role["rules"].as_array().unwrap().clone()
}

/// Returns the pod template of the `DaemonSet`.
fn pod() -> Value {
    manifest("base/daemonset.yaml")["spec"]["template"]["spec"].take()
}

/// `/healthz` is 503 while the Node is about to be removed; then kubelet would kill each agent that
/// starts there, and a rollout would wait for it.
#[test]
fn agent_can_start_on_a_leaving_node() {
    let agent = pod()["containers"][0].take();
    for probe in ["startupProbe", "livenessProbe"] {
        assert_eq!(agent[probe]["httpGet"]["path"], "/livez", "{probe}");
    }
    assert_eq!(agent["readinessProbe"]["httpGet"]["path"], "/readyz");
}

#[test]
fn agent_mounts_only_its_own_directories() {
    let pod = pod();
    let mounts = pod["containers"][0]["volumeMounts"].as_array().unwrap();
    let paths: Vec<_> = mounts.iter().map(|m| m["mountPath"].as_str().unwrap()).collect();
    let expected = ["/etc/ropeway", "/sys/fs/bpf", "/sys/fs/cgroup", "/var/lib/ropeway", "/etc/cni/net.d"];
    assert_eq!(paths, expected);
    let mounted = |container: &str, volume: &Value| {
        let all = pod[container].as_array().unwrap().iter().flat_map(|c| c["volumeMounts"].as_array().unwrap());
        all.clone().any(|m| m["name"] == *volume)
    };
    for volume in pod["volumes"].as_array().unwrap() {
        let name = &volume["name"];
        assert!(mounted("containers", name) || mounted("initContainers", name), "{name} is mounted nowhere");
        let mount = mounts.iter().find(|m| m["name"] == *name);
        if let (Some(mount), Some(host)) = (mount, volume["hostPath"]["path"].as_str()) {
            assert_eq!(mount["mountPath"], host, "the agent names paths as the plugin on the node does");
        }
    }
}

#[test]
fn containers_are_confined() {
    let pod = pod();
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    let agent = &pod["containers"][0]["securityContext"];
    assert_eq!(agent["capabilities"], json!({"drop": ["ALL"], "add": ["BPF", "NET_ADMIN", "PERFMON"]}));
    let plugin = &pod["initContainers"][0]["securityContext"];
    assert_eq!(plugin["capabilities"], json!({"drop": ["ALL"]}));
    for context in [agent, plugin] {
        assert_eq!(context["allowPrivilegeEscalation"], false);
        assert_eq!(context["readOnlyRootFilesystem"], true);
    }
}

#[test]
fn agent_without_pools_has_no_right_about_pods() {
    let resources = |rules: &[Value]| -> Vec<String> {
        let all = rules.iter().flat_map(|rule| rule["resources"].as_array().unwrap());
        all.map(|resource| resource.as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(resources(&rules("base/rbac.yaml")), ["services", "nodes", "endpointslices", "events", "servicecidrs"]);
    let writes = |rule: &&Value| {
        let reads = ["get", "list", "watch"];
        rule["verbs"].as_array().unwrap().iter().any(|verb| !reads.contains(&verb.as_str().unwrap()))
    };
    let writing: Vec<_> = rules("base/rbac.yaml").iter().filter(writes).cloned().collect();
    assert_eq!(writing, [json!({"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create"]})]);
}

/// The API server checks the expressions when they are applied; here only what they are asked
/// about.
#[test]
fn each_right_to_write_blocks_has_an_admission_policy() {
    let resources = manifest("overlays/pools/kustomization.yaml")["resources"].take();
    assert!(resources.as_array().unwrap().contains(&json!("admission.yaml")));
    let documents = documents("overlays/pools/admission.yaml");
    let of_kind = |kind: &str| documents.iter().filter(|d| d["kind"] == kind).cloned().collect::<Vec<_>>();
    let (policies, bindings) = (of_kind("ValidatingAdmissionPolicy"), of_kind("ValidatingAdmissionPolicyBinding"));
    let bound: Vec<_> = bindings.iter().map(|b| &b["spec"]["policyName"]).collect();
    assert_eq!(bound, policies.iter().map(|p| &p["metadata"]["name"]).collect::<Vec<_>>());
    assert!(bindings.iter().all(|b| b["spec"]["validationActions"] == json!(["Deny"])));
    let mut operations = Vec::new();
    for policy in &policies {
        let rule = &policy["spec"]["matchConstraints"]["resourceRules"][0];
        assert_eq!((&rule["apiGroups"], &rule["resources"]), (&json!(["ropeway.dev"]), &json!(["ipblocks"])));
        operations.extend(rule["operations"].as_array().unwrap().clone());
        let agents = policy["spec"]["matchConditions"][0]["expression"].as_str().unwrap();
        assert!(agents.contains("system:serviceaccount:kube-system:ropeway"), "{agents}");
    }
    assert_eq!(operations, ["CREATE", "UPDATE", "DELETE"]);
    let verbs = rules("overlays/pools/rbac.yaml").pop().unwrap()["verbs"].take();
    assert_eq!(verbs, json!(["list", "watch", "create", "patch", "delete"]), "a new verb may need a policy");
}
