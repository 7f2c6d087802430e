# SPDX-License-Identifier: Apache-2.0
"""The VIPs on lo: kept while they are configured, removed when routers no longer send their packets here. I/O only."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Collection, Mapping, Sequence

from pyroute2.netlink.exceptions import NetlinkError

from agent.address import Address
from agent.errors import AgentError
from agent.netlink.connection import Netlink
from agent.netlink.vip import put_vips, remove_vips

log = logging.getLogger("anylb")

KEEP_S = 5.0
"""The interval between two checks of the VIPs on lo and of the interfaces."""
CONVERGE_S = 1.0
"""How long routers get to act on a withdrawal that no adj-rib-out holds any more."""
CHECK_S = 0.1


async def keep_vips(
    netlink: Netlink, vips: Collection[Address], interfaces: Sequence[str], indexes: Mapping[str, int]
) -> None:
    """Put back, forever, VIPs that something removes from lo: without it their packets would be refused or sent away.

    `indexes` are the interfaces that the agent uses, by name. Raises AgentError when one of them was created again.
    """
    while True:
        await asyncio.sleep(KEEP_S)
        try:
            await put_vips(netlink, vips, interfaces)
            new = [name for name, index in indexes.items() if socket.if_nametoindex(name) != index]
        except (AgentError, NetlinkError, OSError) as error:
            log.warning("%s", error)
            continue
        if new:
            raise AgentError(f"{', '.join(new)} was created again; restart the agent to use it")


async def retire_vips(
    netlink: Netlink, vips: Collection[Address], withdrawn: Callable[[], bool], retire_services: Callable[[], None]
) -> None:
    """Remove VIPs that left the configuration from the data path and from lo, once their withdrawal is confirmed.

    Until then routers send their packets here: without the service this node would answer other nodes' connections
    with a reset, and without the VIP it would route them away. While nothing confirms it they stay, which is harmless.

    `withdrawn` is True when no peer's adj-rib-out holds them; `retire_services` removes them from the data path.
    """
    withdrawn_since: float | None = None
    while vips and (withdrawn_since is None or time.monotonic() - withdrawn_since < CONVERGE_S):
        if not withdrawn():
            withdrawn_since = None
        elif withdrawn_since is None:
            withdrawn_since = time.monotonic()
        await asyncio.sleep(CHECK_S)
    retire_services()
    await remove_vips(netlink, vips)
    for vip in vips:
        log.info("%s: withdrawn, and removed from lo: it is no longer configured", vip)
