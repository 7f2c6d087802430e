# SPDX-License-Identifier: Apache-2.0
"""A status of a node as agent/control/status.py makes it, in which every part is there: for what reads one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agent.control.metrics_server import PageSources
from bpf.layout.counter import Counter


def counters(**changed: int) -> dict[str, int]:
    """Return all counters, 0 but for some."""
    return {counter.name.lower(): 0 for counter in sorted(Counter)} | changed


def node_status(services: int = 0) -> dict[str, Any]:
    """Return the status, with so many more services."""
    more = [_service(f"s{number}") for number in range(services)]
    return {
        "node": {
            "address": "10.0.0.11", "tag": 11, "epoch": 1, "epochs": [1], "next_epoch": None, "cluster": 7,
            "state": "up", "version": 3,
        },
        "fault": None,
        "problems": ["disk full"],
        "config": {"generation": 2, "refused": None},
        "ready": True,
        "tables_written": True,
        "xdp": {
            "mode": "native", "attached": True, "fallback_reason": None, "interface": "eth0",
            "counters": counters(pass_no_service=7),
        },
        "egress": {"interfaces": ["eth0"], "errors": []},
        "vips": [{"vip": "192.0.2.10", "wanted": True, "announced": True, "why": "healthy"}],
        "pools": [{"pool": "10.255.0.0/27", "wanted": True, "announced": False, "why": "forwarding"}],
        "connections": {"held": 1234, "age_s": 1.0},
        "sessions": {"slots": 100, "free": 90, "half-open": 1, "established": 7, "closing": 1, "closed": 1},
        "nat": {"counters": counters()},
        "hand_over": {"sent": 3, "taken": 2},
        "services": [_service("web"), _service("nat", backends=[_backend()]), *more],
        "members": [_member("10.0.0.11", None), _member("10.0.0.12", _echo()), _member("10.0.0.13", _echo(), "lost")],
        "membership": {
            "nodes": 3, "agree": True, "since": 1_699_999_000.0, "differing": [], "isolated": False, "unreachable": [],
        },
        "claims": {"given": 4, "taken": {"10.0.0.12": 5}, "full": {"web": 0}, "nearly_full": {"web": 20}},
        "bgp": {"relay": "connected", "error": None, "deadman": False, "held": False, "peers": [_peer()], "down": []},
    }  # fmt: skip


def _service(name: str, backends: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    members = [{"address": "10.0.0.11", "state": "up", "weight": 100, "effective": 100}]
    instances = {"policy": "spread", "preferred": None, "instances": [{"name": n, "state": "active"} for n in "ab"]}
    return {
        "name": name, "vip": "192.0.2.10", "endpoint": "192.0.2.10:443", "protocol": "tcp", "port": 443, "state": "up",
        "healthy": True, "why": "", "weight": 100, "effective": 100, "digest": "ab12cd34", "connections": 12,
        "counters": counters(rx=100, drop_grace=5), "instances": instances if name == "web" else None,
        "backends": backends, "taken": True, "local_clients": None, "members": members,
    }  # fmt: skip


def _backend() -> dict[str, Any]:
    return {
        "address": "10.9.0.11:8443", "weight": 1, "healthy": True, "why": "", "checked_here": True, "drained": False,
        "sessions": 3, "elsewhere": None,
    }  # fmt: skip


def _member(address: str, echo: dict[str, Any] | None, state: str = "up") -> dict[str, Any]:
    return {
        "address": address, "tag": 11, "state": state, "epoch": 1, "epochs": [1], "same_epoch": True,
        "has_new_epoch": True, "reachable": True, "version": 3, "boot": "00", "silent_s": None, "echo": echo,
        "services": {"web": {"state": "up", "weight": 100, "effective": 100}}, "since_s": 4.0, "why": "",
    }  # fmt: skip


def _echo() -> dict[str, Any]:
    return {"answers": True, "agent_lives": True, "ways": {"plain": {"rtt_ms": 0.25, "asked": 40, "unanswered": 1}}}


def _peer() -> dict[str, Any]:
    bfd = {"state": "up", "since_s": 9.0, "diagnostic": "", "interval_ms": 300, "detection_ms": 900.0, "error": None}
    return {
        "address": "10.0.0.1", "state": "up", "since_s": 60.0, "why": "", "retry_s": None, "foreign_routes": 0,
        "bfd": bfd,
    }  # fmt: skip


def page_sources(
    explain: Callable[[str], Mapping[str, Any]] = lambda text: {},
    events: Callable[[], Sequence[Mapping[str, Any]]] = lambda: (),
    members: Sequence[Mapping[str, Any]] = (),
) -> PageSources:
    """Return what the page asks for beside the status."""

    async def cluster() -> Mapping[str, Any]:
        return {"node": "10.0.0.11", "cluster": 7, "members": members}

    return PageSources(explain, events, cluster)
