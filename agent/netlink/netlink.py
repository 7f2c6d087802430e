# SPDX-License-Identifier: Apache-2.0
"""The kernel's network state as far as the agent uses it: interfaces, VIPs on lo, routes, neighbors. I/O only."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any, Self

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl import RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_ROUTE, RTMGRP_LINK, RTMGRP_NEIGH
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

from agent.address import Address, Network
from agent.config.schema import Config
from agent.errors import AgentError
from agent.forwarding.next_hop import KernelRoute, Link

_LOOPBACK = 1
_UNICAST = 1
"""rtm_type (linux/rtnetlink.h): a route that leads to a link."""
_GROUPS = RTMGRP_LINK | RTMGRP_NEIGH | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE
_NO_ROUTE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL, errno.EACCES)
"""What the kernel answers for no route, and for unreachable, blackhole and prohibit ones."""
_GONE = (errno.ENODEV, errno.ENETDOWN, errno.EINVAL, errno.EAFNOSUPPORT)
"""The interface went away, or down, since its name was read."""
_WORLD: dict[int, str] = {4: "203.0.113.1", 6: "3fff::1"}
"""Addresses of documentation (RFC 5737, RFC 9637): nobody has a route of their own for these."""
_FIB_MATCH = 0x2000
"""RTM_F_FIB_MATCH (linux/rtnetlink.h): answer with the route itself, all its next hops, not with the one taken."""
_NTF_USE = 1
"""ndmsg flag (linux/neighbor.h): resolve it as if a packet had been sent there."""
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
    addresses6: tuple[IPv6Address, ...] = ()
    address6: IPv6Address | None = None
    """The one of `addresses6` that is this node's end of tunnels over IPv6."""

    @property
    def next_hop6(self) -> IPv6Address | None:
        """Where routers send packets to IPv6 VIPs; None if the interface has no IPv6 address."""
        return self.address6 or next(iter(self.addresses6), None)


@dataclass(frozen=True, slots=True)
class NeighborEntry:
    """A resolved neighbor."""

    address: Address
    ifindex: int
    mac: bytes


@dataclass(frozen=True, slots=True)
class NetlinkEvent:
    """A neighbor was learned, or routes to a destination changed. With neither, links or anything else may have."""

    neighbor: NeighborEntry | None = None
    destination: Network | None = None


