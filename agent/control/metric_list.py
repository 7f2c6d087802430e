# SPDX-License-Identifier: Apache-2.0
"""The list of metrics: names by Prometheus's conventions, kinds, labels and meanings. Pure.

docs/monitoring.md ends with this list: `python -m agent.control.metric_list docs/monitoring.md` writes it again.
No label has a client's address, and none has more values than there are services, nodes, routers and counters.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final, NamedTuple

GAUGE: Final = "gauge"
COUNTER: Final = "counter"


class Metric(NamedTuple):
    """What a metric is. Its unit is in its name (`_seconds`, `_bytes`); without one it is a number or 0 and 1."""

    kind: str
    labels: tuple[str, ...]
    meaning: str


METRICS: Final = {
    # the node
    "anylb_info": Metric(GAUGE, ("version", "node", "cluster", "xdp_mode"), "1: which release and node this is."),
    "anylb_ready": Metric(GAUGE, (), "1 while this node forwards packets and knows the members."),
    "anylb_health": Metric(GAUGE, (), "The verdict of `lbctl check`: 0 ok, 1 warning, 2 critical."),
    "anylb_faults": Metric(GAUGE, ("severity",), "How many faults `lbctl check` lists, by warning and critical."),
    "anylb_problems": Metric(GAUGE, (), "How many problem lines `lbctl status` has."),
    "anylb_state": Metric(GAUGE, ("state",), "1 for the node's own state: up, draining or left."),
    "anylb_config_reloads_total": Metric(COUNTER, (), "Reloads of the configuration since the agent's start."),
    "anylb_config_refused": Metric(GAUGE, (), "1 while the last reload was refused, so that lb.yml is not in force."),
    "anylb_xdp_attached": Metric(GAUGE, (), "1 while the XDP program is attached; 0 with `xdp.mode: off` too."),
    "anylb_egress_faults": Metric(GAUGE, (), "Interfaces without the egress filter, which lowers the MSS for tunnels."),
    "anylb_epochs": Metric(GAUGE, (), "Epochs that this node supports: 2 while the table is being changed."),
    # packets
    "anylb_packets_total": Metric(
        COUNTER,
        ("service", "verdict", "event"),
        "Packets by what became of them: each is counted once. docs/counters.md explains each event. `service` is "
        "empty for packets that belong to none.",
    ),
    "anylb_packet_events_total": Metric(
        COUNTER, ("service", "event"), "What packets met besides their verdict: `rx`, `skip` (docs/counters.md)."
    ),
    # services
    "anylb_service_healthy": Metric(GAUGE, ("service",), "1 while this node's own server passes its health check."),
    "anylb_service_weight": Metric(GAUGE, ("service",), "This node's weight."),
    "anylb_service_effective_weight": Metric(GAUGE, ("service",), "What of the weight counts now: 0 while draining."),
    "anylb_service_members": Metric(GAUGE, ("service",), "Members of the service that this node knows."),
    "anylb_service_members_taking": Metric(GAUGE, ("service",), "Members that take new connections."),
    "anylb_service_connections": Metric(
        GAUGE, ("service",), "Connections of clients that this node holds, as of the last count."
    ),
    "anylb_instances": Metric(GAUGE, ("service", "state"), "Server processes that share the service's port, by state."),
    # members
    "anylb_members": Metric(GAUGE, ("state",), "Nodes by state, this one included: up, draining, lost, left."),
    "anylb_member_up": Metric(GAUGE, ("member",), "1 while the member is up and its data path answers."),
    "anylb_member_agent_up": Metric(GAUGE, ("member",), "1 while the member's agent runs, as its data path answers."),
    "anylb_member_reachable": Metric(GAUGE, ("member",), "1 while the next hop to the member answers."),
    "anylb_member_same_table": Metric(GAUGE, ("member",), "1 while the member has a table in common with this node."),
    "anylb_member_silent_seconds": Metric(GAUGE, ("member",), "For how long it has not answered; 0: it does."),
    "anylb_nodes_differing": Metric(GAUGE, (), "Nodes whose view or tables differ from this node's."),
    "anylb_nodes_agreement_change_timestamp_seconds": Metric(GAUGE, (), "When that last changed; 0: not yet."),
    "anylb_isolated": Metric(GAUGE, (), "1 while no other node answers this one."),
    "anylb_echo_questions_total": Metric(COUNTER, ("member", "path"), "Echo questions by plain, or by tunnel."),
    "anylb_echo_unanswered_total": Metric(COUNTER, ("member", "path"), "Those without an answer within a second."),
    "anylb_echo_round_trip_seconds": Metric(GAUGE, ("member", "path"), "The smoothed round trip time (RFC 6298)."),
    # claims
    "anylb_claimed_rows": Metric(
        GAUGE, ("by",), "Rows with a place for a node that holds connections there: this_node or others."
    ),
    "anylb_claims_full_rows": Metric(GAUGE, ("service",), "Rows without room for another claim."),
    "anylb_claims_nearly_full_rows": Metric(GAUGE, ("service",), "Rows with one place left, if they are many."),
    # routers
    "anylb_relay_connected": Metric(GAUGE, (), "1 while the agent and the BGP relay are connected."),
    "anylb_bgp_session_up": Metric(GAUGE, ("peer",), "1 while the session is established."),
    "anylb_bgp_session_change_timestamp_seconds": Metric(GAUGE, ("peer",), "Since when that is so."),
    "anylb_bgp_foreign_routes": Metric(GAUGE, ("peer",), "Routes of the router that are neither identity nor VIP."),
    "anylb_bfd_session_up": Metric(GAUGE, ("peer",), "1 while the BFD session is up."),
    "anylb_vip_wanted": Metric(GAUGE, ("vip",), "1 if this node wants to announce the VIP, or the pool of NAT."),
    "anylb_vip_announced": Metric(GAUGE, ("vip",), "1 if it is in the Adj-RIB-Out of a router's session."),
    # NAT
    "anylb_nat_sessions": Metric(
        GAUGE, ("state",), "Sessions of NAT on this node by state, as of the last scan; free: slots for new ones."
    ),
    "anylb_nat_session_slots": Metric(GAUGE, (), "How many slots new ones may get."),
    "anylb_nat_hand_over_sessions_total": Metric(
        COUNTER, ("outcome",), "Sessions between nodes, by what became of them (docs/nat.md)."
    ),
    "anylb_backend_healthy": Metric(GAUGE, ("service", "backend"), "1 while the backend passes its health check."),
    "anylb_backend_drained": Metric(GAUGE, ("service", "backend"), "1 while it takes no new sessions by order."),
    "anylb_backend_sessions": Metric(GAUGE, ("service", "backend"), "Sessions of this node with the backend."),
}
PROCESS: Final = {
    "process_cpu_seconds_total": Metric(COUNTER, (), "CPU time of the agent."),
    "process_resident_memory_bytes": Metric(GAUGE, (), "The agent's memory."),
    "process_virtual_memory_bytes": Metric(GAUGE, (), "Its address space."),
    "process_start_time_seconds": Metric(GAUGE, (), "When it started."),
    "process_open_fds": Metric(GAUGE, (), "Its open files."),
    "process_max_fds": Metric(GAUGE, (), "How many it may open."),
}
"""What prometheus-client adds about the process."""

MARK: Final = "<!-- Made by: python -m agent.control.metric_list docs/monitoring.md -->\n"


def render() -> str:
    """Return the list as a table."""
    lines = [MARK, "| metric | kind | labels | meaning |", "|---|---|---|---|"]
    for name, metric in (METRICS | PROCESS).items():
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        lines.append(f"| `{name}` | {metric.kind} | {labels} | {metric.meaning} |")
    return "\n".join(lines) + "\n"


def main(page: Path) -> None:
    """Write the list again at the end of a page."""
    page.write_text(page.read_text().partition(MARK)[0] + render())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
