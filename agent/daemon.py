# SPDX-License-Identifier: Apache-2.0
"""The agent's process: what it opens before it runs, and what it gives back after. What it does is node.py's."""

from __future__ import annotations

import asyncio
import logging
import signal

from agent import control
from agent.config import Config
from agent.errors import AgentError
from agent.netlink import own_interface
from agent.node import Agent, Paths
from agent.process import only_one, prepare, spare_memory
from bgp.errors import BgpError
from bpf.datapath import DataPath, take_away
from bpf.errors import BpfError

log = logging.getLogger("anylb")


async def run(config: Config, paths: Paths) -> None:
    """Be the agent of this node until SIGTERM or SIGINT. Raises AgentError, BpfError or BgpError when it cannot."""
    spare_memory()
    prepare(paths.run)
    with only_one(paths.lock):
        interface = await own_interface(config)
        datapath = None
        if config.xdp.mode != "off":
            datapath = DataPath.open(paths.pins, interface.name, config.xdp.mode, config.table.rows)
        elif take_away(paths.pins):
            log.info("took the XDP program of an earlier run away: xdp.mode is off")
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        try:
            agent = Agent(config, paths, interface, datapath)
            async with control.serve(agent):
                await agent.run(stop)
        except* (AgentError, BpfError, BgpError) as group:
            raise _first(group) from None
        finally:
            if datapath is not None:
                datapath.close()


def detach(paths: Paths) -> bool:
    """Take program, maps and attachment off this node; whether there were any. AgentError while an agent runs."""
    prepare(paths.run)
    with only_one(paths.lock):
        return take_away(paths.pins)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first real error of a nested group."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
