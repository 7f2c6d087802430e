# SPDX-License-Identifier: Apache-2.0
"""lb.yml's `node:`: this node's interfaces and addresses. Owns the schema, and the rules within the section."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Address, IPv6Network
from typing import Annotated, Final, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from agent.address import Network
from agent.config.fields import AnyNetwork, InterfaceName, Section, Switch, V4Address, fault, within

EVERYWHERE: Final = IPv4Network("0.0.0.0/0")
EVERYWHERE6: Final = IPv6Network("::/0")


def _one_interface(value: object) -> object:
    if isinstance(value, list):
        raise fault("", "is a list; give one name, or write interfaces for several")
    return value


Vlan = Annotated[int, Field(strict=True), within(1, 4094)]


class NodeConfig(Section):
    """This node: the interfaces that XDP attaches to, and the node's addresses."""

    interface: Annotated[InterfaceName | None, BeforeValidator(_one_interface)] = None
    """The interface on which clients' packets arrive and through which other nodes are reached. Example: `eth1`."""
    interfaces: Annotated[tuple[InterfaceName, ...], Field(max_length=8)] = ()
    """The same for several (two uplinks, VLAN devices, a bond's slaves), instead of `interface`. The node's addresses
    are on the first. Example: `[eth1, eth2]`."""
    address: V4Address | None = None
    """The node's IPv4 address, by which other nodes and the routers know it. By default the interface's first. Example:
    `10.0.0.11`."""
    address6: IPv6Address | None = None
    """The node's IPv6 address, which only tunnels over IPv6 need. By default the interface's first global one. Example:
    `2001:db8::11`."""
    vlans: Annotated[tuple[Vlan, ...], Field(max_length=4094)] = ()
    """The VLANs whose tagged frames belong to the program; of two tags, both must be named. Frames of other VLANs pass
    to the kernel. Example: `[5, 9]`."""
    announce: Switch = True
    """Whether this node announces VIPs. With `false` it is a member only: it owns flows and forwards, and other nodes
    announce. Example: `false`."""
    clients: Annotated[tuple[AnyNetwork, ...], Field(max_length=16)] = (EVERYWHERE, EVERYWHERE6)
    """The prefixes to which this node must have routes. While one is missing its VIPs are left to other nodes. Example:
    `[192.0.2.0/24]`."""
    rp_filter: Literal["loose", "refuse"] = "loose"
    """Whether strict reverse path filters of the interfaces are made `loose`, or stay, and the node refuses to serve
    where they drop requests (`refuse`). Example: `refuse`."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for i, prefix in enumerate(self.clients):
            if prefix.is_multicast or prefix.is_loopback or prefix.is_link_local:
                raise fault(f"clients[{i}]", f"{prefix} has no clients that are reached by a route")
        if self.interface and self.interfaces:
            raise fault("interfaces", "contradicts interface; give one of them")
        if not self.names:
            raise fault("interface", "is missing")
        for i, name in enumerate(self.interfaces):
            if name in self.interfaces[:i]:
                other = f"interfaces[{self.interfaces.index(name)}]"
                raise fault(f"interfaces[{i}]", f"{name} is listed twice", other=other)
        for i, vlan in enumerate(self.vlans):
            if vlan in self.vlans[:i]:
                raise fault(f"vlans[{i}]", f"{vlan} is listed twice", other=f"vlans[{self.vlans.index(vlan)}]")
        if self.address6 and (self.address6.is_multicast or self.address6.is_link_local or self.address6.is_loopback):
            raise fault(
                "address6", f"{self.address6} cannot be the end of a tunnel; give a global or local unicast one"
            )
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The interfaces, however they are given."""
        return (self.interface,) if self.interface else self.interfaces

    def client_prefixes(self, version: int) -> tuple[Network, ...]:
        """Return the prefixes of clients of an IP version."""
        return tuple(one for one in self.clients if one.version == version)
