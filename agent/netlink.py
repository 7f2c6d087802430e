# SPDX-License-Identifier: Apache-2.0
"""The kernel's network state as far as the agent uses it: its interface, VIPs on lo, neighbours' MACs. I/O only."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl import RTMGRP_NEIGH

from agent.config import Config
from agent.errors import AgentError
from agent.model import Address

_LOOPBACK = 1
_NTF_USE = 1
"""ndmsg flag (linux/neighbour.h): resolve it as if a packet had been sent there."""
_SYSCTLS = {
    # A VIP on lo is nobody's to claim on the segment: answer ARP for addresses of the asked interface only ...
    "arp_ignore": "1",
    # ... and never give the VIP as one's own in a question.
    "arp_announce": "2",
}


@dataclass(frozen=True, slots=True)
class Interface:
    """An interface as the kernel knows it."""

    name: str
    index: int
    mac: bytes
    address: IPv4Address


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A resolved neighbour."""

    address: IPv4Address
    interface_index: int
    mac: bytes


class Netlink:
    """One rtnetlink socket for questions and changes; `neighbours` opens its own to listen."""

    def __init__(self) -> None:
        self._route = AsyncIPRoute()

    def close(self) -> None:
        """Give the socket back."""
        self._route.close()

    async def interface(self, name: str, address: IPv4Address | None) -> Interface:
        """Look an interface up. Raises AgentError if it is missing or has not the (or not any) IPv4 address."""
        links = [link async for link in await self._route.link("dump") if link.get("ifname") == name]
        if not links:
            raise AgentError(f"node.interface: there is no interface {name} here; see `ip link`")
        index = links[0]["index"]
        dump = await self._route.addr("dump", index=index, family=2)
        found = [IPv4Address(entry.get("IFA_LOCAL") or entry.get("IFA_ADDRESS")) async for entry in dump]
        if address is None and not found:
            raise AgentError(f"node.interface: {name} has no IPv4 address; give it one or set node.address")
        if address is not None and address not in found:
            raise AgentError(f"node.address: {address} is not on {name} ({', '.join(map(str, found)) or 'no address'})")
        mac = bytes.fromhex(links[0].get("address").replace(":", ""))
        return Interface(name, index, mac, address or found[0])

    async def put_vips(self, vips: Iterable[Address], interface: str) -> None:
        """VIPs on lo, each alone, and the ARP sysctls that keep them off the segment. Repeating it changes nothing."""
        for name in ("all", interface):
            for key, value in _SYSCTLS.items():
                path = Path(f"/proc/sys/net/ipv4/conf/{name}/{key}")
                try:
                    if path.read_text().strip() != value:
                        path.write_text(value)
                except OSError as error:
                    raise AgentError(f"{path}: {error.strerror}; the agent needs to set it to {value}") from None
        await self._route.link("set", index=_LOOPBACK, state="up")
        for vip in vips:
            await self._route.addr("replace", index=_LOOPBACK, address=str(vip), prefixlen=vip.max_prefixlen)

    async def remove_vips(self, vips: Iterable[Address]) -> None:
        """Take VIPs off lo again; one that is not there is fine."""
        for vip in vips:
            try:
                await self._route.addr("del", index=_LOOPBACK, address=str(vip), prefixlen=vip.max_prefixlen)
            except NetlinkError as error:
                if error.code not in (2, 99):  # ENOENT, EADDRNOTAVAIL
                    raise

    async def resolve(self, addresses: Iterable[IPv4Address], interface: Interface) -> None:
        """Have the kernel ask for these neighbours, or confirm what it knows. XDP's own traffic would not."""
        for address in addresses:
            await self._route.neigh("replace", dst=str(address), ifindex=interface.index, state="none", flags=_NTF_USE)

    async def neighbours(self, interface: Interface) -> AsyncIterator[Neighbour]:
        """Every neighbour known on the interface now, then each one that is learned or changes, for ever."""
        async with AsyncIPRoute() as monitor:
            await monitor.bind(groups=RTMGRP_NEIGH)
            async for message in await self._route.neigh("dump", family=2, ifindex=interface.index):
                if found := _neighbour(message, interface):
                    yield found
            while True:
                async for message in monitor.get():  # what one datagram held, then it ends
                    if message["event"] == "RTM_NEWNEIGH" and (found := _neighbour(message, interface)):
                        yield found


async def own_interface(config: Config) -> Interface:
    """The interface that a configuration names. Raises AgentError as `Netlink.interface` does, and if this node's
    address is not one that the cluster's members may have."""
    netlink = Netlink()
    try:
        interface = await netlink.interface(config.node.names[0], config.node.address)
    finally:
        netlink.close()
    if not any(interface.address in allowed for allowed in config.members.allow):
        raise AgentError(f"members.allow: does not hold this node's own address {interface.address}; add its prefix")
    return interface


def _neighbour(message: Any, interface: Interface) -> Neighbour | None:
    """A message about an IPv4 neighbour with a MAC; a failed one keeps its last MAC by not being told."""
    mac = message.get("NDA_LLADDR") or message.get("lladdr")
    destination = message.get("NDA_DST") or message.get("dst")
    if message["family"] != 2 or message["ifindex"] != interface.index or not mac or not destination:
        return None
    raw = bytes.fromhex(mac.replace(":", ""))
    return Neighbour(IPv4Address(destination), interface.index, raw) if any(raw) else None
