//! Tests of the command line `ropeway`: text and JSON of each view, and errors without pins.

mod reference;

use std::net::IpAddr;

use bytemuck::Zeroable as _;
use dataplane_common::types::service::{
    Backend, BackendLoad, BackendStats, Frontend, SlotTable, backend_state, frontend_flags, proto, scheduler,
};
use dataplane_host::contract::AgentFile as _;
use dataplane_host::map::PinnedMap;

use super::service::{Lookup, Services, view};
use super::*;
use crate::observe::status_file::AgentStatus;

fn text(view: &impl View) -> String {
    view.text()
}

fn json(view: &impl View) -> serde_json::Value {
    serde_json::to_value(view).unwrap()
}

struct Fake;

impl Lookup for Fake {
    fn slot(&self, index: u32) -> Option<u32> {
        [0, 0, 7, 8, 7, 9].get(index as usize).copied()
    }

    fn backend(&self, id: u32) -> Option<Backend> {
        let addr = if id == 9 {
            "fd00::9".parse::<std::net::Ipv6Addr>().unwrap()
        } else {
            std::net::Ipv4Addr::new(10, 244, 1, id as u8).to_ipv6_mapped()
        };
        let state =
            backend_state::SERVING | if id == 8 { backend_state::TERMINATING | backend_state::LOCAL } else { 0 };
        Some(Backend {
            addr: addr.octets(),
            port: 8080,
            state,
            pad: 0,
            generation: id * 2,
            service_port: 5,
            weight: 1 + u32::from(id == 7),
        })
    }

    fn stats(&self, id: u32) -> Option<BackendStats> {
        let connections = u64::from(id) * 100;
        (id != 8).then_some(BackendStats { connections, sockets: 3, flows: 44, generation: id * 2, pad: 0 })
    }

    fn found(&self, id: u32) -> Option<BackendLoad> {
        Some(BackendLoad { generation: id * 2, active: 10, inactive: 5, flows: 40 })
    }

    fn name(&self, service_port: u32) -> Result<Option<String>, MapError> {
        match service_port {
            5 => Ok(Some("default/web:http".into())),
            6 => Ok(None),
            _ => Err(PinnedMap::<u32, u32>::open(&Pins::new("/nonexistent".as_ref()), "services").unwrap_err()),
        }
    }
}

fn services() -> Services {
    let frontend = |service_port, internal, external, flags, affinity_ticks| Frontend {
        service_port,
        affinity_ticks,
        internal,
        external,
        flags,
        scheduler: 0,
        pad: 0,
    };
    let table = |base, len| SlotTable { base, len };
    let ip = |a: &str| a.parse::<IpAddr>().unwrap();
    let cluster = frontend(5, table(2, 3), table(2, 1), 0, 0);
    let flags = frontend_flags::NODE_PORT | frontend_flags::KEEP_CLIENT;
    let node = Frontend { scheduler: scheduler::WLC, ..frontend(5, table(5, 1), table(5, 1), flags, 675) };
    let empty = frontend(6, table(0, 0), table(0, 0), 0, 0);
    Services {
        version: SCHEMA,
        frontends: vec![
            view(ip("10.96.0.10"), 80, proto::TCP, &cluster, &Fake).unwrap(),
            view(ip("fd00:50::11"), 30080, proto::UDP, &node, &Fake).unwrap(),
            view(ip("10.96.0.11"), 53, proto::SCTP, &empty, &Fake).unwrap(),
        ],
    }
}

#[test]
fn services_are_shown_as_text() {
    let expected = "\
PROT  FRONTEND             SCHEDULER  SERVICE                    FLAGS
  ->  BACKEND              TRAFFIC    STATE                      WEIGHT                          GENERATION  CONNECTIONS  ACTIVE  INACTIVE
TCP   10.96.0.10:80        random     default/web:http           -
  ->  10.244.1.7:8080      all        serving                    2                               14          700
  ->  10.244.1.8:8080      internal   serving,terminating,local  1                               16          -
UDP   [fd00:50::11]:30080  wlc        default/web:http           node-port,keep-client,affinity
  ->  [fd00::9]:8080       all        serving                    1                               18          900          17      5
SCTP  10.96.0.11:53        random     ?/6                        -
  ->  (none)
";
    assert_eq!(text(&services()), expected);
}

#[test]
fn unreadable_name_of_a_service_is_an_error() {
    let nameless = Frontend { service_port: 7, ..Frontend::zeroed() };
    assert!(view("10.96.0.12".parse().unwrap(), 80, proto::TCP, &nameless, &Fake).is_err());
}

