//! Tests of the configuration: precedence, defaults, and a message that names the option.

use clap::Parser;

use super::*;

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    options: Options,
}

fn flags(args: &[&str]) -> Options {
    Flags::try_parse_from([&["agent"], args].concat()).unwrap().options
}

fn file(text: &str) -> Result<Options, ConfigError> {
    let f = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(f.path(), text).unwrap();
    Options::from_file(f.path())
}

#[test]
fn unset_options_have_defaults() {
    let c = Config::new(flags(&["--node-name", "n1"])).unwrap();
    assert_eq!(c.source, ObjectSource::Kubernetes { kubeconfig: None, apiservers: vec![] });
    assert_eq!(c.pin_root, Path::new("/sys/fs/bpf/ropeway"));
    assert_eq!(c.metrics_bind_address.to_string(), "127.0.0.1:10249");
    assert_eq!(c.healthz_bind_address.to_string(), "[::]:10256");
    assert_eq!(c.snat_ports.to_string(), "4096-29999");
    assert_eq!(c.tables, TableSizes::default());
}

#[test]
fn flag_overrides_file() {
    let above = flags(&["--node-name", "flag", "--uplink", "eth0,eth1", "--uplink", "eth2", "--trace"]);
    let below = file("nodeName: file\nzone: z1\nmaxFlows: 4096\npodCIDRs: [10.1.0.0/24]\n").unwrap();
    let c = Config::new(above.over(below)).unwrap();
    assert_eq!((c.node_name.as_str(), c.zone.as_deref(), c.trace), ("flag", Some("z1"), true));
    assert_eq!(c.uplinks, ["eth0", "eth1", "eth2"]);
    assert_eq!(c.tables, TableSizes { flows: Some(4096), ..TableSizes::default() });
    assert_eq!(c.pod_cidrs, ["10.1.0.0/24".parse().unwrap()]);
}

#[test]
fn external_ips_default_to_all_addresses() {
    let ranges = |text: &str| Config::new(file(&format!("nodeName: n1\n{text}")).unwrap()).unwrap().external_ranges();
    assert_eq!((ranges(""), ranges("externalIPs: [all]")), (None, None));
    assert_eq!(ranges("externalIPs: [none]"), Some(Vec::new()));
    assert_eq!(ranges("externalIPs: [203.0.113.0/24]"), Some(vec!["203.0.113.0/24".parse().unwrap()]));
}

#[test]
fn masquerade_defaults_to_true_where_pods_get_addresses() {
    let masquerade = |args: &[&str]| Config::new(flags(&[&["--node-name=n1"], args].concat())).unwrap().masquerade;
    assert!(masquerade(&[]));
    assert!(masquerade(&["--ipam=pools"]));
    assert!(masquerade(&["--pod-cidr=10.244.1.0/24"]));
    assert!(!masquerade(&["--masquerade=false"]));
    assert!(!masquerade(&["--service-proxy=false"]));
    assert!(!masquerade(&["--ipam=none"]));
    assert!(masquerade(&["--ipam=none", "--masquerade"]));
    let c = Config::new(
        file("nodeName: n1\nmasquerade: true\nnonMasqueradeCIDRs: [10.0.0.0/8]\nrouteMode: vxlan\n").unwrap(),
    );
    let c = c.unwrap();
    assert_eq!(
        (c.masquerade, c.non_masquerade_cidrs.len(), c.route_mode, c.vxlan_port),
        (true, 1, RouteMode::Vxlan, 4789)
    );
}

#[test]
fn every_flag_has_an_environment_variable() {
    use clap::CommandFactory;
    for arg in Flags::command().get_arguments().filter(|a| a.get_id() != "help") {
        let env = arg.get_env().unwrap_or_else(|| panic!("{} has no variable", arg.get_id())).to_string_lossy();
        let name = format!("ROPEWAY_{}", arg.get_id().as_str().to_uppercase());
        assert!(env == name || env == format!("{name}_FILE"), "{env}");
        assert!(arg.get_help().is_some() && arg.get_help_heading().is_some(), "{}", arg.get_id());
    }
}

