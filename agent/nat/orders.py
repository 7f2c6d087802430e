# SPDX-License-Identifier: Apache-2.0
"""Operators' orders for backends, which hold on all nodes wherever they were given. Pure.

A drained backend takes no new sessions; those that it has go on. Each node publishes the last order for each backend
that it knows, with a version: of two orders the one with the higher version counts, and of two with the same, given at
the same time on two nodes, the drain. So all nodes end with the same orders, a node that starts learns them from the
others, and any node can take an order back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from agent.channel.nat_state import MAX_DRAINS, BackendOrder
from agent.errors import AgentError

Orders = Mapping[int, BackendOrder]
NONE: Orders = MappingProxyType({})


def merged(own: Orders, others: Iterable[Orders]) -> Orders:
    """Return the orders that count, without counts of sessions; `own` itself if there are no others."""
    found = dict(own)
    for orders in others:
        for number, order in orders.items():
            known = found.get(number)
            newer = known is None or (order.version, order.drained) > (known.version, known.drained)
            if newer and (known is not None or len(found) < MAX_DRAINS):
                found[number] = BackendOrder(order.version, order.drained)
    return own if found == own else found


def with_order(orders: Orders, numbers: Iterable[int], drained: bool) -> Orders:
    """Return the orders after one more for each of these backends. Raises AgentError if they are too many.

    Orders that are taken back are kept, so that older ones of other nodes do not count; they make room if there is
    none.
    """
    found = dict(orders)
    for number in numbers:
        known = found.get(number, BackendOrder(0, False))
        if known.drained != drained:
            found[number] = BackendOrder(known.version + 1, drained)
    for number in [number for number, order in found.items() if not order.drained]:
        if len(found) <= MAX_DRAINS:
            break
        del found[number]
    if len(found) > MAX_DRAINS:
        raise AgentError(
            f"{len(found)} backends would be drained, more than {MAX_DRAINS}: set their weight to 0 instead"
        )
    return found
