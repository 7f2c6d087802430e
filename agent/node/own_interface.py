# SPDX-License-Identifier: Apache-2.0
"""This node's own interface, and whether the machine has what the configuration names. The kernel's answers are
netlink's; the check of them is pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address

from pyroute2.netlink.exceptions import NetlinkError

from agent.address import Address, Network
from agent.announcing.local_address import LocalAddresses
from agent.config.schema import Config
from agent.errors import AgentError, SettingError
from agent.forwarding import vlan
from agent.netlink.connection import Netlink
from agent.netlink.ethtool import strips_vlan_tags
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
    warnings: tuple[SettingError, ...] = ()
    """Settings that this machine makes doubtful."""

    @property
    def next_hop6(self) -> IPv6Address | None:
        """The next hop of routes to IPv6 VIPs; None if the interface has no IPv6 address."""
        return self.address6 or next(iter(self.addresses6), None)


async def own_interface(config: Config) -> Interface:
    """Return the first interface that a configuration names. Raises SettingError if one that it names does not exist,
    and as `check_interface` does.
    """
    netlink = Netlink()
    field = "node.interface"
    try:
        links = []
        for i, name in enumerate(config.node.names):
            field = f"node.interfaces[{i}]" if config.node.interfaces else field
            links.append(await netlink.link(name))
        addresses = await netlink.addresses(links[0])
        subnets = await netlink.subnets(config.node.names)
        all_links = await netlink.links()
        devices = [device.name for device in vlan.vlan_devices(all_links, config.node.names)]
        device_subnets = await netlink.subnets(devices)
    except AgentError as error:
        raise SettingError(field, str(error)) from None
    except (NetlinkError, OSError) as error:
        raise SettingError(field, f"the kernel does not describe it: {error}; start the agent again") from None
    finally:
        netlink.close()
    own = check_interface(config, links[0], addresses)
    vlans = vlan_warnings(config, own.address, all_links, device_subnets)
    return replace(own, warnings=(*vips_on_segment(config, subnets), *vlans))


async def local_addresses(config: Config, own: Interface) -> LocalAddresses:
    """Return this node's ends of its BGP sessions. Raises SettingError if a peer's interface does not exist."""
    by_interface = {}
    netlink = Netlink()
    try:
        for i, peer in enumerate(config.bgp.peers):
            try:
                found = await netlink.link_local(peer.interface) if peer.interface else None
            except AgentError as error:
                raise SettingError(f"bgp.peers[{i}].address", str(error)) from None
            if peer.interface and found:
                by_interface[peer.interface] = found
    finally:
        netlink.close()
    return LocalAddresses(own.address, own.next_hop6, by_interface)


def vips_on_segment(config: Config, subnets: Iterable[tuple[str, Network]]) -> tuple[SettingError, ...]:
    """Return a warning for each VIP that lies in a subnet of this node's interfaces, given with their names."""
    subnets = tuple(subnets)
    services = {service.vip: i for i, service in reversed(tuple(enumerate(config.services)))}
    warnings = []
    for vip in config.vips:
        for name, subnet in [one for one in subnets if vip in one[1]][:1]:
            ask = "neighbor discovery" if vip.version == 6 else "ARP"
            why = f"{vip} is in {subnet} of {name}: hosts there ask for it by {ask}, and no node answers"
            warnings.append(SettingError(f"services[{services[vip]}].vip", f"{why}; choose one outside the subnet"))
    return tuple(warnings)


def vlan_warnings(
    config: Config, own: Address, links: Mapping[int, Link], device_subnets: Iterable[tuple[str, Network]]
) -> tuple[SettingError, ...]:
    """Return warnings about the VLANs of this node's interfaces. `device_subnets`: of the VLAN devices, with names."""
    node = config.node
    lines: list[str] = [*vlan.stripped(links, node.names, node.vlans, strips_vlan_tags)]
    if unnamed := vlan.unnamed_by_address(own, links, node.names, device_subnets, node.vlans):
        lines.append(unnamed)
    return tuple(SettingError("node.vlans", line) for line in lines)


def check_interface(config: Config, link: Link, addresses: Iterable[Address]) -> Interface:
    """Return the node's interface made of its link and addresses.

    Raises SettingError if it lacks an address that the configuration names or needs, or if members.allow does not hold
    the node's own address.
    """
    addresses = tuple(addresses)
    addresses4 = [one for one in addresses if isinstance(one, IPv4Address)]
    addresses6 = tuple(one for one in addresses if isinstance(one, IPv6Address) and not one.is_link_local)
    address = _own_ipv4(config.node.address, link.name, addresses4)
    if len(link.mac) != 6:
        problem = f"{link.name} has no MAC, which XDP needs to forward; name an Ethernet interface"
        raise SettingError("node.interface", problem)
    allowed = config.members.allow
    if not any(address in network for network in allowed):
        raise SettingError("members.allow", f"does not hold this node's own address {address}; add its prefix")
    usable = [one for one in addresses6 if any(one in network for network in allowed)]
    if config.node.address6 and config.node.address6 not in addresses6:
        raise SettingError("node.address6", f"{config.node.address6} is not on {link.name}")
    if config.members.outer == "ipv6" and not usable:
        raise SettingError("members.outer", f"is ipv6, but {link.name} has no IPv6 address inside members.allow")
    address6 = config.node.address6 or next(iter(usable), None)
    return Interface(link.name, link.index, link.mac, address, addresses6, address6)


def _own_ipv4(configured: IPv4Address | None, name: str, found: list[IPv4Address]) -> IPv4Address:
    if configured is None and not found:
        raise SettingError("node.interface", f"{name} has no IPv4 address; give it one or set node.address")
    if configured is not None and configured not in found:
        there = ", ".join(map(str, found)) or "no address"
        raise SettingError("node.address", f"{configured} is not on {name} ({there})")
    return configured or found[0]
