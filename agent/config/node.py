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
    """This node: the interfaces that XDP attaches to, and the node's addresses.

    `interface`, or several `interfaces` (two uplinks, VLAN devices, a bond's slaves); the node's addresses are on the
    first one. `address` and `address6`, which only tunnels over IPv6 need, default to its first addresses. With
    `announce: false` the node is a member only: it owns flows and forwards, and the other nodes announce the VIPs.
    Frames with a VLAN tag are the program's only in the VLANs that `vlans` names; of two tags, both must be named.

    `clients` are the prefixes to which this node must have routes, by default everywhere. `rp_filter`: whether strict
    reverse path filters of the interfaces are made loose, or refused where they drop what clients send.
    """

    interface: Annotated[InterfaceName | None, BeforeValidator(_one_interface)] = None
    interfaces: Annotated[tuple[InterfaceName, ...], Field(max_length=8)] = ()
    address: V4Address | None = None
    address6: IPv6Address | None = None
    vlans: Annotated[tuple[Vlan, ...], Field(max_length=4094)] = ()
    announce: Switch = True
    clients: Annotated[tuple[AnyNetwork, ...], Field(max_length=16)] = (EVERYWHERE, EVERYWHERE6)
    rp_filter: Literal["loose", "refuse"] = "loose"

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
