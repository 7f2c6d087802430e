# SPDX-License-Identifier: Apache-2.0
"""Text of `lbctl cluster` and `lbctl top --cluster`: two reports of the cluster become rates, shares and lines. Pure.

Reads the JSON of agent/control/cluster.py. A node's rates are over the time between its own readings, by its own clock.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from agent.cli.member_display import some_of
from agent.cli.table import Table, fitting, paint, shortened, state_text
from agent.doctor.traffic_findings import resets_many
from agent.time_text import age

Report = Mapping[str, Any]
_VERDICT_COLORS = {"warning": "yellow", "critical": "red"}
MIN_RATE = 50.0
"""Packets per second from routers to all nodes, below which a node without any is chance: flows are few."""
_RATES = ("from_routers", "from_nodes", "new", "forwarded", "dropped")
_OF_TCP = ("accepted", "resets")


def with_rates(before: Report, after: Report) -> dict[str, Any]:
    """Return the later report with rates in place of counters.

    Each overview has `held`, and `rates` in packets (new: connections) per second with `ecmp_share` and
    `forward_share`: its part of what routers sent to all nodes, and of what all forwarded. None where only one of the
    two reports has it.
    """
    earlier = {one["address"]: one["overview"] for one in before["members"]}
    rates = {one["address"]: _rates(earlier.get(one["address"]), one["overview"]) for one in after["members"]}
    totals = {name: sum(one[name] for one in rates.values() if one) for name in ("from_routers", "forwarded")}
    for one in rates.values():
        if one is not None:
            one["ecmp_share"] = _share(one["from_routers"], totals["from_routers"])
            one["forward_share"] = _share(one["forwarded"], totals["forwarded"])
    members = [one | {"overview": _seen(one["overview"], rates[one["address"]])} for one in after["members"]]
    return {**after, "members": members}


def _rates(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if before is None or after is None or after["read_ns"] <= before["read_ns"]:
        return None
    seconds = (after["read_ns"] - before["read_ns"]) / 1e9
    pairs = {name: (before["load"][name], after["load"][name]) for name in _RATES}
    if before["tcp"] and after["tcp"]:
        pairs |= {name: (before["tcp"][name], after["tcp"][name]) for name in _OF_TCP}
    # A counter that is less than before has begun again (another program), and counts from 0.
    return {name: round((now - was if now >= was else now) / seconds, 1) for name, (was, now) in pairs.items()}


def _share(part: float | None, total: float) -> float | None:
    return None if part is None or total <= 0 else round(part / total, 4)


def _seen(overview: Mapping[str, Any] | None, rates: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if overview is None:
        return None
    kept = {name: value for name, value in overview.items() if name not in ("read_ns", "load", "tcp")}
    return kept | {"held": overview["load"]["held"], "rates": rates}


_STATES = ("state", "tables", "BGP", "VIPs", "health", "faults")
_LOADS = ("routers/s", "forwarded/s", "held", "dropped/s")


def cluster_lines(report: Report, columns: int) -> Iterator[str]:
    """Yield how many are well, a row for each member with those that fail first, and what is wrong, once for all.

    Where a row with everything does not fit, states and loads are a table each.
    """
    members = sorted(report["members"], key=_rank)
    yield _summary(report, members)
    dropping = any(rates["dropped"] for one in members if (rates := _rates_of(one)))
    table, states, loads = (Table("member", *names) for names in (_STATES + _LOADS, _STATES, _LOADS))
    for one in members:
        found, counts, load = one["overview"], ["", "", "", ""], ["", "", "", ""]
        if found is not None:
            counts = [*(_count(found[kind]) for kind in ("sessions", "vips", "services")), _faults(found)]
            routers, forwarded, _, dropped, held = _load(found)
            load = [routers, forwarded, held, dropped if dropping else ""]
            loads.add_row(one["address"], *load)
        state = (one["address"], _state(one), _tables(found), *counts)
        states.add_row(*state)
        table.add_row(*state, *load)
    yield from fitting(columns, table, states, loads)
    yield from _releases(members)
    yield from _passed_over(members)
    yield from _resetting(members)
    yield from _problems(members)


def load_lines(report: Report, columns: int) -> Iterator[str]:
    """Yield a row with the rates of each member, the busiest first; the states are left out where they do not fit."""
    names = ("routers/s", "nodes/s", "new/s", "forwarded/s", "dropped/s", "held")
    table, narrow = Table("member", "state", *names), Table("member", *names)
    for one in sorted(report["members"], key=lambda one: -_busy(one)):
        routers, forwarded, new, dropped, held = _load(one["overview"]) if one["overview"] else ("",) * 5
        rates = _rates_of(one)
        nodes = shortened(rates["from_nodes"]) if rates else ""
        cells = [routers, nodes, new, forwarded, dropped, held]
        table.add_row(one["address"], _state(one), *cells)
        narrow.add_row(one["address"], *cells)
    yield from fitting(columns, table, narrow)


def _rates_of(member: Mapping[str, Any]) -> Mapping[str, Any] | None:
    found: Mapping[str, Any] | None = member["overview"] and member["overview"]["rates"]
    return found


def _busy(member: Mapping[str, Any]) -> float:
    rates = _rates_of(member)
    return float(rates["from_routers"] + rates["from_nodes"]) if rates else -1.0


def _rank(member: Mapping[str, Any]) -> int:
    found = member["overview"]
    if found is None or not found["same_tables"]:
        return 0
    return {"critical": 1, "warning": 2}.get(found["verdict"], 3)


def _summary(report: Report, members: list[Mapping[str, Any]]) -> str:
    found = [one["overview"] for one in members if one["overview"]]
    releases = sorted({one["release"] for one in members if one["release"]})
    up = sum(one["state"] == "up" and one["silent_s"] is None for one in members)
    other = sum(not one["same_tables"] for one in found)
    epochs = ", ".join(sorted({f"{one['epoch']:#x}" for one in found}))
    agreement = paint("red", f"{other} with other tables") if other else "all that answer have the same tables"
    counts = f"{len(members)} members, {up} up, {len(found)} answer"
    return (
        f"cluster {report['cluster']}, asked from {report['node']}: {counts}; release {', '.join(releases)}; "
        f"epoch {epochs or 'unknown'}; {agreement}"
    )


def _state(member: Mapping[str, Any]) -> str:
    if member["silent_s"] is not None:
        return paint("red", f"silent {age(member['silent_s'])}")
    found = member["overview"]
    if found is not None and not found["ready"]:
        return paint("red", "not ready")
    return state_text(found["state"] if found else member["state"])


def _tables(found: Mapping[str, Any] | None) -> str:
    if found is None or found["same_tables"]:
        return ""
    return paint("red", "other" if found["same_view"] else "other view")


def _count(count: Mapping[str, int]) -> str:
    return paint(None if count["well"] == count["all"] else "red", f"{count['well']}/{count['all']}")


def _faults(found: Mapping[str, Any]) -> str:
    return paint(_VERDICT_COLORS.get(found["verdict"]), str(found["faults"]))


def _load(found: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the cells: from routers, forwarded, new, dropped, held; of the first two the node's part of all."""
    rates, held = found["rates"], shortened(found["held"])
    if rates is None:
        return "-", "-", "-", "-", held
    routers, forwarded = (
        shortened(rates[name]) + ("" if rates[share] is None else f" ({rates[share]:.0%})")
        for name, share in (("from_routers", "ecmp_share"), ("forwarded", "forward_share"))
    )
    return routers, forwarded, shortened(rates["new"]), shortened(rates["dropped"]), held


