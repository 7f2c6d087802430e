# SPDX-License-Identifier: Apache-2.0
"""The monitor of this node's path to and from clients: it reads the kernel's state and reports faults. I/O only.

answer_path.py decides what is a fault. An event of links, addresses, rules, settings, or of routes to clients, has all
read again; so has an interval, in case the kernel dropped one. The next hops' MACs are looked at each second, since
their events would be those of all neighbors, and solicited: XDP's traffic does not show the kernel that one is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable
from typing import Final

from pyroute2.netlink.exceptions import NetlinkError

from agent.address import Address, Network
from agent.config.schema import Config
from agent.forwarding.answer_path import PathFacts, PathFault, PathLeg, Settling, path_faults
from agent.netlink import batch
from agent.netlink.connection import Netlink
from agent.netlink.interface_setting import strict_filters
from agent.netlink.link import Link, receivers
from agent.netlink.monitor import Group, NetlinkEvent, NetlinkMonitor
from agent.netlink.neighbor import Neighbor
from agent.netlink.route import Leg

log = logging.getLogger("anylb")

NEIGHBORS_S: Final = 1.0
READ_S: Final = 5.0
"""The interval at which everything is read without an event."""
COALESCE_S: Final = 0.05

Legs = dict[tuple[Address, Network], tuple[Leg, ...]]


class AnswerMonitor:
    """The faults of the path, kept up to date."""

    def __init__(self, config: Config, own: Address, netlink: Netlink, on_change: Callable[[], None]) -> None:
        """`own`: this node's address. `on_change` is called when `faults` differs."""
        self.faults: tuple[PathFault, ...] = ()
        self._config, self._own, self._netlink, self._on_change = config, own, netlink, on_change
        self._packets = {
            (vip, clients): (_source(config, own, vip), batch.sample(clients))
            for vip in config.vips
            for clients in config.node.client_prefixes(vip.version)
        }
        self._links: dict[int, Link] = {}
        self._addresses: set[tuple[int, Address]] = set()
        self._legs: Legs = {}
        self._strict: frozenset[str] = frozenset()
        self._settling: Settling | None = None
        self._changed = asyncio.Event()
        self._read_at = -math.inf

    async def start(self) -> None:
        """Look for the first time, once the VIPs are on lo and before they are announced."""
        await self._look(time.monotonic())
        self._changed.set()

    async def run(self) -> None:
        """Look forever, from the first time on."""
        groups = Group.LINKS | Group.ADDRESSES | Group.ROUTES | Group.RULES | Group.SETTINGS
        with NetlinkMonitor(self._on_event, groups) as monitor:
            monitor.listen()
            while True:
                due = time.monotonic() + NEIGHBORS_S
                if self._settling is None:
                    self._changed.clear()
                else:
                    await self._look(time.monotonic())
                    due = min(due, self._settling.next_at(time.monotonic()))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(due - time.monotonic()):
                        await self._changed.wait()
                        await asyncio.sleep(COALESCE_S)

    def _on_event(self, event: NetlinkEvent) -> None:
        to = event.destination
        if to is None or any(target in to for _, target in self._packets.values()):
            self._changed.set()

    async def _look(self, now: float) -> None:
        try:
            if self._changed.is_set() or now >= self._read_at + READ_S:
                self._changed.clear()
                await self._read(now)
            found = path_faults(self._config, self._own, self._facts())
        except (NetlinkError, OSError) as error:
            # An interface appears or disappears right now. What is known stays until the next look.
            log.warning("looking at the path of answers: %s", error)
            self._read_at = -math.inf
            return
        before = self._settling
        self._settling = Settling.first(found, now) if before is None else before.after(found, now)
        faults = self._settling.settled(now)
        if faults != self.faults:
            self.faults = faults
            self._on_change()

    async def _read(self, now: float) -> None:
        self._links = await self._netlink.links()
        self._addresses = batch.addresses()
        legs = batch.legs(self._packets.values())
        self._legs = {key: legs[packet] for key, packet in self._packets.items()}
        self._strict = strict_filters({one for some in self._receivers().values() for one in some})
        self._read_at = now

    def _facts(self) -> PathFacts:
        """Return the facts, and have the kernel resolve the next hops that have no MAC, and solicit the others."""
        gateways = self._gateways()
        entries = batch.neighbors(gateways)
        resolved = {one.key for one in entries if one.mac or one.maintained}
        failed = {one.key for one in entries if one.failed}
        batch.confirm(gateways - resolved)
        batch.probe(one.key for one in entries if one.idle and not one.maintained)
        legs = {
            key: tuple(
                PathLeg(self._name(leg[0]), leg[1], leg not in gateways or leg in resolved, leg in failed)
                for leg in some
            )
            for key, some in self._legs.items()
        }
        name = self._config.node.names[0]
        own = [address for index, address in self._addresses if self._name(index) == name and not address.is_link_local]
        own.sort(key=lambda address: (address.version, int(address)))
        addresses = frozenset(address for _, address in self._addresses)
        return PathFacts(addresses, tuple(own), legs, self._receivers(), self._strict)

    def _gateways(self) -> set[Neighbor]:
        """Return the next hops that need a MAC: the gateways on Ethernet."""
        every = {leg for some in self._legs.values() for leg in some}
        ethernet = {index for index, link in self._links.items() if len(link.mac) == 6 and link.name != "lo"}
        return {(index, gateway) for index, gateway in every if gateway is not None and index in ethernet}

    def _receivers(self) -> dict[str, frozenset[str]]:
        return {name: receivers(self._links.values(), name) for name in self._config.node.names}

    def _name(self, index: int) -> str:
        return self._links[index].name if index in self._links else ""


def _source(config: Config, own: Address, vip: Address) -> Address:
    """Return the source of answers for a route's lookup. The VIP of a NAT service is no address of this node, and the
    kernel has no IPv4 route from such."""
    return own if vip not in config.local_vips and vip.version == own.version else vip
