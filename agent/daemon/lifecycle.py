# SPDX-License-Identifier: Apache-2.0
"""The agent's process after its start: signals, the control socket, one agent after the other as lb.yml changes.

A reload is a restart inside the process: the next agent takes over from the state file and the kernel's maps what the
last one left, as it would after a kill, so there is one start procedure and not two. In between neither routes nor the
data path change. What takes long, or may fail, comes before the current agent ends: reading the file, and opening the
data path, which may compile a program for many seconds on a busy machine, while the relay waits 10 s for heartbeats.
The work of the node is node/agent.py's.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from agent.config.schema import Config
from agent.control import server as control
from agent.daemon.runtime import freeze_heap
from agent.daemon.service_report import ServiceReport
from agent.errors import AgentError
from agent.node.agent import Agent
from agent.node.own_interface import own_interface
from agent.paths import Paths
from bgp.errors import BgpError
from bpf.attach.datapath import DataPath
from bpf.errors import BpfError

log = logging.getLogger("anylb")


@dataclass(frozen=True, slots=True)
class Next:
    """What an agent begins with. `datapath` None: it is not open yet, or the configuration has none."""

    config: Config
    datapath: DataPath | None


class Lifecycle:
    """When the current agent ends, and which configuration the next one gets."""

    def __init__(self, load: Callable[[], Config], open_datapath: Callable[[Config], Future[DataPath] | None]) -> None:
        """`load` reads the configuration. `open_datapath` opens its data path in a thread; with `xdp.mode: off` it
        removes the one that is there, and returns None."""
        self.generation = 0
        """How often the configuration was reloaded."""
        self.refused: str | None = None
        """Why the last reload was refused; None if it was not."""
        self.stopping = False
        self.next: Next | None = None
        self.refusal: Callable[[Config], str | None] = lambda _: None
        """Why the current agent would lose too much if another configuration replaced its own."""
        self.report = ServiceReport()
        self._load, self._open_datapath = load, open_datapath
        self._reloading = asyncio.Lock()
        self.ending: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        """Done when the current agent must end; its result: whether to withdraw, because no other follows."""

    def stop(self) -> None:
        """End for good."""
        self.stopping = True
        self.report.stopping()
        if not self.ending.done():
            self.ending.set_result(True)

    async def reload(self, force: bool = False) -> int:
        """Read the configuration again; return its generation. AgentError: it is refused, nothing changes.

        With `force` it is not refused for what is lost.
        """
        async with self._reloading:
            try:
                config = await asyncio.to_thread(self._load)
                if not force and (why := self.refusal(config)):
                    raise AgentError(why)
                await own_interface(config)  # the file alone does not show whether the interfaces exist
                datapath = await self._open_beside(config)
            except (AgentError, BpfError) as error:
                self.refused = str(error)
                raise AgentError(str(error)) from None
            self.discard()
            self.next = Next(config, datapath)
            if not self.ending.done():
                self.ending.set_result(False)
            return self.generation + 1

    async def _open_beside(self, config: Config) -> DataPath | None:
        """Open the next agent's data path while the current agent runs: until it is attached nothing changes for
        packets. None with `xdp.mode: off`: the current agent still needs the data path that will be removed."""
        if config.xdp.mode == "off" or (opening := self._open_datapath(config)) is None:
            return None
        return await asyncio.wrap_future(opening)

    def discard(self) -> None:
        """Close what was opened for an agent that will not run."""
        if self.next is not None and self.next.datapath is not None:
            self.next.datapath.close()
        self.next = None

    async def reload_by_signal(self) -> None:
        """Reload, and log why it was refused: a signal has no answer."""
        try:
            await self.reload()
        except AgentError as error:
            for line in str(error).splitlines():
                log.error("not reloaded: %s", line)

    def advance(self) -> Next:
        """Return what the next agent begins with, when the current one has ended for a reload."""
        assert self.next is not None
        following, self.next, self.refused = self.next, None, None
        self.report.reloading()
        self.ending = asyncio.get_running_loop().create_future()
        self.generation += 1
        if self.stopping:  # requested meanwhile
            self.stop()
        return following


async def run(
    config: Config,
    paths: Paths,
    opening: Future[DataPath] | None,
    load: Callable[[], Config],
    open_again: Callable[[Config], Future[DataPath] | None],
) -> None:
    """Run the agent of this node until SIGTERM or SIGINT. Raises AgentError, BpfError or BgpError when it cannot.

    `opening` is the data path that start.py opens meanwhile; None without one. `open_again` opens it after a reload.
    """
    loop = asyncio.get_running_loop()
    lifecycle = Lifecycle(load, open_again)
    reloads: set[asyncio.Task[None]] = set()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lifecycle.stop)
    loop.add_signal_handler(signal.SIGHUP, lambda: reloads.add(loop.create_task(lifecycle.reload_by_signal())))
    previous: Config | None = None
    datapath: DataPath | None = None
    while True:
        try:
            try:
                interface = await own_interface(config)
                for warning in interface.warnings:
                    log.warning("%s", warning)
                if opening is not None:
                    datapath, opening = await asyncio.wrap_future(opening), None
                agent = Agent(config, paths, interface, datapath)
                await agent.vips.put_first()
            except (AgentError, BpfError) as error:
                if previous is None:
                    raise
                log.error("the new configuration cannot run, returning to the previous one: %s", error)
                lifecycle.refused, config, previous = str(error), previous, None
                opening = open_again(config)
                continue
            freeze_heap()
            agent.generation, agent.refused = lifecycle.generation, lifecycle.refused
            lifecycle.refusal = agent.nat.refusal
            reporting = loop.create_task(lifecycle.report.follow(agent, lambda: lifecycle.refused))
            try:
                async with control.serve(agent, lifecycle.reload):
                    # What is lost is lost already.
                    await agent.run(lifecycle.ending, lambda: lifecycle.reload(force=True))
            finally:
                reporting.cancel()
        except* (AgentError, BpfError, BgpError) as group:
            raise _first(group) from None
        finally:
            if datapath is not None:
                datapath.close()
                datapath = None
        if lifecycle.next is None or lifecycle.ending.result():  # it has withdrawn, and no other follows
            lifecycle.discard()
            return
        previous, following = config, lifecycle.advance()
        config, datapath = following.config, following.datapath
        log.info("applying the changed configuration")
        opening = open_again(config) if datapath is None else None


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first real error of a nested group."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
