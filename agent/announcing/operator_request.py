# SPDX-License-Identifier: Apache-2.0
"""What an operator asks of a running agent about its announcements: refused with a reason, or carried out at once.

Nobody may take a VIP off the air by accident: what would withdraw it is refused while no other node is known to
announce it. The others say in their identities what they announce; two nodes that are told to go in the same instant
may both find the other still there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from agent.address import Address
from agent.announcing import routes
from agent.announcing.decide import Order, OrderKind, announcing_nodes
from agent.errors import LastAnnouncerError
from agent.model import Method, State

if TYPE_CHECKING:
    from agent.node.agent import Agent


def others(agent: Agent, vip: Address) -> tuple[IPv4Address, ...]:
    """The other nodes that announce a VIP, as far as this one knows."""
    return announcing_nodes(agent.view.members, [routes.id_of(s) for s in agent.config.services if s.vip == vip])


def set_admin_state(agent: Agent, intent: State, force: bool = False) -> None:
    """Take in what the operator wants of the node. LastAnnouncerError: a VIP would go off the air, without force."""
    if intent is not State.UP and not force:
        _refuse_the_last(agent, agent.config.vips)
    agent.intent = intent
    agent.changed()


def add_orders(agent: Agent, orders: Collection[Order], force: bool = False) -> None:
    """Take in orders for VIPs. LastAnnouncerError when one would go off the air, without force; then none is taken."""
    if not force:
        _refuse_the_last(agent, [order.vip for order in orders if order.method is Method.WITHDRAW])
    agent.announcer.give(orders)
    agent.announce_now()


def remove_orders(agent: Agent, vips: Collection[Address], kind: OrderKind) -> None:
    """Take back the orders of one kind for some VIPs."""
    agent.announcer.lift(vips, kind)
    agent.announce_now()


def _refuse_the_last(agent: Agent, vips: Iterable[Address]) -> None:
    here = {vip for vip, announcement in agent.announcements.items() if announcement.wanted}
    last = [str(vip) for vip in vips if vip in here and not others(agent, vip)]
    if last:
        raise LastAnnouncerError(
            f"{', '.join(last)}: no other node announces {'it' if len(last) == 1 else 'them'}, as far as this one "
            "knows, and the traffic would have nowhere to go; bring up another node first, or say --force"
        )
