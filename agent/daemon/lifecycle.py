# SPDX-License-Identifier: Apache-2.0
"""When an agent ends, and which configuration and data path the next one in this process gets.

What takes long, or may fail, comes before the current agent ends: opening the data path, which may compile a program
for many seconds on a busy machine, while the relay waits 10 s for heartbeats. process.py runs the agents; changes.py
decides which configuration runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from agent.config.file import Loaded
from agent.config.schema import Config
from agent.daemon.systemd_notify import SystemdNotifier
from agent.errors import AgentError
from agent.node.own_interface import own_interface
from bpf.attach.datapath import DataPath
from bpf.errors import BpfError


@dataclass(frozen=True, slots=True)
class Next:
    """What an agent begins with. `datapath` None: it is not open yet, or the configuration has none."""

    loaded: Loaded
    datapath: DataPath | None


class Lifecycle:
    """When the current agent ends, and which configuration the next one gets."""

    def __init__(self, current: Loaded, open_datapath: Callable[[Config], Future[DataPath] | None]) -> None:
        """`open_datapath` opens a configuration's data path in a thread; with `xdp.mode: off` it removes the one that
        is there, and returns None."""
        self.current = current
        """The configuration in force."""
        self.generation = 0
        """How often the configuration was replaced."""
        self.stopping = False
        self.next: Next | None = None
        self.report = SystemdNotifier()
        self._open_datapath = open_datapath
        self._replacing = asyncio.Lock()
        self.ending: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        """Done when the current agent must end; its result: whether to withdraw, because no other follows."""

    def stop(self) -> None:
        """End for good."""
        self.stopping = True
        self.report.stopping()
        if not self.ending.done():
            self.ending.set_result(True)

    async def replace(self, loaded: Loaded) -> int:
        """Have the next agent run a configuration; return its generation. AgentError: it cannot, nothing changes."""
        async with self._replacing:
            try:
                await own_interface(loaded.config)  # the file alone does not show whether the interfaces exist
                datapath = await self._open_beside(loaded.config)
            except BpfError as error:
                raise AgentError(str(error)) from None
            self.discard()
            self.next = Next(loaded, datapath)
            if not self.ending.done():
                self.ending.set_result(False)
            return self.generation + 1

    async def _open_beside(self, config: Config) -> DataPath | None:
        """Open the next agent's data path while the current agent runs: until it is attached nothing changes for
        packets. None with `xdp.mode: off`: the current agent still needs the data path that will be removed."""
        if config.xdp.mode == "off" or (opening := self._open_datapath(config)) is None:
            return None
        return await asyncio.wrap_future(opening)

    def reopen(self) -> Future[DataPath] | None:
        """Open the data path of the configuration in force, or remove the one that is there."""
        return self._open_datapath(self.current.config)

    def discard(self) -> None:
        """Close what was opened for an agent that will not run."""
        if self.next is not None and self.next.datapath is not None:
            self.next.datapath.close()
        self.next = None

    def advance(self) -> Next:
        """Return what the next agent begins with, when the current one has ended for it."""
        assert self.next is not None
        following, self.next = self.next, None
        self.report.reloading()
        self.ending = asyncio.get_running_loop().create_future()
        self.current = following.loaded
        self.generation += 1
        if self.stopping:  # requested meanwhile
            self.stop()
        return following
