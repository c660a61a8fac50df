//! Packet tests, in the order of a packet's life: each scenario runs twice, once through the core on the host and once
//! through the real programs by `BPF_PROG_TEST_RUN`, and expects the same verdicts and bytes.
//!
//! `cargo test --test packet host` needs nothing; `cargo test --test packet kernel` needs root and the built object.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests panic to fail")]

mod frame;
mod kernel;
mod model;
mod scenarios;
mod stack;
mod verifier;
mod world;

macro_rules! both {
    ($($(#[$doc:meta])* $name:ident;)*) => {
        mod host {
            $($(#[$doc])* #[test] fn $name() { super::scenarios::$name(&mut super::model::Model::default()); })*
        }
        mod kernel_programs {
            $($(#[$doc])* #[test] fn $name() { super::kernel::in_own_netns(|w| super::scenarios::$name(w)); })*
        }
    };
}

both! {
    pod_to_cluster_ip_and_back;
    pod_to_remote_backend_and_back;
    udp_service_with_options_and_extension_headers;
    same_port_on_both_sides;
    outside_to_node_port_on_a_local_pod;
    outside_to_node_port_on_a_remote_backend;
    outside_to_node_port_on_the_node_itself;
    pod_reaches_itself_through_its_service;
    pod_to_pod_without_a_service;
    pod_to_the_world_and_to_its_node;
    spoofed_sources_go_nowhere;
    unknown_interface_and_other_protocols;
    no_backend_and_no_frontend;
    midflow_without_state_never_leaves;
    affinity_keeps_a_client_on_its_backend;
    udp_flow_leaves_a_backend_that_ended;
    tcp_flow_stays_with_a_terminating_backend;
    a_direct_connection_is_not_translated_by_an_old_flow;
    fragments_follow_their_first_one;
    malformed_packets_are_dropped;
    last_hop_goes_to_the_host_stack;
    icmp_errors_are_translated_inside_out;
    a_pod_reports_only_its_own_flows;
}
