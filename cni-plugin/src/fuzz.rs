//! Fuzzing of what a runtime passes to the plugin: standard input and environment.
//!
//! `cargo xtask fuzz` runs these tests longer.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use crate::capabilities::Capabilities;
use crate::config::NetworkConfig;
use crate::env::{Arguments, Invocation};
use crate::spec::NEWEST;

/// Names of fields and variables.
const WORDS: &[&str] = &[
    "cniVersion",
    "name",
    "type",
    "ranges",
    "mtu",
    "dns",
    "search",
    "prevResult",
    "ips",
    "address",
    "runtimeConfig",
    "portMappings",
    "hostPort",
    "containerPort",
    "protocol",
    "hostIP",
    "bandwidth",
    "ingressRate",
    "ipRanges",
    "mac",
    "aliases",
    "cni.dev/valid-attachments",
    "cni.dev/attachments",
    "containerID",
    "ifname",
    "pinRoot",
    "stateDir",
    "1.1.0",
    "0.3.0",
    "IP=",
    "MAC=",
    "K8S_POD_NAME=",
    ";",
    "\0",
    "CNI_ARGS",
];

#[test]
fn fuzz_plugin_input() {
    let seeds: [&[u8]; 4] = [
        br#"{"cniVersion":"1.1.0","name":"p","type":"t","ranges":["10.1.0.0/24","fd00:1::/64"],"mtu":1400,"dns":{"search":["x"]}}"#,
        br#"{"cniVersion":"0.4.0","name":"p","type":"t","prevResult":{"ips":[{"version":"4","address":"10.1.0.1/32"}]},"pinRoot":"/x"}"#,
        br#"{"cniVersion":"1.1.0","name":"p","type":"t","cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"}]}"#,
        br#"{"cniVersion":"1.0.0","name":"p","type":"t","runtimeConfig":{"mac":"02:00:00:00:00:01","ips":["10.1.0.5/24"],
           "portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"tcp","hostIP":"192.0.2.1"}],
           "bandwidth":{"ingressRate":8000,"ingressBurst":8000},"ipRanges":[[{"subnet":"10.1.0.0/24"}]]}}"#,
    ];
    fuzzing::run("plugin_input", &seeds, WORDS, |input| {
        let mut version = NEWEST.to_owned();
        let Ok(config) = NetworkConfig::parse(input, &mut version) else { return false };
        Capabilities::parse(config.runtime.as_ref(), &Arguments::default()).is_ok()
    });
}

#[test]
fn fuzz_plugin_environment() {
    const NAMES: [&str; 5] = ["CNI_COMMAND", "CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS", "CNI_ARGS"];
    let seeds: [&[u8]; 3] = [
        b"ADD\0a-b_c.d\0eth0\0/var/run/netns/x\0K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;IP=10.1.0.5;MAC=02:00:00:00:00:01",
        b"DEL\0abc\0net1\0\0IgnoreUnknown=1",
        b"VERSION",
    ];
    fuzzing::run("plugin_environment", &seeds, WORDS, |input| {
        let values: Vec<_> = input.split(|byte| *byte == 0).map(|value| OsString::from_vec(value.to_vec())).collect();
        let value = |name| values.get(NAMES.iter().position(|n| *n == name)?).cloned();
        Invocation::from_environment(value).is_ok()
    });
}
