# SPDX-License-Identifier: Apache-2.0
"""This node's own interface, and whether the machine has what the configuration names. The kernel's answers are
netlink's; the check of them is pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from pyroute2.netlink.exceptions import NetlinkError

from agent.address import Address
from agent.config.schema import Config
from agent.errors import AgentError
from agent.netlink.connection import Netlink
from agent.netlink.link import Link


@dataclass(frozen=True, slots=True)
class Interface:
    """The first interface of this node, with the node's addresses."""

    name: str
    index: int
    mac: bytes
    address: IPv4Address
    addresses6: tuple[IPv6Address, ...] = ()
    address6: IPv6Address | None = None
    """The one of `addresses6` that is this node's end of tunnels over IPv6."""

    @property
    def next_hop6(self) -> IPv6Address | None:
        """The next hop of routes to IPv6 VIPs; None if the interface has no IPv6 address."""
        return self.address6 or next(iter(self.addresses6), None)


async def own_interface(config: Config) -> Interface:
    """Return the first interface that a configuration names. Raises AgentError if one that it names does not exist, and
    as `check_interface` does.
    """
    netlink = Netlink()
    try:
        links = [await netlink.link(name) for name in config.node.names]
        addresses = await netlink.addresses(links[0])
    except AgentError as error:
        raise AgentError(f"node.interface: {error}") from None
    except (NetlinkError, OSError) as error:
        raise AgentError(f"node.interface: the kernel does not describe it: {error}; start the agent again") from None
    finally:
        netlink.close()
    return check_interface(config, links[0], addresses)


def check_interface(config: Config, link: Link, addresses: Iterable[Address]) -> Interface:
    """Return the node's interface made of its link and addresses.

    Raises AgentError if it lacks an address that the configuration names or needs, or if members.allow does not hold
    the node's own address.
    """
    addresses = tuple(addresses)
    addresses4 = [one for one in addresses if isinstance(one, IPv4Address)]
    addresses6 = tuple(one for one in addresses if isinstance(one, IPv6Address) and not one.is_link_local)
    address = _own_ipv4(config.node.address, link.name, addresses4)
    if len(link.mac) != 6:
        raise AgentError(
            f"node.interface: {link.name} has no MAC, which XDP needs to forward; name an Ethernet interface"
        )
    allowed = config.members.allow
    if not any(address in network for network in allowed):
        raise AgentError(f"members.allow: does not hold this node's own address {address}; add its prefix")
    usable = [one for one in addresses6 if any(one in network for network in allowed)]
    if config.node.address6 and config.node.address6 not in addresses6:
        raise AgentError(f"node.address6: {config.node.address6} is not on {link.name}")
    if config.members.outer == "ipv6" and not usable:
        raise AgentError(f"members.outer: is ipv6, but {link.name} has no IPv6 address inside members.allow")
    address6 = config.node.address6 or next(iter(usable), None)
    return Interface(link.name, link.index, link.mac, address, addresses6, address6)


def _own_ipv4(configured: IPv4Address | None, name: str, found: list[IPv4Address]) -> IPv4Address:
    if configured is None and not found:
        raise AgentError(f"node.interface: {name} has no IPv4 address; give it one or set node.address")
    if configured is not None and configured not in found:
        raise AgentError(f"node.address: {configured} is not on {name} ({', '.join(map(str, found)) or 'no address'})")
    return configured or found[0]
