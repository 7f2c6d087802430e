# SPDX-License-Identifier: Apache-2.0
"""This node's VIPs on lo: put there after XDP, kept there, removed once routers no longer send their packets here.

VIPs of NAT services alone are not on lo: no socket of this node serves them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection

from agent.address import Address
from agent.announcing import loopback
from agent.config.schema import Config
from agent.errors import AgentError
from agent.netlink.connection import Netlink
from agent.netlink.vip import remove_vips
from agent.node.forwarder import Forwarder
from agent.node.own_interface import Interface
from agent.problem import ProblemLine


class OwnVips:
    """The VIPs of the configuration, and those of an earlier one that are still in use (`retiring`)."""

    def __init__(
        self,
        netlink: Netlink,
        config: Config,
        interface: Interface,
        forwarder: Forwarder | None,
        before: frozenset[Address],
        on_put: Callable[[], Awaitable[None]],
    ) -> None:
        """`before`: the VIPs that an earlier agent served. `on_put` is called once they are there, and before they
        may be announced."""
        self.are_put = False
        """Whether the VIPs are on lo, so that this node can announce them."""
        self.retiring = before - set(config.vips)
        self._moved = before & set(config.vips) - set(config.local_vips)
        """Those whose services are of mode nat now: they belong on lo no longer."""
        self._netlink, self._config, self._interface, self._forwarder = netlink, config, interface, forwarder
        self._on_put = on_put
        loose = config.node.rp_filter == "loose"
        self._keeper = loopback.VipKeeper(netlink, config.local_vips, config.node.names, loose, config.foreign)

    def problems(self) -> list[ProblemLine]:
        """Return why a VIP or a setting that something removed could not be put back."""
        return [self._keeper.fault] if self._keeper.fault else []

    async def put_first(self) -> None:
        """Put the VIPs on lo, unless XDP comes first. Raises AgentError, and then the agent must not run.

        Without a program the kernel would answer packets for the connections of other nodes with a reset.
        """
        if self._forwarder is None or self._forwarder.took_over:
            await self._put()

    async def keep(self, on_change: Callable[[], None]) -> None:
        """Put the VIPs on lo once XDP is attached, and put back, forever, what something removes.

        Call `on_change` when they are there, and when `problems` differ. Raises AgentError if the VIPs cannot be put,
        or an interface was created again.
        """
        if not self.are_put and self._forwarder is not None:
            await self._forwarder.attached.wait()
            await self._put()
            on_change()
        indexes = {self._interface.name: self._interface.index}
        if self._forwarder is not None:
            indexes |= {one.interface: one.ifindex for one in self._forwarder.datapath.uplinks}
        await self._keeper.run(indexes, on_change)

    async def retire(self, withdrawn: Callable[[Collection[Address]], bool]) -> None:
        """Remove the VIPs of the earlier configuration once `withdrawn` says that no router has them."""
        if self._moved and self._forwarder is not None:
            await self._forwarder.attached.wait()
            await remove_vips(self._netlink, self._moved)
        vips = self.retiring
        retire_services = self._forwarder.retire_services if self._forwarder else lambda: None
        await loopback.retire_vips(self._netlink, vips, lambda: withdrawn(vips), retire_services)
        self.retiring = frozenset()

    async def _put(self) -> None:
        try:
            await self._keeper.put()
        except AgentError:
            self._netlink.close()
            raise
        await self._on_put()
        self.are_put = True
