# SPDX-License-Identifier: Apache-2.0
"""A node's state as metrics, in Prometheus's text format. Reads and changes nothing.

Everything is made of the status (status.py), so that `lbctl status -o json` and a scrape agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import ProcessCollector, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from agent.control.check import OK, Checked
from agent.control.metric_list import COUNTER, METRICS

_HEALTH = {OK: 0, "warning": 1, "critical": 2}
_BESIDES = ("rx", "skip")
"""Prefixes of the counters that come on top of a packet's verdict."""
_STATES = ("up", "draining", "left")
Sample = tuple[str, float, tuple[str, ...]]
"""A metric's name, its value, and the values of its labels."""


def render(status: Mapping[str, Any], checked: Checked, version: str, wall: float) -> bytes:
    """Return all metrics of a node as text; `wall` is when the status was made, in seconds since 1970."""
    return generate_latest(_Collected([*families(samples(status, checked, version, wall)), *_process.collect()]))


class _Collected:
    """What prometheus-client renders."""

    def __init__(self, found: Iterable[Metric]) -> None:
        self._found = found

    def collect(self) -> Iterable[Metric]:
        """Return the families."""
        return self._found


_process = ProcessCollector(registry=None)


def families(found: Iterable[Sample]) -> list[Metric]:
    """Return the samples by their metrics, in the order of the list; a metric without one is absent."""
    made: dict[str, Any] = {}
    for name, metric in METRICS.items():
        kind = CounterMetricFamily if metric.kind == COUNTER else GaugeMetricFamily
        made[name] = kind(name, metric.meaning, labels=metric.labels)
    for name, value, labels in found:
        made[name].add_metric(labels, value)
    return [family for family in made.values() if family.samples]


def samples(status: Mapping[str, Any], checked: Checked, version: str, wall: float) -> Iterator[Sample]:
    """Yield every sample."""
    yield from _node(status, checked, version)
    yield from _packets("", status["xdp"]["counters"])
    if status["nat"]:
        yield from _packets("(nat)", status["nat"]["counters"])
    for service in status["services"]:
        yield from _service(service)
    yield from _members(status, wall)
    yield from _claims(status["claims"])
    yield from _routers(status, wall)
    yield from _nat(status)


def _node(status: Mapping[str, Any], checked: Checked, version: str) -> Iterator[Sample]:
    node, xdp = status["node"], status["xdp"]
    yield "anylb_info", 1, (version, node["address"], str(node["cluster"]), xdp["mode"])
    yield "anylb_ready", status["ready"], ()
    yield "anylb_health", _HEALTH[checked.state], ()
    for severity in ("warning", "critical"):
        yield "anylb_faults", sum(fault.severity == severity for fault in checked.faults), (severity,)
    yield "anylb_problems", len(status["problems"]), ()
    for state in _STATES:
        yield "anylb_state", node["state"] == state, (state,)
    yield "anylb_config_reloads_total", status["config"]["generation"], ()
    yield "anylb_config_refused", status["config"]["refused"] is not None, ()
    yield "anylb_xdp_attached", xdp["attached"], ()
    yield "anylb_egress_faults", len(status["egress"]["errors"]), ()
    yield "anylb_epochs", len(node["epochs"]), ()


def _packets(service: str, counters: Mapping[str, int], nat: bool = True) -> Iterator[Sample]:
    """Yield the counters of a service. Those of NAT are left out where there is none: they stay 0."""
    for event, count in counters.items():
        verdict, _, what = event.partition("_")
        if verdict in _BESIDES:
            yield "anylb_packet_events_total", count, (service, event)
        elif nat or not what.startswith("nat"):
            yield "anylb_packets_total", count, (service, verdict, event)


