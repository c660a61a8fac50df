//! The rows of docs/hostile-matrix.md: attacker, means, victim, and the tests that show the
//! outcome.
//!
//! F1 to F21 are the findings of the review of 2026-11-29. A row that is not mended, or only in
//! part, names its weakness in SECURITY.md.

use super::Level::{self, Host, Namespace, Packet, Plugin};

/// One row.
pub(super) struct Row {
    pub(super) section: &'static str,
    pub(super) finding: &'static str,
    pub(super) attacker: &'static str,
    pub(super) means: &'static str,
    pub(super) victim: &'static str,
    /// Functions of tests, with their level. Of a packet test, both runs count.
    pub(super) tests: &'static [(Level, &'static str)],
    /// The weakness of SECURITY.md that remains.
    pub(super) open: Option<&'static str>,
}

pub(super) const HEAD: &str = "\
<!-- Written by `cargo xtask test hostile --write`. -->
# What hostile pods, neighbours and tenants can do

Each row is an attacker with a means against a victim.

- `holds`: all tests of the row have passed. They are named by their functions, and run in every
  `cargo xtask test` as well.
- `open`: the weakness is known, with its number in
  [SECURITY.md](../SECURITY.md#known-open-weaknesses).

`cargo xtask test hostile` runs these tests alone. `--packets N` sets the number of forged packets
and of random packets.
";

const FORGED: &str = "Forged packets";
const CONNECTIONS: &str = "Connections of others";
const OBJECTS: &str = "Objects of the API";
const NODE: &str = "The node and its agent";

pub(super) const ROWS: &[Row] = &[
    Row {
        section: FORGED,
        finding: "S1",
        attacker: "pod",
        means: "another source address or MAC; raw, tagged, with options or extension headers, in fragments",
        victim: "everybody",
        tests: &[
            (Packet, "forged_packets_of_a_pod_are_dropped"),
            (Packet, "honest_packets_beside_the_forged_ones_are_delivered"),
            (Namespace, "forged_frames_are_dropped_and_leave_neighbour_tables_unchanged"),
            (Namespace, "spoofed_source_address_is_dropped_and_counted"),
        ],
        open: None,
    },
    Row {
        section: FORGED,
        finding: "S2",
        attacker: "machine on the link, or outside",
        means: "a source of this node, its pods or its Services, or of pods behind the tunnel; in the same forms",
        victim: "pods, node, their connections",
        tests: &[
            (Packet, "forged_packets_of_the_link_are_dropped"),
            (Packet, "forged_first_fragment_leads_no_later_ones"),
            (Packet, "frame_for_another_machine_is_neither_served_nor_answered"),
            (Namespace, "forged_frames_from_the_link_are_dropped_and_counted"),
        ],
        open: None,
    },
    Row {
        section: FORGED,
        finding: "S3",
        attacker: "machine on the link, or outside",
        means: "the source of a machine that is no part of this node",
        victim: "connections without a flow",
        tests: &[],
        open: Some("W1"),
    },
    Row {
        section: FORGED,
        finding: "S4",
        attacker: "anybody",
        means: "random packets to random tables: the model of all other rows and the kernel's programs agree",
        victim: "everybody",
        tests: &[(Packet, "random_packets_are_treated_alike_by_model_and_kernel")],
        open: None,
    },
    Row {
        section: FORGED,
        finding: "F3",
        attacker: "pod, stranger, process of a node",
        means: "datagrams to the port of the tunnel, also through a Service or by loopback",
        victim: "pods of every node",
        tests: &[
            (Packet, "tunnel_port_is_reached_by_nodes_alone"),
            (Packet, "datagrams_of_strangers_to_the_tunnel_are_dropped"),
            (Host, "port_of_the_tunnel_is_refused"),
            (Namespace, "datagrams_to_the_tunnel_from_pods_and_strangers_are_dropped"),
            (Namespace, "processes_of_a_node_reach_no_port_of_the_tunnel"),
        ],
        open: None,
    },
    Row {
        section: FORGED,
        finding: "F3",
        attacker: "another node",
        means: "an inner source that the node does not lead, of either family",
        victim: "pods of every node",
        tests: &[
            (Packet, "inner_source_in_the_tunnel_is_of_the_sending_node"),
            (Packet, "forged_packets_in_the_tunnel_of_a_node_are_dropped"),
            (Host, "ranges_and_addresses_of_one_node_have_one_number"),
            (Namespace, "inner_source_of_another_node_is_dropped_and_counted"),
        ],
        open: Some("W2"),
    },
    Row {
        section: FORGED,
        finding: "F4",
        attacker: "pod with NET_RAW",
        means: "a checksum offload that writes into what was checked",
        victim: "machines beyond the node",
        tests: &[],
        open: Some("W3"),
    },
    Row {
        section: FORGED,
        finding: "F14",
        attacker: "neighbour, pod",
        means: "loopback addresses as destination or source",
        victim: "node ports at loopback",
        tests: &[
            (Packet, "loopback_destination_is_dropped_at_every_device"),
            (Packet, "source_of_this_node_is_not_believed_from_outside"),
            (Namespace, "neighbours_cannot_reach_node_ports_on_loopback"),
        ],
        open: Some("W11"),
    },
    Row {
        section: CONNECTIONS,
        finding: "F1",
        attacker: "machine on the link, pod",
        means: "a SYN, RST or FIN with the tuple of somebody else",
        victim: "connections with a flow",
        tests: &[
            (Packet, "forged_source_of_a_pod_takes_no_flow"),
            (Packet, "forged_syn_to_a_terminating_backend_ends_no_connection"),
            (Packet, "guessed_rst_or_fin_does_not_shorten_a_connection"),
            (Packet, "guessed_segment_before_a_rst_does_not_shorten_a_connection"),
            (Packet, "repeated_syn_does_not_shorten_a_connection"),
            (Packet, "syn_of_another_pod_ends_no_flow"),
            (Packet, "two_frontends_of_one_backend_keep_their_replies"),
            (Namespace, "forged_syns_end_no_connection_of_a_node_port"),
        ],
        open: None,
    },
    Row {
        section: CONNECTIONS,
        finding: "F5",
        attacker: "pod, machine outside",
        means: "many connections to one destination",
        victim: "others' new connections to it",
        tests: &[
            (Packet, "full_pool_gives_the_port_of_an_ended_connection"),
            (Namespace, "connections_beyond_the_port_pool_succeed_without_agent"),
        ],
        open: Some("W5"),
    },
    Row {
        section: CONNECTIONS,
        finding: "F6",
        attacker: "pod, machine outside, forged sources",
        means: "flows of one packet and of three, as fast as it can",
        victim: "translated connections of the node",
        tests: &[
            (Packet, "flood_of_a_pod_removes_its_own_flows"),
            (Packet, "flood_of_one_network_costs_another_no_budget"),
            (Packet, "forged_flood_removes_no_answered_connection"),
            (Namespace, "flood_of_a_pod_ends_no_connection_of_others"),
        ],
        open: Some("W4"),
    },
    Row {
        section: CONNECTIONS,
        finding: "F17",
        attacker: "pod",
        means: "the interface index of a pod that is gone",
        victim: "the connections of that pod",
        tests: &[(Packet, "flows_of_a_removed_pod_are_not_those_of_the_next_with_its_index")],
        open: None,
    },
    Row {
        section: OBJECTS,
        finding: "F2",
        attacker: "tenant",
        means: "large Services, annotations that ask for much",
        victim: "Services of others",
        tests: &[
            (Host, "service_and_namespace_have_a_share_of_the_slots"),
            (Host, "served_service_can_exchange_its_endpoints_while_others_fill_the_slots"),
            (Host, "large_services_do_not_hold_up_small_ones"),
            (Host, "service_beyond_a_limit_keeps_what_it_has_and_says_so"),
        ],
        open: Some("W7"),
    },
    Row {
        section: OBJECTS,
        finding: "F7",
        attacker: "tenant",
        means: "externalIPs of API servers, gateways, resolvers, pods, or outside the ranges of the setting",
        victim: "traffic to those addresses",
        tests: &[
            (Host, "external_ips_of_servers_and_outside_the_ranges_are_rejected"),
            (Host, "external_ips_of_pods_and_cluster_ips_are_rejected"),
            (Host, "ports_that_nodes_need_are_not_taken_at_their_addresses"),
        ],
        open: Some("W6"),
    },
    Row {
        section: OBJECTS,
        finding: "F10",
        attacker: "kubelet",
        means: "a Node with the address or range of cluster IPs",
        victim: "Services of the cluster",
        tests: &[(Host, "nodes_and_pod_ranges_do_not_withdraw_cluster_ips")],
        open: None,
    },
    Row {
        section: OBJECTS,
        finding: "F13",
        attacker: "tenant",
        means: "many faulty Services",
        victim: "the API server",
        tests: &[
            (Host, "three_nodes_report_each_fault_and_others_do_in_the_next_hour"),
            (Host, "fault_that_all_nodes_find_is_queued_by_three"),
        ],
        open: None,
    },
    Row {
        section: OBJECTS,
        finding: "F15",
        attacker: "pod of another plugin",
        means: "the node's place in loadBalancerSourceRanges",
        victim: "Services with source ranges",
        tests: &[],
        open: Some("W15"),
    },
    Row {
        section: OBJECTS,
        finding: "F16",
        attacker: "tenant",
        means: "hostPort of kubelet, agent, tunnel or a process that listens",
        victim: "the node",
        tests: &[(Host, "ports_of_the_agent_and_of_kubelet_are_reserved"), (Plugin, "ports_of_the_node_are_rejected")],
        open: Some("W9"),
    },
    Row {
        section: OBJECTS,
        finding: "F18",
        attacker: "tenant",
        means: "the fixed address of a pod that has just gone",
        victim: "peers of that pod",
        tests: &[(Host, "requested_address_rests_unless_the_same_pod_comes_back")],
        open: Some("W10"),
    },
    Row {
        section: OBJECTS,
        finding: "F19",
        attacker: "kubelet",
        means: "IPBlocks of other nodes",
        victim: "routes of the cluster",
        tests: &[(Host, "each_right_to_write_blocks_has_an_admission_policy")],
        open: Some("W13"),
    },
    Row {
        section: OBJECTS,
        finding: "L7",
        attacker: "tenant",
        means: "an endpoint elsewhere whose nodeName is this node's",
        victim: "source addresses of pods and clients",
        tests: &[
            (Host, "endpoint_is_local_only_at_an_address_that_can_be_on_this_node"),
            (Host, "local_networks_are_pod_ranges_and_routes_to_devices_of_others"),
        ],
        open: Some("W16"),
    },
    Row {
        section: NODE,
        finding: "F8",
        attacker: "API server",
        means: "a request that never ends",
        victim: "the agent",
        tests: &[
            (Host, "every_stall_is_noticed_and_survived"),
            (Host, "every_stall_is_survived_with_servers_that_do_not_stream_lists"),
        ],
        open: None,
    },
    Row {
        section: NODE,
        finding: "F9",
        attacker: "pod, neighbour, local user",
        means: "silent connections to the health ports",
        victim: "probes of kubelet and load balancer",
        tests: &[
            (Host, "silent_connections_do_not_delay_probes"),
            (Host, "clients_that_do_not_read_do_not_delay_probes"),
            (Host, "silent_client_is_disconnected"),
        ],
        open: None,
    },
    Row {
        section: NODE,
        finding: "F11",
        attacker: "a node that leaves",
        means: "a restart of its agent",
        victim: "the rollout",
        tests: &[(Host, "agent_can_start_on_a_leaving_node"), (Host, "leaving_node_is_alive_but_not_eligible")],
        open: None,
    },
    Row {
        section: NODE,
        finding: "F12",
        attacker: "all agents at once",
        means: "a restart of the control plane",
        victim: "the API server",
        tests: &[
            (Host, "restart_of_the_control_plane_costs_three_requests_a_node"),
            (Host, "lists_come_from_the_cache_of_the_api_server"),
        ],
        open: None,
    },
    Row {
        section: NODE,
        finding: "F20",
        attacker: "local user",
        means: "unprivileged BPF",
        victim: "the kernel",
        tests: &[(Host, "unprivileged_bpf_is_switched_off_where_it_is_on")],
        open: Some("W14"),
    },
    Row {
        section: NODE,
        finding: "F21",
        attacker: "tenant",
        means: "objects of the largest size",
        victim: "pods of the node, by the agent's memory",
        tests: &[(Host, "list_of_huge_objects_takes_little_memory")],
        open: None,
    },
];
