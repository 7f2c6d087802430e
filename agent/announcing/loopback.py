# SPDX-License-Identifier: Apache-2.0
"""The VIPs on lo: kept while they are configured, removed when routers no longer send their packets here. I/O only."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable, Collection, Mapping, Sequence

from pyroute2.netlink.exceptions import NetlinkError

from agent.address import Address, Network
from agent.errors import AgentError
from agent.netlink.connection import Netlink
from agent.netlink.interface_setting import SettingWatch
from agent.netlink.monitor import Group, NetlinkMonitor
from agent.netlink.vip import put_vips, remove_vips
from agent.problem import Problem, ProblemLine

log = logging.getLogger("anylb")

KEEP_S = 5.0
"""The interval between two checks of the VIPs on lo and of the interfaces without an event."""
CONTEST_S = 0.1
"""The pause after a repair: something else may insist on removing the VIPs."""
CONVERGE_S = 3.0
"""How long routers get to act on a withdrawal that no adj-rib-out holds any more: a busy one needs more than 1 s."""
CHECK_S = 0.1

NOT_PUT_BACK = Problem(
    "what VIPs need cannot be put back: {error}",
    "remove what changes lo or the interface's settings; the agent tries again",
    "A VIP on lo, a reverse path filter or an ARP setting was changed by another program (NetworkManager, sysctl).",
)


class VipKeeper:
    """Puts back what something removes: VIPs on lo, without which their packets would be refused or sent away, and the
    settings that keep them off the segment. The kernel reports each removal; the interval is for one that it dropped.
    """

    def __init__(
        self,
        netlink: Netlink,
        vips: Collection[Address],
        interfaces: Sequence[str],
        loose: bool = True,
        dropped: Collection[Network] = (),
    ) -> None:
        """`loose`: also make strict reverse path filters of the interfaces loose. `dropped`: the prefixes for which
        nothing that arrives is the kernel's."""
        self.fault: ProblemLine | None = None
        """Why they could not be put back; None if they could."""
        self._netlink, self._vips, self._interfaces, self._loose = netlink, vips, interfaces, loose
        self._dropped: Collection[Network] | None = dropped
        """None once there is nothing to drop, and no rule of an earlier agent is left."""
        self._changed = asyncio.Event()

    async def put(self) -> list[str]:
        """Put there what is missing; return a text for each thing that was changed. Raises AgentError, NetlinkError,
        OSError."""
        changed = await put_vips(self._netlink, self._vips, self._interfaces, self._loose, self._dropped)
        self._dropped = self._dropped or None
        return changed

    async def run(self, indexes: Mapping[str, int], on_change: Callable[[], None]) -> None:
        """Keep forever; call `on_change` when `fault` differs.

        `indexes` are the interfaces that the agent uses, by name. Raises AgentError when one of them was created again.
        """
        wake = self._changed.set
        with (
            NetlinkMonitor(lambda _: wake(), Group.LINKS | Group.ADDRESSES | Group.SETTINGS) as monitor,
            SettingWatch(self._interfaces, wake) as settings,
        ):
            monitor.listen()
            settings.listen()
            wake()
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(KEEP_S):
                        await self._changed.wait()
                self._changed.clear()
                try:
                    if changed := await self.put():
                        log.warning("something changed what VIPs need; again: %s", ", ".join(changed))
                    new = [name for name, index in indexes.items() if socket.if_nametoindex(name) != index]
                except (AgentError, NetlinkError, OSError) as error:
                    fault = NOT_PUT_BACK.line(error=error)
                    if fault != self.fault:
                        log.warning("%s", fault)
                        self.fault = fault
                        on_change()
                    continue
                if new:
                    raise AgentError(f"{', '.join(new)} was created again; restart the agent to use it")
                if self.fault is not None:
                    self.fault = None
                    on_change()
                if changed:
                    await asyncio.sleep(CONTEST_S)


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