def _service(service: Mapping[str, Any]) -> Iterator[Sample]:
    name = (service["name"],)
    yield from _packets(service["name"], service["counters"], nat=service["backends"] is not None)
    yield "anylb_service_healthy", service["healthy"], name
    yield "anylb_service_weight", service["weight"], name
    yield "anylb_service_effective_weight", service["effective"], name
    yield "anylb_service_members", len(service["members"]), name
    taking = sum(one["state"] == "up" and one["effective"] > 0 for one in service["members"])
    yield "anylb_service_members_taking", taking, name
    if service["connections"] is not None:
        yield "anylb_service_connections", service["connections"], name
    states = [one["state"] for one in service["instances"]["instances"]] if service["instances"] else []
    for state in sorted(set(states)):
        yield "anylb_instances", states.count(state), (*name, state)
    for backend in service["backends"] or ():
        labels = (*name, backend["address"])
        yield "anylb_backend_healthy", backend["healthy"], labels
        yield "anylb_backend_drained", backend["drained"], labels
        yield "anylb_backend_sessions", backend["sessions"], labels


def _members(status: Mapping[str, Any], wall: float) -> Iterator[Sample]:
    members, membership = status["members"], status["membership"]
    for state in (*_STATES, "lost"):
        yield "anylb_members", sum(one["state"] == state for one in members), (state,)
    for one in members:
        address, echo = (one["address"],), one["echo"]
        yield "anylb_member_up", one["state"] == "up" and one["silent_s"] is None, address
        yield "anylb_member_agent_up", echo is None or echo["agent_lives"], address
        yield "anylb_member_reachable", one["reachable"], address
        yield "anylb_member_same_table", one["same_epoch"], address
        yield "anylb_member_silent_seconds", one["silent_s"] or 0, address
        for path, stats in (echo["ways"] if echo else {}).items():
            yield "anylb_echo_questions_total", stats["asked"], (*address, path)
            yield "anylb_echo_unanswered_total", stats["unanswered"], (*address, path)
            if stats["rtt_ms"] is not None:
                yield "anylb_echo_round_trip_seconds", stats["rtt_ms"] / 1e3, (*address, path)
    yield "anylb_nodes_differing", len(membership["differing"]), ()
    yield "anylb_nodes_agreement_change_timestamp_seconds", membership["since"], ()
    yield "anylb_isolated", membership["isolated"], ()


def _claims(claims: Mapping[str, Any] | None) -> Iterator[Sample]:
    if claims is None:
        return
    yield "anylb_claimed_rows", claims["given"], ("this_node",)
    yield "anylb_claimed_rows", sum(claims["taken"].values()), ("others",)
    for field in ("full", "nearly_full"):
        for service, rows in claims[field].items():
            yield f"anylb_claims_{field}_rows", rows, (service,)


def _routers(status: Mapping[str, Any], wall: float) -> Iterator[Sample]:
    bgp = status["bgp"]
    yield "anylb_relay_connected", bgp["relay"] == "connected", ()
    for peer in bgp["peers"]:
        address = (peer["address"],)
        yield "anylb_bgp_session_up", peer["state"] == "up", address
        if peer["since_s"] is not None:
            yield "anylb_bgp_session_change_timestamp_seconds", round(wall - peer["since_s"], 1), address
        yield "anylb_bgp_foreign_routes", peer["foreign_routes"], address
        if peer["bfd"]:
            yield "anylb_bfd_session_up", peer["bfd"]["state"] == "up", address
    for one in (*status["vips"], *status["pools"]):
        name = (one.get("vip") or one["pool"],)
        yield "anylb_vip_wanted", one["wanted"], name
        if one["announced"] is not None:
            yield "anylb_vip_announced", one["announced"], name


def _nat(status: Mapping[str, Any]) -> Iterator[Sample]:
    for state, count in (status["sessions"] or {}).items():
        if state == "slots":
            yield "anylb_nat_session_slots", count, ()
        else:
            yield "anylb_nat_sessions", count, (state,)
    for outcome, count in (status["hand_over"] or {}).items():
        yield "anylb_nat_hand_over_sessions_total", count, (outcome,)
