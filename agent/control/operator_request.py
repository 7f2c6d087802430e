# SPDX-License-Identifier: Apache-2.0
"""An operator's requests to a running agent about its announcements: refused with a reason, or applied at once.

A request that would withdraw a VIP is refused while no other node is known to announce it, so that no one takes a VIP
out of service by accident. The other nodes' identities carry what they announce; two nodes that are drained in the
same instant may each still see the other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from agent.address import Address
from agent.announcing.order import Order, OrderKind
from agent.errors import LastAnnouncerError
from agent.membership.identity import service_id_of
from agent.model import Member, Method, State

if TYPE_CHECKING:
    from agent.node.agent import Agent


def announcing_nodes(members: Iterable[Member], service_ids: Collection[int]) -> tuple[IPv4Address, ...]:
    """Return the members that announce the VIP of these services, by their own identities."""
    return tuple(
        member.address
        for member in members
        if any(
            share is not None and share.state is not State.LOST and share.announced
            for share in map(member.share, service_ids)
        )
    )


def other_announcers(agent: Agent, vip: Address) -> tuple[IPv4Address, ...]:
    """Return the other nodes that announce a VIP, as far as this one knows."""
    return announcing_nodes(agent.view.members, [service_id_of(s) for s in agent.config.services if s.vip == vip])


def set_admin_state(agent: Agent, admin_state: State, force: bool = False) -> None:
    """Set the node's state that the operator wants. Raises LastAnnouncerError if no node would announce a VIP, unless
    forced."""
    if admin_state is not State.UP and not force:
        _check_other_announcers(agent, agent.config.vips)
    agent.admin_state = admin_state
    agent.changed()


def add_orders(agent: Agent, orders: Collection[Order], force: bool = False) -> None:
    """Add orders for VIPs. Raises LastAnnouncerError, and adds none, if no node would announce a VIP, unless forced."""
    if not force:
        _check_other_announcers(agent, [order.vip for order in orders if order.method is Method.WITHDRAW])
    agent.announcer.add_orders(orders)
    agent.announce_now()


def remove_orders(agent: Agent, vips: Collection[Address], kind: OrderKind) -> None:
    """Remove the orders of one kind for some VIPs."""
    agent.announcer.remove_orders(vips, kind)
    agent.announce_now()


def _check_other_announcers(agent: Agent, vips: Iterable[Address]) -> None:
    announced = {vip for vip, announcement in agent.announcements.items() if announcement.wanted}
    last = [str(vip) for vip in vips if vip in announced and not other_announcers(agent, vip)]
    if last:
        raise LastAnnouncerError(
            f"{', '.join(last)}: no other node is known to announce {'it' if len(last) == 1 else 'them'}, so the "
            "traffic would have nowhere to go; bring up another node first, or use --force"
        )
