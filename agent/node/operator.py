# SPDX-License-Identifier: Apache-2.0
"""The operator's requests to this node: refused with a reason, or applied at once.

A request that would withdraw a VIP is refused while no other node is known to announce it, so that no one takes a VIP
out of service by accident. The other nodes' identities carry what they announce; two nodes that are drained in the
same instant may each still see the other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from agent.address import Address
from agent.announcing.order import Order, OrderKind
from agent.announcing.order_book import OrderBook
from agent.config.schema import Config
from agent.errors import LastAnnouncerError
from agent.model import Announcement, Member, Method, State
from agent.node.plan import OperatorState


@dataclass(frozen=True, slots=True)
class Known:
    """What requests are judged by, and answered with."""

    others: tuple[Member, ...] = ()
    """The other nodes."""
    announcements: Mapping[Address, Announcement] | None = None
    """The decision for each VIP; None before the first plan."""


class Operator:
    """What the operator wants of this node, and the requests that change it."""

    def __init__(
        self,
        config: Config,
        state: OperatorState,
        orders: OrderBook,
        known: Callable[[], Known],
        on_change: Callable[[Collection[Address]], None],
    ) -> None:
        """`on_change` makes a plan of the new state at once; its argument: VIPs whose hold-down the request ends."""
        self.state, self.orders = state, orders
        self._config, self._known, self._on_change = config, known, on_change

    def other_announcers(self, vip: Address) -> tuple[IPv4Address, ...]:
        """Return the other nodes that announce a VIP, as far as this one knows."""
        return announcing_nodes(self._known().others, [s.key for s in self._config.services if s.vip == vip])

    def set_admin_state(self, admin_state: State, force: bool = False) -> None:
        """Set the node's state. Raises LastAnnouncerError if no node would announce a VIP, unless forced."""
        if admin_state is not State.UP and not force:
            self._check_other_announcers(self._config.vips)
        self._set(replace(self.state, admin_state=admin_state))

    def set_backend(
        self, services: Iterable[str], drained: bool | None = None, weights: Mapping[str, int] | None = None
    ) -> None:
        """Drain or undrain this node for some services; set effective weights (the nominal one: as configured)."""
        names = frozenset(services)
        before = self.state
        now_drained = (
            before.drained if drained is None else before.drained | names if drained else before.drained - names
        )
        nominal = {s.name: s.weight for s in self._config.services}
        merged = {**before.weights, **(weights or {})}
        lower = {name: weight for name, weight in merged.items() if weight < nominal.get(name, 0)}
        self._set(replace(before, drained=now_drained, weights=lower))

    def add_orders(self, orders: Collection[Order], force: bool = False) -> None:
        """Add orders for VIPs. Raises LastAnnouncerError, and adds none, if no node would announce a VIP, unless
        forced."""
        if not force:
            self._check_other_announcers([order.vip for order in orders if order.method is Method.WITHDRAW])
        self.orders.add(orders)
        self._on_change(())

    def remove_orders(self, vips: Collection[Address], kind: OrderKind) -> None:
        """Remove the orders of one kind for some VIPs. This ends their hold-down too: the operator knows better."""
        self.orders.remove(vips, kind)
        self._on_change(vips)

    def _set(self, state: OperatorState) -> None:
        self.state = state
        self._on_change(())

    def _check_other_announcers(self, vips: Iterable[Address]) -> None:
        announced = {vip for vip, one in (self._known().announcements or {}).items() if one.wanted}
        last = [str(vip) for vip in vips if vip in announced and not self.other_announcers(vip)]
        if last:
            raise LastAnnouncerError(
                f"{', '.join(last)}: no other node is known to announce {'it' if len(last) == 1 else 'them'}, so the "
                "traffic would have nowhere to go; bring up another node first, or use --force"
            )


def announcing_nodes(members: Iterable[Member], services: Collection[str]) -> tuple[IPv4Address, ...]:
    """Return the members that announce the VIP of these services, by their own states."""
    return tuple(
        member.address
        for member in members
        if any(
            share is not None and share.state is not State.LOST and share.announced
            for share in map(member.share, services)
        )
    )
