//! BPF programs that another network plugin has left at the hooks of Ropeway's programs.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use dataplane_host::pins::Pins;
use dataplane_host::sys;
use ropeway_tests::cluster::{Cluster, Shape};
use ropeway_tests::{view, wait};

/// Longer than the agent's interval between checks of all attachments.
const NOTICED: Duration = Duration::from_secs(40);
/// `BPF_CGROUP_INET4_CONNECT` of the kernel's `enum bpf_attach_type`.
const INET4_CONNECT: u32 = 10;

/// Report 32. Another node's program stands for the one of another plugin: it is none of this
/// node's, and translates by other maps.
#[test]
#[ignore = "needs root"]
fn foreign_program_on_the_cgroup_is_named_in_log_and_status() {
    let mut cluster = Cluster::start(Shape { nodes: 2, mtu: 1500 }).unwrap();
    let foreign = Pins::new(&cluster.nodes[1].machine.path("/sys/fs/bpf/ropeway"));
    let program = sys::obj_get(&foreign.program("sock_connect4")).unwrap();
    let status = |cluster: &Cluster| view::ropeway(&cluster.nodes[0].machine, &["status"]).unwrap();
    let line = "sock_connect4 at connect4 of cgroup";
    assert!(!status(&cluster).contains(line), "only its own programs are attached");

    cluster.nodes[0].kill_agent().unwrap();
    let cgroup = File::open(cluster.nodes[0].machine.cgroup()).unwrap();
    let target = cgroup.as_raw_fd().cast_unsigned();
    let link = sys::link_create(program.as_fd(), target, INET4_CONNECT, 0).unwrap();
    cluster.nodes[0].start_agent(&[]).unwrap();
    wait::until_true("status names the program", NOTICED, || status(&cluster).contains(line)).unwrap();
    let log = cluster.nodes[0].agent_log();
    assert!(log.contains("programs of others are attached") && log.contains(line), "{log}");

    drop(link);
    wait::until_true("status names no program", NOTICED, || !status(&cluster).contains(line)).unwrap();
}
