//! Packet tests, in the order of a packet's life: each scenario runs twice, once through the core on the host and once
//! through the real programs by `BPF_PROG_TEST_RUN`, and expects the same verdicts and bytes.
//!
//! `cargo test --test packet host` needs nothing. The kernel's half is ignored
//! without root: `cargo xtask test --level packet` builds the object and runs both.
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
            $($(#[$doc])* #[test] #[ignore = "needs root"] fn $name() { super::kernel::in_own_netns(|w| super::scenarios::$name(w)); })*
        }
    };
}

both! {
    pod_to_cluster_ip_and_back;
    pod_to_remote_backend_and_back;
    service_with_options_and_extension_headers;
    same_port_on_both_sides;
    outside_to_node_port_on_a_local_pod;
    outside_to_node_port_on_a_remote_backend;
    outside_to_node_port_on_the_node_itself;
    a_local_pod_of_another_plugin_is_reached_by_the_host;
    beside_another_proxy_everything_passes_through_the_host;
    pod_reaches_itself_through_its_service;
    pod_to_pod_without_a_service;
    pod_to_the_world_and_to_its_node;
    spoofed_sources_go_nowhere;
    a_foreign_mac_goes_nowhere;
    a_pod_that_is_being_removed_sends_nothing;
    unknown_interface_and_other_protocols;
    no_backend_is_refused;
    undefined_ports_of_a_cluster_ip_are_refused;
    other_ports_of_an_external_address_are_left_alone;
    local_policies_end_in_silence;
    source_ranges_hold_on_every_way_in;
    nobody_has_an_unallocated_service_address;
    what_is_too_big_for_its_way_is_told_the_size;
    pods_leave_the_cluster_with_the_address_of_the_node;
    pings_leave_the_cluster_too;
    ports_of_the_node_can_run_out;
    a_tunnel_leads_to_other_subnets;
    host_ports_lead_into_their_pod;
    a_host_port_ends_with_its_pod;
    what_a_limited_pod_receives_goes_through_its_queue;
    what_a_limited_client_is_answered_goes_through_its_queue;
    what_is_too_big_for_a_limited_pod_is_told_the_size;
    the_node_reaches_services_without_a_hook;
    the_node_hears_nothing_where_pods_do_not;
    the_address_of_a_pod_that_is_gone_leads_nowhere;
    sctp_of_the_node_finds_external_addresses;
    a_direct_datagram_is_not_translated_by_an_old_flow;
    the_node_reports_as_the_frontend;
    midflow_without_state_never_leaves;
    midflow_to_a_node_port_is_the_hosts;
    affinity_keeps_a_client_on_its_backend;
    udp_flow_leaves_a_backend_that_ended;
    a_question_by_udp_is_not_for_a_terminating_backend;
    tcp_flow_stays_with_a_terminating_backend;
    a_repeated_first_packet_has_one_backend;
    a_repeated_first_packet_is_its_own_pods;
    a_direct_connection_is_not_translated_by_an_old_flow;
    fragments_follow_their_first_one;
    malformed_packets_are_dropped;
    last_hop_goes_to_the_host_stack;
    icmp_errors_are_translated_inside_out;
    a_pod_reports_only_its_own_flows;
    sctp_of_every_length;
    sctp_fragments_keep_their_ports_or_end;
    sctp_that_is_cut_off_ends;
    a_wrong_sctp_checksum_stays_wrong;
    refused_sctp_is_told_of_its_first_chunk;
    a_direct_association_is_not_translated_by_an_old_flow;
    random_gives_by_the_table;
    round_robin_gives_in_the_order_of_the_table;
    round_robin_begins_anew_beyond_the_end;
    hashes_of_the_source_stick_to_it;
    hashes_are_the_same_everywhere;
    hashes_of_the_destination_stick_to_it;
    connections_go_where_the_fewest_are;
    connections_count_as_soon_as_they_are_made;
    datagrams_count_too;
    a_drained_backend_gets_no_connection_however_idle;
    what_an_earlier_endpoint_had_does_not_count;
    many_backends_are_sampled;
}
