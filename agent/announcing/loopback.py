# SPDX-License-Identifier: Apache-2.0
"""The VIPs on lo: kept while they are configured, taken off when routers have stopped sending their packets here."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from typing import TYPE_CHECKING

from pyroute2.netlink.exceptions import NetlinkError

from agent.errors import AgentError

if TYPE_CHECKING:
    from agent.node.agent import Agent

log = logging.getLogger("anylb")

KEEP_S = 5.0
"""How often the VIPs on lo and the interface are looked at."""
CONVERGE_S = 1.0
"""How long routers get to act on a withdrawal that ExaBGP has taken in."""
LOOK_S = 0.1


async def keep_for_ever(agent: Agent) -> None:
    """Put back what others take away: a VIP that is gone from lo would have its packets refused or sent away."""
    known = {agent.interface.name: agent.interface.index}
    if agent.datapath is not None:
        known |= {one.interface: one.ifindex for one in agent.datapath.uplinks}
    while True:
        await asyncio.sleep(KEEP_S)
        try:
            await agent.netlink.put_vips(agent.config.vips, agent.config.node.names)
            anew = [name for name, index in known.items() if socket.if_nametoindex(name) != index]
        except (AgentError, NetlinkError, OSError) as error:
            log.warning("%s", error)
            continue
        if anew:
            raise AgentError(f"{', '.join(anew)} was made anew; the agent must be started again for it")


async def retire(agent: Agent) -> None:
    """Take VIPs that left the configuration out of the data path and off lo, once their withdrawal is confirmed.

    Before that routers send their packets here: without the service this node would answer other nodes' connections
    with a reset, and without the VIP they would go astray. While nothing can be confirmed they stay; it harms nobody.
    """
    quiet_since: float | None = None
    while agent.retiring and (quiet_since is None or time.monotonic() - quiet_since < CONVERGE_S):
        if not agent.withdrawn(agent.retiring):
            quiet_since = None
        elif quiet_since is None:
            quiet_since = time.monotonic()
        await asyncio.sleep(LOOK_S)
    if agent.applier is not None:
        agent.applier.retire()
    await agent.netlink.remove_vips(agent.retiring)
    for vip in agent.retiring:
        log.info("%s: withdrawn, and taken off lo: it is not configured any more", vip)
    agent.retiring = frozenset()
