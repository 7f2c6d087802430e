# SPDX-License-Identifier: Apache-2.0
"""A link, which is a network interface as the kernel describes it. Pure."""

from __future__ import annotations

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