#[test]
fn services_are_shown_as_json() {
    let all = json(&services());
    assert_eq!(all["version"], 1);
    let expected = serde_json::json!({
        "service": "default/web", "portName": "http", "protocol": "TCP", "address": "10.96.0.10", "port": 80,
        "scheduler": "random", "flags": [], "affinityTicks": 0,
        "backends": [
            {"address": "10.244.1.7", "port": 8080, "id": 7, "internal": true, "external": true, "weight": 2, "slots": 2,
             "state": ["serving"], "generation": 14, "connections": 700},
            {"address": "10.244.1.8", "port": 8080, "id": 8, "internal": true, "external": false, "weight": 1, "slots": 1,
             "state": ["serving", "terminating", "local"], "generation": 16, "connections": null},
        ],
    });
    assert_eq!(all["frontends"][0], expected);
}

#[test]
fn pods_are_shown_as_text_and_json() {
    let pod = |ifindex: u32, addresses: &[&str], device: Option<&str>| pod::PodView {
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        device: device.map(Into::into),
        ifindex,
        mac: "02:00:00:00:00:01".into(),
        netns_cookie: 42,
        host_ports: Vec::new(),
    };
    let port = |protocol: &str, ip: &str| pod::HostPortView {
        protocol: protocol.into(),
        host_ip: ip.parse().unwrap(),
        host_port: 8080,
        container_port: 80,
    };
    let host_ports = vec![port("TCP", "127.0.0.1"), port("UDP", "::")];
    let first = pod::PodView { host_ports, ..pod(7, &["10.244.1.2", "fd00:1::2"], Some("rw0123456789abc")) };
    let pods = pod::Pods { version: SCHEMA, pods: vec![first, pod(9, &["10.244.1.3"], None)] };
    let expected = "\
IPV4        IPV6       DEVICE           INDEX  MAC                NETNS  HOST PORTS
10.244.1.2  fd00:1::2  rw0123456789abc  7      02:00:00:00:00:01  42     127.0.0.1:8080->80/tcp,[::]:8080->80/udp
10.244.1.3  -          (gone)           9      02:00:00:00:00:01  42     -
";
    assert_eq!(text(&pods), expected);
    let first = serde_json::json!({
        "addresses": ["10.244.1.2", "fd00:1::2"], "device": "rw0123456789abc", "ifindex": 7,
        "mac": "02:00:00:00:00:01", "netnsCookie": 42, "hostPorts": [
            { "protocol": "TCP", "hostIP": "127.0.0.1", "hostPort": 8080, "containerPort": 80 },
            { "protocol": "UDP", "hostIP": "::", "hostPort": 8080, "containerPort": 80 },
        ],
    });
    assert_eq!(json(&pods)["pods"][0], first);
}

#[test]
fn drops_are_shown_as_text_and_json() {
    let drops = drops::Drops {
        version: SCHEMA,
        drops: [("spoofed", 12), ("malformed", 0)].into(),
        events: [("packet_new_flow", 5)].into(),
    };
    let expected = "\
DROP REASON  PACKETS
malformed    0
spoofed      12

EVENT            COUNT
packet_new_flow  5
";
    assert_eq!(text(&drops), expected);
    let expected =
        serde_json::json!({"version": 1, "drops": {"malformed": 0, "spoofed": 12}, "events": {"packet_new_flow": 5}});
    assert_eq!(json(&drops), expected);
}

