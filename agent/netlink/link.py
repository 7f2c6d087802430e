# SPDX-License-Identifier: Apache-2.0
"""A link, which is a network interface as the kernel describes it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Link:
    """An interface. `lower` is what a VLAN device is on, `master` the bond or bridge above it; 0 for none."""

    index: int
    name: str
    mac: bytes
    mtu: int
    up: bool = True
    lower: int = 0
    vlan: int = 0
    master: int = 0


def receivers(links: Iterable[Link], name: str) -> frozenset[str]:
    """Return the interfaces by which the kernel receives what arrives on an interface, by name.

    Itself, or the bond or bridge above it, and the VLAN devices on that; none if it does not exist.
    """
    by_index = {link.index: link for link in links}
    found = {link.index for link in by_index.values() if link.name == name}
    found = {by_index[index].master or index for index in found}
    found |= {link.index for link in by_index.values() if link.vlan and link.lower in found}
    return frozenset(by_index[index].name for index in found if index in by_index)


def link_from(message: Any) -> Link:
    """Return the link that an RTM_NEWLINK message describes."""
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
