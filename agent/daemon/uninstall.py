# SPDX-License-Identifier: Apache-2.0
"""The end of anylb on a node: what agents have put into its kernel, and their files of this boot, are removed.

What outlives a reboot stays: lb.yml, the keys, and the operator's orders.
"""

from __future__ import annotations

import asyncio
import shutil

from pyroute2.netlink.exceptions import NetlinkError

from agent.daemon.lock import only_agent
from agent.daemon.start import remove_from_kernel
from agent.errors import AgentError
from agent.netlink.batch import addresses
from agent.netlink.connection import LOOPBACK, Netlink
from agent.netlink.setting_record import restore
from agent.netlink.vip import remove_vips
from agent.node import saved_state
from agent.paths import Paths


def uninstall(paths: Paths) -> list[str]:
    """Remove VIPs from lo, programs, maps and rules, and set the kernel's settings back; return a text for each.

    The VIPs come first: without the programs the kernel would answer packets for connections of other nodes with a
    reset. Raises AgentError or BpfError: an agent runs, or the kernel refuses.
    """
    with only_agent(paths.lock):
        try:
            removed = asyncio.run(_remove_vips(paths))
            if remove_from_kernel(paths):
                removed.append("XDP programs, egress filters, maps, rules")
            removed += restore(paths.settings)
        except (NetlinkError, OSError) as error:
            raise AgentError(f"cannot remove what the agent left: {error}; run it as root") from None
        shutil.rmtree(paths.programs, ignore_errors=True)
        shutil.rmtree(paths.run, ignore_errors=True)
    return removed


async def _remove_vips(paths: Paths) -> list[str]:
    there = {address for index, address in addresses() if index == LOOPBACK}
    vips = sorted(there & saved_state.load(paths.state).vips, key=str)
    netlink = Netlink()
    try:
        await remove_vips(netlink, vips)
    finally:
        netlink.close()
    return [f"{vip} on lo" for vip in vips]
