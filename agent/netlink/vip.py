# SPDX-License-Identifier: Apache-2.0
"""VIPs as addresses of lo, and the ARP sysctls that keep them off the segment. I/O only."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from pyroute2.netlink.exceptions import NetlinkError

from agent.address import Address
from agent.errors import AgentError
from agent.netlink.connection import Netlink

_SYSCTLS: Final = {
    # No node may claim a VIP of lo on the segment: answer ARP only for addresses of the interface that was asked ...
    "arp_ignore": "1",
    # ... and never use the VIP as the sender of an ARP request.
    "arp_announce": "2",
}


async def put_vips(netlink: Netlink, vips: Iterable[Address], interfaces: Iterable[str]) -> None:
    """Put VIPs on lo, each as a host address, and set the ARP sysctls of the interfaces. Raises AgentError.

    Repeating it changes nothing.
    """
    for name in ("all", *interfaces):
        for key, value in _SYSCTLS.items():
            path = Path(f"/proc/sys/net/ipv4/conf/{name}/{key}")
            try:
                if path.read_text().strip() != value:
                    path.write_text(value)
            except OSError as error:
                raise AgentError(f"{path}: {error.strerror}; the agent needs to set it to {value}") from None
    try:
        await netlink.raise_loopback()
        for vip in vips:
            await netlink.add_loopback_address(vip)
    except NetlinkError as error:
        hint = "the agent needs CAP_NET_ADMIN" if error.code == errno.EPERM else "is IPv6 off here?"
        raise AgentError(f"VIPs cannot be put on lo: {error.args[1]}; {hint}") from None


async def remove_vips(netlink: Netlink, vips: Iterable[Address]) -> None:
    """Remove VIPs from lo; it is no error if one is not there."""
    for vip in vips:
        try:
            await netlink.remove_loopback_address(vip)
        except NetlinkError as error:
            if error.code not in (errno.ENOENT, errno.EADDRNOTAVAIL):
                raise