#[test]
fn status_is_shown_as_text_and_json() {
    let link = |name: &str, kind: &str, target: &str| status::LinkView {
        name: name.into(),
        id: 3,
        kind: kind.into(),
        target: target.into(),
        program: 9,
    };
    let map = |name: &str, entries| status::MapView { name: name.into(), id: 4, max_entries: 1024, entries };
    let mut status = status::Status {
        version: SCHEMA,
        abi: "0123456789abcdef".into(),
        other_abis: vec![],
        pins: "/sys/fs/bpf/ropeway/0123456789abcdef".into(),
        agent_running: Some(true),
        agent: None,
        node: Some(status::NodeView {
            addresses: vec!["192.168.50.11".parse().unwrap(), "fd00:50::11".parse().unwrap()],
            uplink: Some("eth0".into()),
            snat_ports: "61000-65535".into(),
            udp_ticks: 118,
            tcp_ticks: 84375,
            closing_ticks: 59,
        }),
        wrong_sysctls: vec![],
        programs: vec![status::ProgramView {
            name: "from_pod".into(),
            id: 9,
            tag: "00112233aabbccdd".into(),
            xlated_bytes: 1000,
            jited_bytes: 600,
        }],
        links: vec![link("from_uplink-eth0", "tcx", "eth0"), link("sock_connect4", "cgroup", "cgroup 77")],
        filters: vec![],
        maps: vec![map("flows4", Some(1)), map("slots", None)],
        unreadable: vec![],
    };
    let expected = "\
ABI             0123456789abcdef
Pins            /sys/fs/bpf/ropeway/0123456789abcdef
Agent           running
Node addresses  192.168.50.11, fd00:50::11
Uplink          eth0
SNAT ports      61000-65535

PROGRAM   ID  TAG               XLATED  JITED
from_pod  9   00112233aabbccdd  1000    600

LINK              ID  KIND    ATTACHED TO  PROGRAM
from_uplink-eth0  3   tcx     eth0         9
sock_connect4     3   cgroup  cgroup 77    9

MAP     ID  ENTRIES  MAX   USED
flows4  4   1        1024  1%
slots   4   -        1024  -
";
    assert_eq!(text(&status), expected);
    let all = json(&status);
    assert_eq!(all["links"][0]["target"], "eth0");
    assert_eq!(all["node"]["snatPorts"], "61000-65535");
    assert_eq!(all["maps"][1], serde_json::json!({"name": "slots", "id": 4, "maxEntries": 1024, "entries": null}));

    status.filters = vec![status::FilterView {
        device: "rwpod".into(),
        direction: "ingress".into(),
        name: "from_pod".into(),
        program: Some(9),
    }];
    status.other_abis = vec!["fedcba9876543210".into()];
    let both = text(&status);
    assert!(both.contains("\nfrom_pod  rwpod   ingress    9\n"), "{both}");
    assert!(both.contains("Other ABIs      fedcba9876543210\n"), "{both}");

    status.wrong_sysctls = vec![status::SysctlView {
        name: "kernel.unprivileged_bpf_disabled".into(),
        required: "1".into(),
        reason: "with 0 every local user may load BPF programs".into(),
    }];
    let all = text(&status);
    status.agent = Some(AgentStatus {
        synced: true,
        stalled: vec!["Service: nothing heard since 2026-12-01T00:00:00Z".into()],
        last_error: Some("2026-12-01T00:00:00Z: map frontends4: refused".into()),
        foreign_programs: vec!["cil_sock4_connect at connect4 of cgroup /sys/fs/cgroup".into()],
        rejected: 22,
        rejections: vec!["Service shop/web, spec.ports: 10.0.0.1 port 80 is taken by Service shop/old".into()],
        ..AgentStatus::default()
    });
    let told = text(&status);
    for line in [
        "API server       Service: nothing heard since 2026-12-01T00:00:00Z\n",
        "Last error       2026-12-01T00:00:00Z: map frontends4: refused\n",
        "Foreign program  cil_sock4_connect at connect4 of cgroup /sys/fs/cgroup\n",
        "Rejected         Service shop/web, spec.ports: 10.0.0.1 port 80 is taken by Service shop/old\n",
        "Rejected         21 more: see the agent's log\n",
    ] {
        assert!(told.contains(line), "{told}");
    }
    assert!(!told.contains("Not in sync"), "{told}");
    let line = "Sysctl          kernel.unprivileged_bpf_disabled=1 (with 0 every local user may load BPF programs)\n";
    assert!(all.contains(line), "{all}");
}

#[test]
fn status_lists_what_it_cannot_read() {
    let root = tempfile::tempdir().unwrap();
    let pins = Pins::new(root.path());
    std::fs::create_dir_all(pins.directory().join("maps")).unwrap();
    std::fs::create_dir(pins.directory().join("links")).unwrap();
    std::fs::write(pins.map("backends"), "").unwrap();
    std::fs::write(root.path().join(AgentStatus::NAME), "rubbish").unwrap();
    let status = status::gather(&pins, root.path()).unwrap();
    let shown = text(&status);
    for subject in ["agent: ", "configuration of the node: ", "/programs: ", "/maps/backends: "] {
        let error = status.unreadable.iter().find(|error| error.contains(subject));
        let error = error.unwrap_or_else(|| panic!("nothing about {subject}: {:?}", status.unreadable));
        assert!(shown.contains(&format!("Unreadable  {error}\n")), "{shown}");
    }
    assert_eq!(status.unreadable.len(), 4, "{:?}", status.unreadable);
}

#[test]
fn missing_pins_are_reported() {
    for command in [&["status"][..], &["drops"], &["pod", "list"], &["service", "list"]] {
        let root = tempfile::tempdir().unwrap();
        let root_flag = format!("--pin-root={}", root.path().display());
        let arguments = [&["ropeway", &root_flag], command].concat();
        let message = format!("{:#}", Cli::parse_from(&arguments).run().unwrap_err());
        assert!(message.ends_with("no pins: the agent has not run on this node"), "{message}");
        std::fs::create_dir(root.path().join("0123456789abcdef")).unwrap();
        let message = format!("{:#}", Cli::parse_from(&arguments).run().unwrap_err());
        assert!(message.contains("pins of ABI 0123456789abcdef, but this program has ABI "), "{message}");
    }
}
