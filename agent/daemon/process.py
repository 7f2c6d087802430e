# SPDX-License-Identifier: Apache-2.0
"""The agent's process after its start: signals, the control socket, one agent after the other as lb.yml changes.

A reload is a restart inside the process: the next agent takes over from the state file and the kernel's maps what the
last one left, as it would after a kill, so there is one start procedure and not two. In between neither routes nor the
data path change. The work of the node is node/agent.py's; when an agent ends, and what the next one gets, is
lifecycle.py's.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

from agent.config.file import Loaded
from agent.config.schema import Config
from agent.control import server as control
from agent.daemon.changes import Changes
from agent.daemon.clock_watch import watch_clock
from agent.daemon.event_log import latest
from agent.daemon.lifecycle import Lifecycle
from agent.daemon.runtime import freeze_heap
from agent.errors import AgentError
from agent.node.agent import Agent
from agent.node.own_interface import own_interface
from agent.paths import Paths
from bgp.errors import BgpError
from bpf.attach.datapath import DataPath
from bpf.errors import BpfError

log = logging.getLogger("anylb")


async def run(
    loaded: Loaded,
    paths: Paths,
    opening: Future[DataPath] | None,
    load: Callable[[str | None], Loaded],
    open_again: Callable[[Config], Future[DataPath] | None],
) -> None:
    """Run the agent of this node until SIGTERM or SIGINT. Raises AgentError, BpfError or BgpError when it cannot.

    `opening` is the data path that start.py opens meanwhile; None without one. `open_again` opens it after a reload.
    `load` checks a text of lb.yml, or reads the file.
    """
    loop = asyncio.get_running_loop()
    lifecycle = Lifecycle(loaded, open_again)
    changes = Changes(lifecycle, load, paths.history)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lifecycle.stop)
    reloads: set[asyncio.Task[None]] = set()
    loop.add_signal_handler(signal.SIGHUP, lambda: reloads.add(loop.create_task(changes.reload_by_signal())))
    watching = [loop.create_task(one) for one in changes.tasks()]
    try:
        await _run_agents(lifecycle, changes, paths, opening)
    finally:
        changes.stop()
        for task in (*watching, *reloads):
            task.cancel()
        await asyncio.gather(*watching, *reloads, return_exceptions=True)


async def _run_agents(lifecycle: Lifecycle, changes: Changes, paths: Paths, opening: Future[DataPath] | None) -> None:
    """Run one agent after the other, until one ends and none follows."""
    previous: Loaded | None = None
    datapath: DataPath | None = None
    while True:
        loaded = lifecycle.current
        try:
            try:
                interface = await own_interface(loaded.config)
                for warning in interface.warnings:
                    log.warning("%s", warning)
                if opening is not None:
                    datapath, opening = await asyncio.wrap_future(opening), None
                agent = Agent(loaded.config, paths, interface, datapath, changes.problems)
                await agent.vips.put_first()
            except (AgentError, BpfError) as error:
                if previous is None:
                    raise
                log.error("the new configuration cannot run, returning to the previous one: %s", error)
                changes.cannot_run(loaded, str(error))
                lifecycle.current, previous = previous, None
                opening = lifecycle.reopen()
                continue
            changes.started(agent)
            loop = asyncio.get_running_loop()
            beside = lifecycle.report.follow(agent), watch_clock()
            running = [loop.create_task(one) for one in beside]
            freeze_heap()  # now that nothing has the last agent any more
            try:
                async with control.serve(agent, changes, partial(latest, agent.paths.events, control.EVENTS)):
                    await agent.run(lifecycle.ending)
            finally:
                for task in running:
                    task.cancel()
        except* (AgentError, BpfError, BgpError) as group:
            raise _first(group) from None
        finally:
            if datapath is not None:
                datapath.close()
                datapath = None
        if lifecycle.next is None or lifecycle.ending.result():  # it has withdrawn, and no other follows
            lifecycle.discard()
            return
        previous, following = loaded, lifecycle.advance()
        datapath = following.datapath
        log.info("applying the changed configuration")
        opening = lifecycle.reopen() if datapath is None else None


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first real error of a nested group."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
