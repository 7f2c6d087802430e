# SPDX-License-Identifier: Apache-2.0
"""The targets of the figures, and whether they are met. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from bench import figures

L2: Final = "l2 forward, ingress outside the chain"
IPIP: Final = "ipip forward, ingress outside the chain"
L2_IPV6: Final = "IPv6, l2 forward"
FROM_IPIP: Final = "deliver from ipip, socket"
FROM_GUE: Final = "deliver from gue, socket"
NOT_A_VIP: Final = "pass, not a VIP"
TO_BACKEND: Final = "NAT, to the backend"
TO_CLIENT: Final = "NAT, to the client"
NEW_SESSION: Final = "NAT, a new session"
MANY: Final = 1_000_000
OURS: Final = "anylb l2"
NAT: Final = "anylb nat"
PROXY: Final = "haproxy tcp"
LARGEST: Final = 1024


@dataclass(frozen=True)
class Target:
    """`at_most`: the value may not be larger; else not smaller."""

    what: str
    limit: float
    value: float
    at_most: bool = True

    @property
    def met(self) -> bool:
        """Whether the value is within the limit."""
        return self.value <= self.limit if self.at_most else self.value >= self.limit


def targets(found: Mapping[str, Any]) -> list[Target]:
    """Return the targets of the measured parts, with their values."""
    return [
        *_xdp(found.get("xdp", [])),
        *_nat(found.get("nat", [])),
        *_system(found.get("system", [])),
        *_agent(found),
        *_scale(found.get("scale", [])),
        *_drain(found.get("drain", {})),
        *_connections(found.get("connections", [])),
        *_sessions(found.get("sessions", {})),
        *_hand_over(found.get("hand_over", {})),
    ]


def _xdp(rows: Iterable[Mapping[str, Any]]) -> list[Target]:
    by_case = {(row["case"], row["flows"]): row for row in rows}
    made = []
    for what, case, field, limit in (
        ("l2 forward, of the floor", L2, "ratio_floor", 2.3),
        ("l2 forward, of the floor, net", L2, "ratio_floor_net", 4.5),
        ("ipip forward, of the floor", IPIP, "ratio_floor", 3.0),
        ("ipip forward, of the floor, net", IPIP, "ratio_floor_net", 6.5),
        ("non-VIP pass, of the floor", NOT_A_VIP, "ratio_floor", 1.1),
        ("deliver from ipip, ns", FROM_IPIP, "ns_min", 65.0),
        ("deliver from gue, ns", FROM_GUE, "ns_min", 65.0),
    ):
        if row := by_case.get((case, 1)):
            made.append(Target(what, limit, row[field]))
    one, other = by_case.get((L2, 1)), by_case.get((L2_IPV6, 1))
    if one and other:
        made.append(Target("IPv6 forward, of IPv4", 1.2, figures.ratio(other["ns_min"], one["ns_min"])))
    many = [row["ratio_one_flow"] for row in by_case.values() if row["flows"] == MANY and "ratio_one_flow" in row]
    if many:
        made.append(Target("1,000,000 flows, of one flow (the worst case)", 1.35, max(many)))
    return made


def _nat(rows: Iterable[Mapping[str, Any]]) -> list[Target]:
    net = {(row["case"], row["flows"]): row["ns_net"] for row in rows if "ns_net" in row}
    limits = {
        (TO_BACKEND, 1): 40.0, (TO_BACKEND, MANY): 260.0, (TO_CLIENT, 1): 22.0, (TO_CLIENT, MANY): 200.0,
        (NEW_SESSION, 1): 70.0,
    }  # fmt: skip
    return [
        Target(f"{case[0]}, {case[1]:,} flows, ns net", limit, net[case])
        for case, limit in limits.items()
        if case in net
    ]


def _system(rows: Iterable[Mapping[str, Any]]) -> list[Target]:
    by_path = {row["path"]: row for row in rows}
    ours = by_path.get(OURS)
    if ours is None:
        return []
    limits = (("connections", 0.80, 1.5), ("requests", 0.88, 1.6))
    made = []
    for kind, of_direct, of_proxy in limits:
        ratios = ours[f"{kind}_per_cpu_s_ratio"]
        made.append(Target(f"{kind} per CPU second, of direct", of_direct, ratios[figures.DIRECT], at_most=False))
        made.append(Target(f"{kind} per CPU second, of HAProxy", of_proxy, ratios[PROXY], at_most=False))
    if nat := by_path.get(NAT):
        for kind, limit in (("connections", 1.1), ("requests", 1.3)):
            value = nat[f"{kind}_per_cpu_s_ratio"][PROXY]
            made.append(Target(f"{kind} per CPU second by NAT, of HAProxy", limit, value, at_most=False))
    return made


def _agent(found: Mapping[str, Any]) -> list[Target]:
    made = []
    largest = [row for row in found.get("table", []) if row["members"] == LARGEST]
    times = [row["ms_median"] for row in largest if row["case"].startswith("rendezvous, one")]
    if times:
        made.append(Target(f"one change of {LARGEST} members, ms (the worst kind)", 5.0, max(times)))
    if daemon := found.get("daemon"):
        for what, spread in daemon["start_to_ready_s"].items():
            made.append(Target(f"agent ready, {what}, s", 1.5, spread["median"]))
    return made


def _scale(rows: Iterable[Mapping[str, Any]]) -> list[Target]:
    limits = {(1000, 50): {"change_s": 0.3, "resident_mb": 200}, (64, 150): {"change_s": 1.0, "resident_mb": 350}}
    made = []
    for row in rows:
        size = row["members"], row["services"]
        for name, limit in limits.get(size, {}).items():
            value = row[name]["median"] if name == "change_s" else row[name]
            made.append(Target(f"{size[0]} members x {size[1]} services: {name}", limit, value))
        if size == (1000, 50):
            made.append(Target("1000 members x 50 services: CPU at rest", 0.02, row["rest_cpu"]))
            if "claims_cpu" in row:  # bench.json may be older
                claims = round(row["claims_cpu"] - row["rest_cpu"], 4)
                made.append(Target("1000 members x 50 services: CPU for claims, 10 changes/s", 0.05, claims))
        else:
            made.append(Target(f"{size[0]} members x {size[1]} services: first fill, s", 3.0, row["first_fill_s"]))
        late = round(row["late_ms_p999"] - row["control_late_ms_p999"], 1)
        made.append(Target(f"{size[0]} members x {size[1]} services: loop late under churn, ms (p99.9)", 20, late))
    return made


def _drain(row: Mapping[str, Any]) -> list[Target]:
    return [Target("a drain in all other nodes' rows, median ms", 60.0, row["median_ms"])] if row else []


def _connections(rows: Iterable[Mapping[str, Any]]) -> list[Target]:
    found = [row["cpu_ms"]["median"] for row in rows if row["sockets"] == 100_000]
    return [Target("a count of 100,000 connections, CPU ms", 300.0, cpu_ms) for cpu_ms in found]


def _sessions(found: Mapping[str, Any]) -> list[Target]:
    return [Target("a million NAT sessions at rest: CPU", 0.05, found["rest_cpu"])] if found else []


def _hand_over(row: Mapping[str, Any]) -> list[Target]:
    return [Target("62,500 NAT sessions handed over, median ms", 500.0, row["ms"]["median"])] if row else []