class Netlink:
    """One rtnetlink socket for questions and changes; `neighbors` opens its own to listen."""

    def __init__(self) -> None:
        self._route = AsyncIPRoute()

    def close(self) -> None:
        """Give the socket back."""
        self._route.close()

    async def index(self, name: str) -> Link:
        """Look an interface up by name. Raises AgentError if there is none."""
        for link in (await self.links()).values():
            if link.name == name:
                return link
        raise AgentError(f"node.interface: there is no interface {name} here; see `ip link`")

    async def interface(self, name: str, address: IPv4Address | None) -> Interface:
        """Look an interface up, with its addresses and those of the bond or the VLAN devices that stand on it. Raises
        AgentError if it is missing or has not the (or not any) IPv4 address."""
        link = await self.index(name)
        above = {other.index for other in (await self.links()).values() if other.vlan and other.lower == link.index}
        above |= {link.index, link.master}
        dump = [entry async for entry in await self._route.addr("dump") if entry["index"] in above]
        dump.sort(key=lambda entry: entry["index"] != link.index)
        local = [ip_address(entry.get("local") or entry.get("address")) for entry in dump]
        found = [one for one in local if isinstance(one, IPv4Address)]
        found6 = tuple(one for one in local if isinstance(one, IPv6Address) and not one.is_link_local)
        if address is None and not found:
            raise AgentError(f"node.interface: {name} has no IPv4 address; give it one or set node.address")
        if address is not None and address not in found:
            raise AgentError(f"node.address: {address} is not on {name} ({', '.join(map(str, found)) or 'no address'})")
        if len(link.mac) != 6:
            raise AgentError(f"node.interface: {name} has no MAC: XDP cannot forward by it; name an Ethernet one")
        return Interface(name, link.index, link.mac, address or found[0], found6)

    async def link_local(self, name: str) -> IPv6Address | None:
        """An interface's own address on its link. Raises AgentError if there is no such interface."""
        link = await self.index(name)
        dump = [entry async for entry in await self._route.addr("dump", index=link.index)]
        found = [ip_address(entry.get("address")) for entry in dump]
        return next((one for one in found if isinstance(one, IPv6Address) and one.is_link_local), None)

    async def put_vips(self, vips: Iterable[Address], interfaces: Iterable[str]) -> None:
        """VIPs on lo, each alone, and the ARP sysctls that keep them off the segment. Repeating it changes nothing."""
        for name in ("all", *interfaces):
            for key, value in _SYSCTLS.items():
                path = Path(f"/proc/sys/net/ipv4/conf/{name}/{key}")
                try:
                    if path.read_text().strip() != value:
                        path.write_text(value)
                except OSError as error:
                    raise AgentError(f"{path}: {error.strerror}; the agent needs to set it to {value}") from None
        try:
            await self._route.link("set", index=_LOOPBACK, state="up")
            for vip in vips:
                await self._route.addr("replace", index=_LOOPBACK, address=str(vip), prefixlen=vip.max_prefixlen)
        except NetlinkError as error:
            hint = "the agent needs CAP_NET_ADMIN" if error.code == errno.EPERM else "is IPv6 off here?"
            raise AgentError(f"VIPs cannot be put on lo: {error.args[1]}; {hint}") from None

    async def remove_vips(self, vips: Iterable[Address]) -> None:
        """Take VIPs off lo again; one that is not there is fine."""
        for vip in vips:
            try:
                await self._route.addr("del", index=_LOOPBACK, address=str(vip), prefixlen=vip.max_prefixlen)
            except NetlinkError as error:
                if error.code not in (2, 99):  # ENOENT, EADDRNOTAVAIL
                    raise

    async def links(self) -> dict[int, Link]:
        """Every interface, by index."""
        return {link["index"]: _link(link) async for link in await self._route.link("dump")}

    async def way(self, address: Address) -> KernelRoute | None:
        """The route that a packet to this address takes; None if there is none, or it leads to this node itself."""
        try:
            answer = list(await self._route.route("get", dst=str(address)))
        except NetlinkError as error:
            if error.code in _NO_ROUTE:
                return None
            raise
        return _way(address, answer[0]) if answer else None

    async def leaves_by(self, vip: Address) -> set[int]:
        """By which interfaces answers from a VIP of this node leave for the world, that is by the default route.

        Rules for packets from it count; empty if there is no such route.
        """
        try:
            asked = await self._route.route("get", dst=_WORLD[vip.version], src=str(vip), flags=_FIB_MATCH)
            answer = next(iter(list(asked)), None)
        except NetlinkError as error:
            if error.code in _NO_ROUTE:
                return set()
            raise
        if answer is None or answer["type"] != _UNICAST:
            return set()
        legs = answer.get("multipath")
        return {leg["oif"] for leg in legs} if legs else {answer.get("oif")} - {None}

    async def resolve(self, neighbors: Iterable[tuple[int, Address]]) -> None:
        """Have the kernel ask for these neighbors, or confirm what it knows. XDP's own traffic would not."""
        for ifindex, address in neighbors:
            try:
                await self._route.neigh("replace", dst=str(address), ifindex=ifindex, state="none", flags=_NTF_USE)
            except NetlinkError as error:
                if error.code not in _GONE:
                    raise

    async def neighbors(self) -> list[NeighborEntry]:
        """Every neighbor whose MAC is known."""
        found = [_neighbor(message) async for message in await self._route.neigh("dump")]
        return [neighbor for neighbor in found if neighbor]


class NetlinkMonitor:
    """The kernel's own notices of links, routes and neighbors. `take` is called with each, from the event loop."""

    def __init__(self, take: Callable[[NetlinkEvent], None]) -> None:
        self._take = take
        self._marshal = MarshalRtnl()
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    def listen(self) -> None:
        """Hear what happens from now on."""
        self._socket.bind((0, _GROUPS))
        asyncio.get_running_loop().add_reader(self._socket, self._read)

    def _read(self) -> None:
        try:
            while True:
                for message in self._marshal.parse(self._socket.recv(1 << 16)):
                    if notice := _notice(message):
                        self._take(notice)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            self._take(NetlinkEvent())  # some were lost: look everything up again


