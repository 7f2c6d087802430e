# SPDX-License-Identifier: Apache-2.0
"""The agent's process once it is up: signals, the control socket, the node. What the node does is node.py's."""

from __future__ import annotations

import asyncio
import signal
from concurrent.futures import Future

from agent import control
from agent.config import Config
from agent.errors import AgentError
from agent.netlink import own_interface
from agent.node import Agent
from agent.process import Paths
from bgp.errors import BgpError
from bpf.datapath import DataPath
from bpf.errors import BpfError


async def run(config: Config, paths: Paths, opening: Future[DataPath] | None) -> None:
    """Be the agent of this node until SIGTERM or SIGINT. Raises AgentError, BpfError or BgpError when it cannot.

    `opening` is the data path, which start.py opens meanwhile; None without one.
    """
    interface = await own_interface(config)
    datapath: DataPath | None = None
    if opening is not None:
        datapath = await asyncio.wrap_future(opening)
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


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first real error of a nested group."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
