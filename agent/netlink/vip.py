# SPDX-License-Identifier: Apache-2.0
"""VIPs as addresses of lo, and the settings that they need of interfaces. I/O only."""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterable

from pyroute2.netlink.exceptions import NetlinkError

from agent.address import Address, Network
from agent.errors import AgentError
from agent.netlink.batch import addresses
from agent.netlink.connection import LOOPBACK, Netlink
from agent.netlink.drop_rule import DropRule, set_rules
from agent.netlink.interface_setting import set_for_vips
from agent.netlink.link import receivers


async def put_vips(
    netlink: Netlink,
    vips: Iterable[Address],
    interfaces: Collection[str],
    loose: bool = True,
    dropped: Collection[Network] | None = None,
) -> list[str]:
    """Put VIPs on lo, each as a host address, and set what they need of the interfaces. Raises AgentError.

    `loose`: make their strict reverse path filters loose, since answers may leave by other interfaces. `dropped`: what
    arrives for these prefixes, and for no others, is not the kernel's; None: as it was. Returns a text for each thing
    that it changed. What is as it must be is not touched: the kernel would report it as changed.
    """
    try:
        links = await netlink.links()
        receiving = {one for name in interfaces for one in receivers(links.values(), name)}
        changed = set_for_vips(interfaces, receiving if loose else set())
        if dropped is not None:
            changed += await set_rules(DropRule(name, prefix) for name in receiving for prefix in dropped)
        if not links[LOOPBACK].up:
            await netlink.raise_loopback()
            changed.append("lo is up")
        there = {address for index, address in addresses() if index == LOOPBACK}
        for vip in vips:
            if vip not in there:
                await netlink.add_loopback_address(vip)
                changed.append(f"{vip} is on lo")
    except NetlinkError as error:
        hint = "the agent needs CAP_NET_ADMIN" if error.code == errno.EPERM else "is IPv6 off here?"
        raise AgentError(f"VIPs cannot be put on lo: {error.args[1]}; {hint}") from None
    return changed


async def remove_vips(netlink: Netlink, vips: Iterable[Address]) -> None:
    """Remove VIPs from lo; it is no error if one is not there."""
    for vip in vips:
        try:
            await netlink.remove_loopback_address(vip)
        except NetlinkError as error:
            if error.code not in (errno.ENOENT, errno.EADDRNOTAVAIL):
                raise
