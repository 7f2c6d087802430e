# SPDX-License-Identifier: Apache-2.0
"""What the routers shall hear of each VIP: the operator's orders and the damping, on top of what plan.py wants. Pure.

An order is what an operator said of one VIP, with `lbctl announce down` or `drain`. Both may stand; `down` is the
stronger. Orders outlive agents and reboots, so their times are of the wall clock (`wall`, seconds since 1970); damping
outlives agents alone and counts in `now`, seconds of CLOCK_MONOTONIC.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from ipaddress import IPv4Address

from agent.address import Address
from agent.model import Announcement, Member, Method, State
from bgp.route import MAX_PREPEND, Community, Route

PREPEND = 3
"""How often `prepend` repeats the own AS: further away than any detour of a sane fabric."""
MED = 4_294_967_294
"""What `med` announces. Lower is better (RFC 4271 section 5.1.4); the highest of all is left to routers that take a
missing MED for it."""
GRACEFUL_SHUTDOWN: Community = (65535, 0)
"""RFC 8326 section 4: routers that know it give the route the lowest LOCAL_PREF."""

FIRST_HOLD_S = 2.0
LAST_HOLD_S = 60.0
FORGIVEN_S = 300.0
"""A VIP that kept its route for so long starts anew with `FIRST_HOLD_S`."""

_UNITS_S = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_DURATION = re.compile("".join(rf"(?:([0-9]{{1,6}}){unit})?" for unit in _UNITS_S))


class OrderKind(StrEnum):
    """What an order is: each VIP has one of each at most."""

    DOWN = "down"
    DRAIN = "drain"


@dataclass(frozen=True, slots=True)
class Order:
    """What an operator said of one VIP. `since` and `until` are seconds since 1970; None is until told otherwise."""

    vip: Address
    kind: OrderKind
    method: Method
    reason: str
    since: float
    until: float | None = None

    @property
    def why(self) -> str:
        """It in words."""
        what = {
            OrderKind.DOWN: "withdrawn by the operator",
            OrderKind.DRAIN: f"drained by the operator ({self.method})",
        }[self.kind]
        return (
            what + (f" until {moment(self.until)}" if self.until else "") + (f": {self.reason}" if self.reason else "")
        )


def moment(wall: float) -> str:
    """A time of the wall clock for people."""
    return f"{datetime.fromtimestamp(wall, UTC):%Y-%m-%d %H:%M:%S}Z"


def duration(text: str) -> float:
    """Seconds of `90s`, `10m`, `1h30m`, `2d`. ValueError says what is wrong with another text."""
    match = _DURATION.fullmatch(text)
    if not text or match is None:
        raise ValueError(f"{text!r} is not a duration; write 90s, 10m, 1h30m or 2d")
    seconds = sum(int(count or 0) * unit for count, unit in zip(match.groups(), _UNITS_S.values(), strict=True))
    if seconds == 0:
        raise ValueError(f"{text!r} is no time at all; give at least 1s")
    return float(seconds)


def with_orders(orders: Collection[Order], new: Iterable[Order]) -> frozenset[Order]:
    """The orders with new ones, each in the place of its like."""
    added = {(order.vip, order.kind): order for order in new}
    return frozenset(order for order in orders if (order.vip, order.kind) not in added) | frozenset(added.values())


def without_orders(orders: Collection[Order], vips: Collection[Address], kind: OrderKind) -> frozenset[Order]:
    """The orders without those of one kind for these VIPs."""
    return frozenset(order for order in orders if order.kind is not kind or order.vip not in vips)


def in_force(orders: Collection[Order], wall: float) -> frozenset[Order]:
    """The orders that have not come to their end."""
    return frozenset(order for order in orders if order.until is None or wall < order.until)


def order_for(orders: Iterable[Order], vip: Address) -> Order | None:
    """The one that counts for a VIP."""
    found = {order.kind: order for order in orders if order.vip == vip}
    return found.get(OrderKind.DOWN) or found.get(OrderKind.DRAIN)


@dataclass(frozen=True, slots=True)
class FlapRecord:
    """How a VIP has been falling of late: it is not announced again before `at + hold_s`."""

    at: float
    hold_s: float
    count: int
    """In a row, each before `FORGIVEN_S` were over."""


def after_flap(before: FlapRecord | None, now: float) -> FlapRecord:
    """One fall more: each in a row keeps the VIP down twice as long, within limits.

    Routers damp a prefix that flaps for minutes, and every change moves flows between nodes: it is better not announced
    for a while than coming and going. Only the way up is slowed; a withdrawal never waits.
    """
    if before is None or now - before.at >= before.hold_s + FORGIVEN_S:
        return FlapRecord(now, FIRST_HOLD_S, 1)
    return FlapRecord(now, min(2 * before.hold_s, LAST_HOLD_S), before.count + 1)


def is_fault(before: Announcement | None, after: Announcement) -> bool:
    """Whether a VIP loses its route by a fault. What an operator asks for is not damped."""
    return before is not None and before.wanted and not after.wanted and after.fault


def decide(base: Announcement, order: Order | None, falls: FlapRecord | None, now: float) -> Announcement:
    """What shall be of a VIP, given what the node's condition allows (`base`)."""
    if order is not None and order.method is Method.WITHDRAW:
        return Announcement(False, order.why)
    if not base.wanted:
        return base
    if falls is not None and now < falls.at + falls.hold_s:
        times = f"{falls.count} falls in a row" if falls.count > 1 else "a fall"
        return Announcement(False, f"held back for {falls.hold_s:g} s after {times}; `lbctl announce up` ends it", True)
    if order is not None:
        return replace(base, why=order.why, method=order.method)
    return base


def with_drain_attributes(route: Route, method: Method | None) -> Route:
    """A VIP's route with what a drain adds to it."""
    match method:
        case Method.PREPEND:
            return replace(route, prepend=min(route.prepend + PREPEND, MAX_PREPEND))
        case Method.MED:
            return replace(route, med=MED)
        case Method.GSHUT:
            return replace(route, communities=tuple(sorted({*route.communities, GRACEFUL_SHUTDOWN})))
    return route


def announcing_nodes(members: Iterable[Member], service_ids: Collection[int]) -> tuple[IPv4Address, ...]:
    """Those of some other members that announce the VIP of these services, as far as they have told."""
    return tuple(
        member.address
        for member in members
        if any(
            share is not None and share.state is not State.LOST and share.announced
            for share in map(member.share, service_ids)
        )
    )