def _releases(members: list[Mapping[str, Any]]) -> Iterator[str]:
    """Yield which nodes have which release, while they differ."""
    nodes: dict[str, list[str]] = {}
    for one in members:
        nodes.setdefault(one["release"] or "", []).append(one["address"])
    if len(nodes.keys() - {""}) > 1:
        for release, addresses in sorted(nodes.items()):
            yield f"release {release or 'unknown'}: {some_of(addresses)}"


def _passed_over(members: list[Mapping[str, Any]]) -> Iterator[str]:
    """Yield which nodes announce VIPs, but get nothing of what routers send."""
    rates = {one["address"]: rates["from_routers"] for one in members if (rates := _rates_of(one))}
    announcing = {one["address"] for one in members if one["overview"] and one["overview"]["vips"]["well"]}
    idle = [address for address, rate in rates.items() if rate == 0 and address in announcing]
    if idle and sum(rates.values()) >= MIN_RATE:
        others = f"{shortened(sum(rates.values()))}/s to the others"
        line = f"{some_of(idle)}: no packet from routers, which send {others}: see "
        yield paint("yellow", line + "there whether all next hops of the VIP are in use (ECMP limit, import filter)")


def _resetting(members: list[Mapping[str, Any]]) -> Iterator[str]:
    """Yield which nodes answer connections with resets: a client sees the VIP's address only."""
    for one in members:
        rates = _rates_of(one)
        if rates and "resets" in rates and resets_many(rates["resets"], rates["accepted"]):
            counted = f"{shortened(rates['resets'])} resets/s, {shortened(rates['accepted'])} connections accepted/s"
            yield paint(
                "yellow", f"{one['address']}: its kernel resets connections ({counted}): see `lbctl doctor` there"
            )


def _problems(members: list[Mapping[str, Any]]) -> Iterator[str]:
    """Yield each problem once, with the nodes that have it: many see the same."""
    nodes: dict[tuple[str, str], list[str]] = {}
    for one in members:
        found = one["overview"]
        if found is None:
            nodes.setdefault((one["why"], "critical"), []).append(one["address"])
        elif found["first_fault"]:
            nodes.setdefault((found["first_fault"], found["verdict"]), []).append(one["address"])
    for (text, verdict), addresses in nodes.items():
        yield paint(_VERDICT_COLORS.get(verdict), f"{some_of(addresses)}: {text}")
