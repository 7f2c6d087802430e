# SPDX-License-Identifier: Apache-2.0
"""Rates of a node's counters: the difference of two statuses over the time between them. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from agent.control import load

NO_SERVICE = "(none)"
"""In place of a service's name: packets that belong to none."""


class Drop(NamedTuple):
    """One reason for drops of one service."""

    service: str
    event: str
    per_s: float
    total: int


class Load(NamedTuple):
    """What a service does on this node, in packets per second."""

    service: str
    from_router: float
    from_nodes: float
    new: float
    """New connections that this node took."""
    forwarded: float
    dropped: float
    connections: int | None


def counters(status: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Return the counters of a status by service, those of no service last."""
    found = {service["name"]: service["counters"] for service in status["services"]}
    return found | {NO_SERVICE: status["xdp"]["counters"]}


def _per_s(before: dict[str, int], after: dict[str, int], seconds: float) -> dict[str, float]:
    """Return the rates; a counter that is less than before has begun again (another program), and counts from 0."""
    return {name: (n - was if n >= (was := before.get(name, 0)) else n) / seconds for name, n in after.items()}


def drops(before: dict[str, Any], after: dict[str, Any], seconds: float) -> list[Drop]:
    """Return the reasons for which packets were ever dropped, the highest rate first."""
    earlier, found = counters(before), []
    for service, now in counters(after).items():
        rates = _per_s(earlier.get(service, {}), now, seconds)
        found += [
            Drop(service, name, rates[name], count) for name, count in now.items() if name.startswith("drop_") and count
        ]
    return sorted(found, key=lambda one: (-one.per_s, -one.total, one.service, one.event))


def loads(before: dict[str, Any], after: dict[str, Any], seconds: float) -> Iterator[Load]:
    """Yield each service of the node, the busiest first."""
    earlier, now = counters(before), counters(after)
    held = {service["name"]: service["connections"] for service in after["services"]}
    found = []
    for service in held:
        rates = _per_s(earlier.get(service, {}), now[service], seconds)
        found.append(
            Load(
                service,
                rates.get("rx", 0.0),
                rates.get("rx_forwarded", 0.0),
                load.of(rates, load.NEW),
                load.of(rates, load.FORWARDED),
                load.of(rates, load.drops(rates)),
                held[service],
            )
        )
    yield from sorted(found, key=lambda one: (-(one.from_router + one.from_nodes), one.service))


def total(found: list[Load]) -> Load:
    """Return the sum of all services: the node."""
    known = [one.connections for one in found if one.connections is not None]
    return Load(
        "this node",
        sum(one.from_router for one in found),
        sum(one.from_nodes for one in found),
        sum(one.new for one in found),
        sum(one.forwarded for one in found),
        sum(one.dropped for one in found),
        sum(known) if known else None,
    )
