# SPDX-License-Identifier: Apache-2.0
"""The decision about a VIP: the node's condition, an order, a hold-down. Time is an argument."""

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from agent.announcing.decide import decide
from agent.announcing.hold_down import FlapRecord
from agent.announcing.order import Order, OrderKind
from agent.model import Announcement, Method

HEALTHY, SICK = Announcement(True, "healthy"), Announcement(False, "unhealthy: web", fault=True)
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
