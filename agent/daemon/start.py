# SPDX-License-Identifier: Apache-2.0
"""The agent's start: the data path is opened, and compiled if need be, while the rest is still being imported.

Compiling takes a child as long as the imports take this process: in turn they would be twice as long on two cores.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Literal

from agent.config.epoch import supported_epochs
from agent.config.schema import Config
from agent.daemon.process import Paths, only_one, prepare, spare_memory

if TYPE_CHECKING:
    from bpf.attach.datapath import DataPath

log = logging.getLogger("anylb")


def start(load: Callable[[], Config], paths: Paths) -> None:
    """Be the agent of this node until SIGTERM or SIGINT. Raises AgentError, BpfError or BgpError when it cannot.

    `load` reads the configuration, now and at each reload.
    """
    config = load()
    spare_memory()
    prepare(paths.run)
    with only_one(paths.lock), ThreadPoolExecutor(1) as early:

        def opening(config: Config) -> Future[DataPath] | None:
            mode = config.xdp.mode
            if mode != "off":
                return early.submit(_open, config, paths, mode)
            # In the thread even so: at a reload this one runs an event loop, and netlink by pyroute2 wants its own.
            if early.submit(_take_away, paths).result():
                log.info("took the XDP program of an earlier run away: xdp.mode is off")
            return None

        first = opening(config)
        from agent.daemon.lifecycle import run

        asyncio.run(run(config, paths, first, load, opening))


def detach(paths: Paths) -> bool:
    """Take programs, maps and attachments off this node; whether there were any. AgentError while an agent runs."""
    prepare(paths.run)
    with only_one(paths.lock):
        return _take_away(paths)


def _take_away(paths: Paths) -> bool:
    from bpf.attach.datapath import take_away

    return take_away(paths.pins)


def _open(config: Config, paths: Paths, mode: Literal["auto", "native", "generic"]) -> DataPath:
    from agent.node import saved_state
    from bpf.attach.datapath import DataPath

    # What nothing here needs is left out of the program. A VIP that has left the file is still needed for a while, and
    # other nodes may send to any address inside members.allow, whatever this one does.
    vips = saved_state.load(paths.state).vips.union(config.vips)
    ipv6 = any(one.version == 6 for one in (*config.members.allow, *vips))
    return DataPath.open(
        paths.pins,
        config.node.names,
        mode,
        max(one.rows for one in supported_epochs(config)),
        ipv6=ipv6,
        kept=paths.programs,
    )