#[test]
fn error_names_the_option() {
    let n1 = "--node-name=n1";
    for (args, expected) in [
        (
            &["--nodeport-addresses=primary,10.0.0.0/8", n1][..],
            "--nodeport-addresses: `primary` cannot be combined with ranges",
        ),
        (&["--external-ips=all,203.0.113.0/24", n1], "--external-ips: `all` and `none` cannot be combined"),
        (&["--external-ips=203.0.113.1/24", n1], "--external-ips: 203.0.113.1/24 has host bits set"),
        (&["--service-cidr=10.96.0.1/16", n1], "--service-cidr: 10.96.0.1/16 has host bits set: use 10.96.0.0/16"),
        (&["--source=manifests", n1][..], "--manifests is missing: --source manifests requires a directory"),
        (&["--manifests=/x", n1], "--manifests: requires --source manifests"),
        (&["--node-name=Not_OK"], "--node-name: \"Not_OK\" is not a node name"),
        (&[n1, "--node-ip=10.0.0.1,10.0.0.2"], "--node-ip: more than one value for an address family"),
        (&[n1, "--node-ip=127.0.0.1"], "--node-ip: 127.0.0.1 is unspecified, loopback or multicast"),
        (&[n1, "--pod-cidr=10.1.0.1/24"], "--pod-cidr: 10.1.0.1/24 has host bits set: use 10.1.0.0/24"),
        (&[n1, "--ipam=configured"], "--pod-cidr is missing: --ipam configured requires a range"),
        (&[n1, "--ipam=pools", "--pod-cidr=10.1.0.0/24"], "--pod-cidr: requires --ipam configured"),
        (&[n1, "--ip-pool=web"], "--ip-pool: requires --ipam pools"),
        (&[n1, "--ipam=pools", "--source=manifests", "--manifests=/m"], "--ipam: pools requires --source kubernetes"),
        (&[n1, "--ipam=none", "--cni-conflist=/c"], "--cni-conflist: cannot be combined with --ipam none"),
        (&[n1, "--ipam=none", "--service-proxy=false"], "--service-proxy: false cannot be combined with --ipam none"),
        (&[n1, "--masquerade", "--service-proxy=false"], "--masquerade: cannot be combined with --service-proxy=false"),
        (
            &[n1, "--service-proxy=false", "--source=manifests", "--manifests=/m"],
            "--service-proxy: false requires --source kubernetes",
        ),
        (&[n1, "--uplink=a/b"], "--uplink: \"a/b\" is not a device name"),
        (&[n1, "--snat-port-range=30000-40000"], "--snat-port-range: 30000-40000 overlaps the node ports"),
        (&[n1, "--non-masquerade-cidr=10.0.0.1/8"], "--non-masquerade-cidr: 10.0.0.1/8 has host bits set"),
        (&[n1, "--vxlan-port=0"], "--vxlan-port: 0 cannot be used: choose 1 to 65535"),
        (
            &[n1, "--vxlan-port=30001"],
            "--vxlan-port: 30001 cannot be used: choose 1 to 65535 without the node ports (30000-32767)",
        ),
        (
            &[n1, "--maglev-table-size=4000"],
            "--maglev-table-size: 4000 is not a supported table size: use one of 251, 509, 1021, 2039, 4093, ",
        ),
        (&[n1, "--mtu=576"], "--mtu: 576 is out of range: use 1280"),
        (&[n1, "--pin-root=x"], "--pin-root: x is not an absolute path"),
        (&[n1, "--apiserver=host:6443"], "--apiserver: \"host:6443\" is not a URL"),
        (&[n1, "--max-flows=1"], "--max-flows: 1 is out of range: use 16"),
        (&[n1, "--udp-timeout=0"], "--udp-timeout: 0 is out of range: use 1 to 2592000 seconds"),
        (&[n1, "--log-level=loud"], "--log-level: \"loud\" is not a log level"),
    ] {
        let message = Config::new(flags(args)).unwrap_err().to_string();
        assert!(message.starts_with(expected), "{message}");
    }
}

#[test]
fn pod_cidr_selects_ipam_configured() {
    let mode = |args: &[&str]| Config::new(flags(&[&["--node-name=n1"], args].concat())).unwrap().ipam;
    assert_eq!(mode(&[]), Ipam::PodCidr);
    assert_eq!(mode(&["--pod-cidr=10.1.0.0/24"]), Ipam::Configured);
    assert_eq!(mode(&["--ipam=pools", "--ip-pool=web,db"]), Ipam::Pools);
    let config = Config::new(file("nodeName: n1\nipam: pools\nipPools: [web]\n").unwrap()).unwrap();
    assert_eq!((config.ipam, config.ip_pools), (Ipam::Pools, vec!["web".to_owned()]));
}

#[test]
fn invalid_flags_and_files_are_rejected() {
    for (args, expected) in [
        (&["--snat-port-range", "9-1"][..], "is not a port range"),
        (&["--source", "etcd"], "possible values: kubernetes, manifests"),
        (&["--node-ip", "here"], "--node-ip"),
        (&["--scheduler", "lblc"], "possible values: random, rr, wrr, sh, dh, mh, lc, wlc, sed, nq"),
        (&["--no-such"], "--no-such"),
    ] {
        let Err(e) = Flags::try_parse_from([&["agent"], args].concat()) else { panic!("{args:?} was accepted") };
        assert!(e.to_string().contains(expected), "{e}");
    }
    for (text, expected) in [
        ("nodeNam: n1\n", "unknown field `nodeNam`"),
        ("maxFlows: many\n", "maxFlows"),
        ("snatPortRange: 5\n", "snatPortRange"),
        ("nodeName: [\n", "line"),
    ] {
        let message = file(text).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
    assert!(file("").unwrap() == Options::default());
    let missing = Options::from_file(Path::new("/nonexistent")).unwrap_err().to_string();
    assert!(missing.starts_with("--config /nonexistent: cannot read the file: No such file"), "{missing}");
}

#[test]
fn fuzz_configuration_file() {
    let seeds: [&[u8]; 1] =
        [b"nodeName: n1\nzone: z1\nmaxFlows: 4096\npodCIDRs: [10.1.0.0/24]\nexternalIPs: [none]\nvxlanPort: 4789\n"];
    let words = [
        "nodeName",
        "podCIDRs",
        "ipam",
        "pools",
        "externalIPs",
        "all",
        "nodePortAddresses",
        "primary",
        "snatPortRange",
        "1-2",
    ];
    let file = tempfile::NamedTempFile::new().unwrap();
    fuzzing::run("configuration", &seeds, &words, |input| {
        std::fs::write(file.path(), input).unwrap();
        Options::from_file(file.path()).is_ok_and(|options| Config::new(options).is_ok())
    });
}
