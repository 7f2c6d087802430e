# SPDX-License-Identifier: Apache-2.0
"""Rules by which the kernel drops what arrives for some prefixes: NAT's pools and VIPs, no addresses of this node.

What the program passes to the kernel, as other protocols than TCP, UDP and ICMP, would otherwise be sent back to the
router by a node that forwards, and come again. Only what arrives is dropped: a process of this node still reaches these
addresses by the router. The rules come after the table of local addresses, so an address of this node stays one.
"""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Iterable
from ipaddress import ip_network
from socket import AF_INET, AF_INET6
from typing import Any, Final, NamedTuple

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from agent.address import Network

_PRIORITY: Final = 1
_OURS: Final = 171
"""Who made a rule (FRA_PROTOCOL): a number that no routing daemon uses."""
_BLACKHOLE: Final = 6
"""FR_ACT_BLACKHOLE."""
_FAMILY: Final = {4: AF_INET, 6: AF_INET6}


class DropRule(NamedTuple):
    """What arrives on an interface for a prefix is dropped."""

    interface: str
    prefix: Network

    def __str__(self) -> str:
        return f"{self.prefix} from {self.interface}"


async def set_rules(wanted: Iterable[DropRule]) -> list[str]:
    """Make the missing ones of these rules and remove all others that are ours; return a text for each change. Raises
    NetlinkError."""
    kernel = AsyncIPRoute()
    try:
        there, expected = {rule async for rule in _rules(kernel)}, set(wanted)
        for rule in sorted(expected - there, key=str):
            await kernel.rule("add", **_request(rule))
        for rule in sorted(there - expected, key=str):
            await kernel.rule("del", **_request(rule))
        changed = [f"{rule} is dropped" for rule in expected - there]
        return sorted(changed + [f"{rule} is dropped no more" for rule in there - expected])
    finally:
        kernel.close()


async def _rules(kernel: AsyncIPRoute) -> AsyncIterator[DropRule]:
    for family in _FAMILY.values():
        try:
            found = [one async for one in await kernel.rule("dump", family=family)]
        except NetlinkError as error:
            if error.code not in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP):  # a kernel without IPv6
                raise
            continue
        for one in found:
            if one.get("protocol") == _OURS and one["action"] == _BLACKHOLE and one.get("dst"):
                yield DropRule(one.get("iifname") or "", ip_network((one.get("dst"), one["dst_len"])))


def _request(rule: DropRule) -> dict[str, Any]:
    prefix = rule.prefix
    return {
        "family": _FAMILY[prefix.version],
        "iifname": rule.interface,
        "dst": str(prefix.network_address),
        "dst_len": prefix.prefixlen,
        "priority": _PRIORITY,
        "action": "blackhole",
        "protocol": _OURS,
    }
