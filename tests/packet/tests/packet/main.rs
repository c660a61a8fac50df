//! Packet tests: each scenario runs on the model and in the kernel, with the same expectations.
//!
//! The model is `dataplane-common` over byte slices and hash maps; the kernel runs the real
//! programs by `BPF_PROG_TEST_RUN`. Equal verdicts and bytes on both are invariant I19 of
//! ARCHITECTURE.md.
//!
//! `cargo test --test packet host` needs no privilege. The kernel's half is ignored without root:
//! `cargo xtask test --level packet` builds the object and runs both.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests panic to fail")]

mod differential;
mod frame;
mod kernel;
mod model;
mod scenarios;
mod stack;
mod testbed;
mod verifier;

/// Returns a number from the environment.
fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap_or_else(|e| panic!("{variable}: {e}")))
}

macro_rules! both {
    ($($(#[$doc:meta])* $name:ident;)*) => {
        mod host {
            $($(#[$doc])* #[test] fn $name() { super::scenarios::$name(&mut super::model::Model::default()); })*
        }
        mod kernel_programs {
            $($(#[$doc])* #[test] #[ignore = "needs root"] fn $name() { super::kernel::in_own_netns(|t| super::scenarios::$name(t)); })*
        }
    };
}

both! {
    pod_to_cluster_ip_and_back;
    pod_to_remote_backend_and_back;
    service_with_options_and_extension_headers;
    frontend_and_backend_share_a_port;
    outside_to_node_port_on_a_local_pod;
    outside_to_node_port_on_a_remote_backend;
    outside_to_node_port_on_the_node_itself;
    local_pod_of_another_plugin_is_reached_through_the_host_stack;
    host_routing_passes_pod_packets_to_the_host_stack;
    hairpin_connection_reaches_the_same_pod;
    pod_to_pod_without_a_service;
    pod_to_external_address_and_to_its_node;
    spoofed_source_ip_is_dropped;
    spoofed_source_mac_is_dropped;
    pod_being_deleted_cannot_send;
    pod_without_an_address_of_a_family_cannot_send_in_it;
    unknown_interface_and_other_protocols;
    source_of_this_node_is_not_believed_from_outside;
    remote_pods_are_believed_from_their_direction_alone;
    owner_of_an_external_address_is_believed;
    packets_to_groups_pass_to_the_host_stack;
    reply_flow_of_the_node_is_not_matched_from_outside;
    icmp_error_with_a_martian_source_is_not_translated;
    frame_for_another_machine_is_neither_served_nor_answered;
    loopback_destination_is_dropped_at_every_device;
    tunnel_port_is_reached_by_nodes_alone;
    inner_source_in_the_tunnel_is_of_the_sending_node;
    forged_packets_of_a_pod_are_dropped;
    forged_packets_of_the_link_are_dropped;
    forged_packets_in_the_tunnel_of_a_node_are_dropped;
    datagrams_of_strangers_to_the_tunnel_are_dropped;
    honest_packets_beside_the_forged_ones_are_delivered;
    service_without_backends_is_rejected;
    packet_from_an_unanswerable_source_is_dropped;
    undefined_cluster_ip_port_is_rejected;
    undefined_external_ip_port_passes;
    local_traffic_policy_without_backends_drops_silently;
    source_ranges_apply_on_every_path;
    unallocated_cluster_ip_is_dropped;
    oversized_packet_gets_frag_needed;
    egress_from_pods_is_masqueraded;
    client_port_in_the_pool_is_kept;
    ping_is_masqueraded;
    link_local_ipv4_is_masqueraded_like_the_outside;
    snat_port_exhaustion_drops_new_flows;
    remote_subnet_is_reached_through_the_tunnel;
    host_port_reaches_its_pod;
    host_port_flow_ends_with_its_pod;
    flows_of_a_removed_pod_are_not_those_of_the_next_with_its_index;
    shaped_pod_receives_through_its_qdisc;
    replies_to_a_shaped_client_use_its_qdisc;
    oversized_packet_to_a_shaped_pod_gets_frag_needed;
    node_reaches_services_without_socket_hooks;
    node_is_dropped_silently_where_pods_are;
    address_of_a_deleted_pod_is_unreachable;
    node_sctp_reaches_external_ips;
    node_icmp_error_has_the_frontend_as_source;
    midstream_tcp_without_a_flow_is_dropped;
    midstream_tcp_to_a_node_port_passes;
    session_affinity_keeps_the_backend;
    affinity_lasts_while_it_is_used;
    affinity_ends_when_its_timeout_is_reached;
    affinity_is_renewed_by_new_connections_alone;
    affinity_is_kept_per_client;
    affinity_leaves_a_backend_without_new_connections;
    affinity_ignores_a_reused_backend_id;
    idle_tcp_connection_ends_after_its_timeout;
    closing_tcp_connection_has_a_short_timeout;
    half_closed_tcp_connection_keeps_the_open_direction;
    syn_after_a_fin_opens_a_connection_with_the_long_timeout;
    idle_datagram_flow_chooses_a_backend_again;
    late_reply_is_not_translated;
    late_reply_of_the_node_is_not_translated;
    syn_of_an_answered_flow_is_a_retransmission_for_a_short_time;
    masqueraded_ping_has_the_timeout_of_datagrams;
    reply_leaves_by_the_uplink_of_the_request;
    client_can_move_to_another_uplink;
    reply_to_a_masqueraded_pod_may_arrive_by_another_uplink;
    flow_without_its_forward_half_is_opened_again;
    udp_flow_leaves_a_removed_backend;
    unreplied_udp_flow_leaves_a_terminating_backend;
    tcp_flow_stays_with_a_terminating_backend;
    retransmitted_syn_reaches_one_backend;
    syn_of_another_pod_ends_no_flow;
    direct_connection_beside_one_to_the_service_keeps_both;
    full_pool_gives_the_port_of_an_ended_connection;
    node_port_flow_of_a_remote_pod_translates_no_direct_answers;
    refusals_are_limited_per_tick;
    segment_with_a_lying_data_offset_is_rejected;
    flood_of_a_pod_removes_its_own_flows;
    forged_flood_removes_no_answered_connection;
    flood_of_one_network_costs_another_no_budget;
    two_frontends_of_one_backend_keep_their_replies;
    taken_reply_key_without_a_free_port_is_dropped;
    ended_pair_is_removed_whole;
    unanswered_datagrams_keep_the_key_of_their_replies;
    direct_connection_to_the_node_beside_one_to_the_service_keeps_both;
    forged_syn_to_a_terminating_backend_ends_no_connection;
    forged_source_of_a_pod_takes_no_flow;
    guessed_rst_or_fin_does_not_shorten_a_connection;
    guessed_segment_before_a_rst_does_not_shorten_a_connection;
    guessed_segment_of_the_handshake_is_corrected;
    repeated_syn_does_not_shorten_a_connection;
    later_fragments_follow_the_first;
    later_fragments_follow_the_newest_datagram;
    forged_first_fragment_leads_no_later_ones;
    extension_headers_of_every_kind_are_skipped;
    ipv4_options_of_every_length_are_skipped;
    malformed_packets_are_dropped;
    expiring_hop_limit_passes_to_the_host_stack;
    icmp_error_and_its_quoted_packet_are_translated;
    icmp_errors_of_every_type_are_translated;
    icmp_error_about_another_pods_flow_is_not_translated;
    sctp_checksum_is_correct_at_every_length;
    sctp_fragment_with_translated_ports_is_dropped;
    truncated_sctp_is_dropped;
    wrong_sctp_checksum_stays_wrong;
    rejected_sctp_error_quotes_the_first_chunk;
    random_follows_the_slot_table;
    round_robin_follows_slot_order;
    round_robin_wraps_at_the_table_end;
    source_hash_is_stable;
    source_hash_is_equal_on_every_node;
    destination_hash_is_stable;
    least_connections_picks_the_least_loaded_backend;
    new_connections_are_counted_at_once;
    udp_flows_count_as_connections;
    zero_weight_backend_gets_no_connection;
    counts_of_an_older_generation_are_ignored;
    long_slot_table_is_sampled;
    np_9_both_ends_on_one_node_are_judged;
    np_58_service_is_judged_by_its_backend;
    np_34_egress_is_judged_after_translation;
    np_29_block_and_its_exception_decide_beyond_the_node;
    np_59_node_port_and_host_port_are_judged_with_the_client;
    np_57_pod_reaches_itself_through_a_service;
    np_51_own_node_reaches_isolated_pods;
    np_53_egress_to_the_own_node_is_judged;
    packets_forwarded_by_the_host_are_judged;
    packet_is_judged_once_on_its_way_through_the_host;
    np_78_revoked_connection_ends_with_its_next_packet;
    syn_in_the_direction_of_the_answers_is_judged;
    connection_from_before_isolation_keeps_its_direction;
    evicted_half_of_an_untranslated_pair_is_restored;
    np_50_icmp_errors_of_known_connections_pass;
    np_68_unknown_fragment_does_not_reach_an_isolated_pod;
    masqueraded_egress_is_judged;
    port_table_decides_about_ports;
    np_74_rules_are_those_of_one_pod;
    judged_connection_beside_one_to_the_service_keeps_both;
}
