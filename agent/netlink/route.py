# SPDX-License-Identifier: Apache-2.0
"""A route to one address as the kernel chooses it, and the destinations of its route messages. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any, Final

from agent.address import Address, Network

_EVERYTHING: Final = {2: "0.0.0.0", 10: "::"}  # noqa: S104 - no address to listen on
"""The destination of a default route, which its message leaves out, by family: AF_INET, AF_INET6."""
_UNICAST: Final = 1
"""rtm_type (linux/rtnetlink.h): a route out of a link."""


@dataclass(frozen=True, slots=True)
class KernelRoute:
    """The kernel's route to an address. `gateway` is None if it is on the link; `mtu` 0 if the route sets none."""

    address: Address
    ifindex: int
    gateway: Address | None = None
    mtu: int = 0

    @property
    def neighbor(self) -> tuple[int, Address]:
        """The neighbor whose MAC frames need: interface and address."""
        return self.ifindex, self.gateway or self.address


def route_from(address: Address, message: Any) -> KernelRoute | None:
    """Return the route in the answer to RTM_GETROUTE; None if it is local, or no route out of a link."""
    gateway, via = message.get("gateway"), message.get("via")
    if message["type"] != _UNICAST or not message.get("oif"):
        return None
    if not gateway and via:
        gateway = via["addr"]  # an IPv4 route over an IPv6 next hop (RFC 5549)
    metrics = message.get("metrics")
    mtu = metrics.get("mtu") if metrics is not None else None
    return KernelRoute(address, message.get("oif"), ip_address(gateway) if gateway else None, mtu or 0)


def egress_of(message: Any) -> set[int]:
    """Return the interfaces of all next hops in the answer to RTM_GETROUTE, by index; empty as with `route_from`."""
    if message["type"] != _UNICAST:
        return set()
    legs = message.get("multipath")
    return {leg["oif"] for leg in legs} if legs else {message.get("oif")} - {None}


def destination_of(message: Any) -> Network | None:
    """Return the destination in a message about a route; None for a route that is neither IPv4 nor IPv6."""
    if message["family"] not in _EVERYTHING:
        return None
    return ip_network((message.get("dst") or _EVERYTHING[message["family"]], message["dst_len"]))
