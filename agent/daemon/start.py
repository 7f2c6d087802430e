# SPDX-License-Identifier: Apache-2.0
"""The agent's start: a thread opens the data path, and compiles it if need be, while the rest is still being imported.

The child that compiles takes as long as this process's imports: one after the other they would take twice as long on
two cores.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from agent.change import history_file
from agent.config.epoch import supported_epochs
from agent.config.file import Loaded
from agent.config.schema import Config
from agent.daemon.lock import only_agent
from agent.daemon.runtime import tune
from agent.errors import AgentError
from agent.netlink.setting_record import keep_record
from agent.paths import Paths

if TYPE_CHECKING:
    from bpf.attach.datapath import DataPath

log = logging.getLogger("anylb")


def start(load: Callable[[str | None], Loaded], lb_yml: Path, paths: Paths) -> None:
    """Run the agent of this node until SIGTERM or SIGINT. Raises AgentError, BpfError or BgpError when it cannot.

    `load` checks a text of lb.yml, or reads that file, now and at each reload.
    """
    tune()
    keep_record(paths.settings)
    with only_agent(paths.lock), ThreadPoolExecutor(1) as opener:
        loaded = _first_configuration(load, lb_yml, paths)

        def open_datapath(config: Config) -> Future[DataPath] | None:
            mode = config.xdp.mode
            if mode != "off":
                return opener.submit(_open, config, paths, mode)
            # In the thread too: at a reload this one runs an event loop, and pyroute2 needs its own for netlink.
            if opener.submit(_remove_datapath, paths).result():
                log.info("removed the XDP program of an earlier run: xdp.mode is off")
            return None

        opening = open_datapath(loaded.config)
        from agent.daemon.process import run

        asyncio.run(run(loaded, paths, opening, load, open_datapath))


def _first_configuration(load: Callable[[str | None], Loaded], lb_yml: Path, paths: Paths) -> Loaded:
    """Return lb.yml, after a change whose time ended while no agent ran, or that none can run, was taken out of it."""
    history_file.restore_if_due(lb_yml, paths.history, time.time())
    try:
        return load(None)
    except AgentError:
        if not history_file.restore_if_due(lb_yml, paths.history, time.time(), is_refused=True):
            raise
        return load(None)


def detach(paths: Paths) -> bool:
    """Remove programs, maps and attachments from this node; True if there were any. AgentError while an agent runs."""
    with only_agent(paths.lock):
        return remove_from_kernel(paths)


def remove_from_kernel(paths: Paths) -> bool:
    """Remove programs, maps, attachments and rules; True if there were any. The caller has the lock."""
    from agent.instances.group import release_groups
    from agent.netlink.drop_rule import set_rules
    from bpf.attach.steering import remove_steering

    rules = asyncio.run(set_rules(()))
    released = release_groups(paths.instance_pins) | remove_steering(paths.steering_pins)
    return _remove_datapath(paths) or released or bool(rules)


def _remove_datapath(paths: Paths) -> bool:
    from bpf.attach.datapath import detach_all

    return detach_all(paths.pins)


def _open(config: Config, paths: Paths, mode: Literal["auto", "native", "generic"]) -> DataPath:
    from agent.node import saved_state
    from bpf.attach.datapath import DataPath
    from bpf.layout.map_spec import NatShape

    # The program leaves out what nothing here needs. A VIP that has left the file is still needed for a while, and
    # other nodes may send to any address inside members.allow, whatever this node's own configuration is.
    vips = saved_state.load(paths.state).vips.union(config.vips)
    ipv6 = any(one.version == 6 for one in (*config.members.allow, *vips))
    return DataPath.open(
        paths.pins,
        config.node.names,
        mode,
        max(one.rows for one in supported_epochs(config)),
        ipv6=ipv6,
        cache_dir=paths.programs,
        nat=NatShape(config.session_slots, config.nat.pool6 is not None) if config.nat else None,
    )