async def own_interface(config: Config) -> Interface:
    """The first interface that a configuration names. Raises AgentError as `Netlink.interface` does, and if this
    node's addresses are not such as the cluster's members may have."""
    netlink = Netlink()
    try:
        interface = await netlink.interface(config.node.names[0], config.node.address)
        for name in config.node.names[1:]:
            await netlink.index(name)
    except (NetlinkError, OSError) as error:
        raise AgentError(f"node.interface: the kernel does not tell of it: {error}; start the agent again") from None
    finally:
        netlink.close()
    allowed = config.members.allow
    if not any(interface.address in network for network in allowed):
        raise AgentError(f"members.allow: does not hold this node's own address {interface.address}; add its prefix")
    usable = [address for address in interface.addresses6 if any(address in network for network in allowed)]
    if config.node.address6 and config.node.address6 not in interface.addresses6:
        raise AgentError(f"node.address6: {config.node.address6} is not on {interface.name}")
    if config.members.outer == "ipv6" and not usable:
        raise AgentError(f"members.outer: is ipv6, but {interface.name} has no IPv6 address inside members.allow")
    return replace(interface, address6=config.node.address6 or next(iter(usable), None))


async def link_locals(names: Iterable[str]) -> dict[str, IPv6Address]:
    """A link-local IPv6 address of each of these interfaces that has one. AgentError: there is no such interface."""
    netlink = Netlink()
    try:
        return {name: found for name in sorted(names) if (found := await netlink.link_local(name))}
    finally:
        netlink.close()


def _neighbor(message: Any) -> NeighborEntry | None:
    """A message about a neighbor with a MAC; a failed one keeps its last MAC by not being told."""
    mac, destination = message.get("lladdr"), message.get("dst")
    if message["family"] not in (socket.AF_INET, socket.AF_INET6) or not mac or not destination:
        return None
    raw = bytes.fromhex(mac.replace(":", ""))
    return NeighborEntry(ip_address(destination), message["ifindex"], raw) if len(raw) == 6 and any(raw) else None


def _link(message: Any) -> Link:
    kind = message.get("linkinfo")
    vlan = 0
    if kind is not None and kind.get("kind") == "vlan" and kind.get("data") is not None:
        vlan = kind.get("data").get("vlan_id") or 0
    mac = message.get("address") or ""
    return Link(
        message["index"],
        message.get("ifname"),
        bytes.fromhex(mac.replace(":", "")),
        message.get("mtu"),
        message.get("state") == "up",
        message.get("link") or 0,
        vlan,
        message.get("master") or 0,
    )


def _way(address: Address, message: Any) -> KernelRoute | None:
    gateway, via = message.get("gateway"), message.get("via")
    if message["type"] != _UNICAST or not message.get("oif"):
        return None
    if not gateway and via:
        gateway = via["addr"]  # an IPv4 route over an IPv6 next hop (RFC 5549)
    metrics = message.get("metrics")
    mtu = metrics.get("mtu") if metrics is not None else None
    return KernelRoute(address, message.get("oif"), ip_address(gateway) if gateway else None, mtu or 0)


def _notice(message: Any) -> NetlinkEvent | None:
    match message["event"]:
        case "RTM_NEWNEIGH":
            found = _neighbor(message)
            return NetlinkEvent(neighbor=found) if found else None
        case "RTM_NEWROUTE" | "RTM_DELROUTE":
            if message["family"] not in (socket.AF_INET, socket.AF_INET6):
                return None
            everything = "0.0.0.0" if message["family"] == socket.AF_INET else "::"  # noqa: S104 - not an address here
            return NetlinkEvent(destination=ip_network((message.get("dst") or everything, message["dst_len"])))
        case "RTM_NEWLINK" | "RTM_DELLINK":
            return NetlinkEvent()
        case _:
            return None
