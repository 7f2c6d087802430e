# SPDX-License-Identifier: Apache-2.0
"""A route to one address as the kernel chooses it, the requests for it, and what route messages are about.

linux/rtnetlink.h has the numbers. Pure.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Final

from agent.address import Address, Network
from agent.netlink.message import FAMILY, RTM_GETROUTE, Request, address, attributes, number, pack_attribute
from agent.netlink.neighbor import Neighbor

_RTMSG: Final = struct.Struct("=8BI")
"""struct rtmsg: family, bits of destination and source, TOS, table, protocol, scope, type, flags."""
_NEXT_HOP: Final = struct.Struct("=HBBi")
"""struct rtnexthop: length with its attributes, flags, weight, interface."""
_RTA_DST: Final = 1
_RTA_SRC: Final = 2
_RTA_OIF: Final = 4
_RTA_GATEWAY: Final = 5
_RTA_METRICS: Final = 8
_RTA_MULTIPATH: Final = 9
_RTA_VIA: Final = 18
_RTA_NH_ID: Final = 30
_RTAX_MTU: Final = 2
_UNICAST: Final = 1
"""rtm_type: a route out of a link."""
_DEAD: Final = 1
"""RTNH_F_DEAD: a next hop whose interface is down."""
_FIB_MATCH: Final = 0x2000
"""RTM_F_FIB_MATCH: answer with the route itself, all its next hops, not with the one chosen."""
_EVERYTHING: Final[dict[int, bytes]] = {FAMILY[4]: bytes(4), FAMILY[6]: bytes(16)}
"""The destination of a default route, which its message leaves out, by family."""


Leg = tuple[int, Address | None]
"""A next hop of a route: its interface, by index, and its gateway; None if it is on the link."""


@dataclass(frozen=True, slots=True)
class KernelRoute:
    """The kernel's route to an address. `gateway` is None if it is on the link; `mtu` 0 if the route sets none."""

    address: Address
    ifindex: int
    gateway: Address | None = None
    mtu: int = 0

    @property
    def neighbor(self) -> Neighbor:
        """The neighbor whose MAC frames need."""
        return self.ifindex, self.gateway or self.address


def route_request(to: Address, source: Address | None = None) -> Request:
    """Return the request for the route of a packet. With a source, the answer has all next hops of the route."""
    bits, family = to.max_prefixlen, FAMILY[to.version]
    sources, flags = (0, 0) if source is None else (bits, _FIB_MATCH)
    body = _RTMSG.pack(family, bits, sources, 0, 0, 0, 0, 0, flags) + pack_attribute(_RTA_DST, to.packed)
    return Request(RTM_GETROUTE, body + (pack_attribute(_RTA_SRC, source.packed) if source is not None else b""))


def route_from(to: Address, body: bytes) -> KernelRoute | None:
    """Return the route in the answer to RTM_GETROUTE; None if it is local, or no route out of a link."""
    found = _unicast(body)
    interface = number(found.get(_RTA_OIF))
    if not interface:
        return None
    metrics = attributes(found.get(_RTA_METRICS, b""))
    return KernelRoute(to, interface, _gateway(found), number(metrics.get(_RTAX_MTU)))


def legs_of(body: bytes) -> tuple[Leg, ...]:
    """Return all next hops in the answer to RTM_GETROUTE that the kernel uses; none as with `route_from`.

    One of interface 0 means a route whose next hops the kernel does not list.
    """
    found = _unicast(body)
    hops, offset = found.get(_RTA_MULTIPATH, b""), 0
    if interface := number(found.get(_RTA_OIF)):
        return ((interface, _gateway(found)),)
    if not hops and _RTA_NH_ID in found:  # net.ipv4.nexthop_compat_mode is 0: it names the group alone
        return ((0, None),)
    legs = []
    while offset + _NEXT_HOP.size <= len(hops):
        length, flags, _, interface = _NEXT_HOP.unpack_from(hops, offset)
        end = offset + max(_NEXT_HOP.size, length)
        if not flags & _DEAD:
            legs.append((interface, _gateway(attributes(hops[:end], offset + _NEXT_HOP.size))))
        offset = end + -end % 4
    return tuple(legs)


def destination_of(body: bytes) -> Network | None:
    """Return the destination in a message about a route; None for a route that is neither IPv4 nor IPv6."""
    if len(body) < _RTMSG.size or body[0] not in _EVERYTHING:
        return None
    everything, bits = _EVERYTHING[body[0]], body[1]
    value = attributes(body, _RTMSG.size).get(_RTA_DST, everything)
    if len(value) != len(everything) or bits > 8 * len(value):
        return None
    return ip_network((value, bits), strict=False)


def _gateway(found: dict[int, bytes]) -> Address | None:
    # RTA_VIA, a family and an address: an IPv4 route over an IPv6 next hop (RFC 5549).
    return address(found.get(_RTA_GATEWAY)) or address(found.get(_RTA_VIA, b"")[2:])


def _unicast(body: bytes) -> dict[int, bytes]:
    """Return the attributes of a route out of a link; none of any other."""
    return attributes(body, _RTMSG.size) if len(body) >= _RTMSG.size and body[7] == _UNICAST else {}
