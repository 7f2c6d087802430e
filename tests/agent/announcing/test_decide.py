# SPDX-License-Identifier: Apache-2.0
"""The decision about a VIP: the node's condition, an order, a hold-down. Time is an argument."""

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from agent.announcing.decide import Decisions, decide
from agent.announcing.hold_down import FlapRecord
from agent.announcing.order import Order, OrderKind
from agent.model import Announcement, Method

HEALTHY, SICK = Announcement(True, "healthy"), Announcement(False, "unhealthy: web", fault=True)
VIP = IPv4Address("192.0.2.10")
WALL = 1_700_000_000.0  # 2023-11-14 22:13:20Z


def order(kind: OrderKind = OrderKind.DOWN, method: Method = Method.WITHDRAW, until: float | None = None) -> Order:
    return Order(IPv4Address("192.0.2.10"), kind, method, "new kernel", WALL, until)


@pytest.mark.parametrize(
    ("allowed", "given", "expected"),
    [
        (HEALTHY, None, HEALTHY),
        (SICK, None, SICK),
        (HEALTHY, order(), Announcement(False, "withdrawn by the operator: new kernel")),
        (SICK, order(), Announcement(False, "withdrawn by the operator: new kernel")),
        (
            HEALTHY,
            replace(order(until=WALL + 3600), reason=""),
            Announcement(False, "withdrawn by the operator until 2023-11-14 23:13:20Z"),
        ),
        (
            HEALTHY,
            order(OrderKind.DRAIN),
            Announcement(False, "drained by the operator (withdraw): new kernel"),
        ),
        (
            HEALTHY,
            order(OrderKind.DRAIN, Method.PREPEND),
            Announcement(True, "drained by the operator (prepend): new kernel", method=Method.PREPEND),
        ),
        (SICK, order(OrderKind.DRAIN, Method.MED), SICK),
    ],
)
def test_effect_of_an_order(allowed: Announcement, given: Order | None, expected: Announcement) -> None:
    assert decide(allowed, given, None, 0.0) == expected


def test_hold_down_delays_an_announcement_and_never_a_withdrawal() -> None:
    flaps = FlapRecord(100.0, 8.0, 3)
    held = decide(HEALTHY, None, flaps, 107.9)
    assert held == Announcement(
        False, "held down for 8 s after 3 faults in a row; `lbctl announce up` ends it", fault=True
    )
    assert decide(HEALTHY, None, flaps, 108.0) == HEALTHY
    assert decide(SICK, None, flaps, 107.9) == SICK
    assert decide(HEALTHY, order(), flaps, 107.9).why.startswith("withdrawn by the operator")
    assert not decide(HEALTHY, order(OrderKind.DRAIN, Method.MED), flaps, 107.9).wanted


def after(before: Decisions, healthy: bool, now: float, *orders: Order, wall: float = WALL) -> Decisions:
    return before.after({VIP: HEALTHY if healthy else SICK}, orders, now, wall)


def test_flapping_service_changes_the_route_less_and_less_often() -> None:
    """The service goes up and down each second for a minute: without hold-down that is 30 announcements."""
    decisions = after(Decisions(), True, 0.0)
    ups, before = 0, True
    for tick in range(1, 61):
        decisions = after(decisions, tick % 2 == 0, float(tick))
        now = decisions.announcements[VIP].wanted
        assert not (now and tick % 2), "a withdrawal is never delayed"
        ups, before = ups + (now and not before), now
    assert ups == 4
    assert decisions.flaps[VIP].count == 5
    # The next agent continues the hold-down, which ends by itself, or by the operator.
    successor = after(Decisions({}, decisions.flaps), True, 61.0)
    assert not successor.announcements[VIP].wanted
    end = successor.next_at((), 61.0, WALL)
    assert not after(successor, True, end - 0.1).announcements[VIP].wanted
    assert after(successor, True, end).announcements[VIP].wanted
    assert after(successor.without_hold_down([VIP]), True, 61.0).announcements[VIP].wanted


def test_order_expires() -> None:
    down = order(until=WALL + 60)
    decisions = after(Decisions(), True, 100.0, down)
    assert not decisions.announcements[VIP].wanted
    assert decisions.next_at([down], 100.0, WALL) == 160.0
    assert not after(decisions, True, 159.0, down, wall=WALL + 59).announcements[VIP].wanted
    assert after(decisions, True, 160.0, down, wall=WALL + 60).announcements[VIP].wanted


def test_flaps_of_a_vip_that_left_the_configuration_are_forgotten() -> None:
    other = IPv4Address("192.0.2.77")
    assert other not in after(Decisions({}, {other: FlapRecord(0.0, 2.0, 1)}), True, 1.0).flaps
