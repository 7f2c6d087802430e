# SPDX-License-Identifier: Apache-2.0
"""Configurations with instances (instance_servers.py), and their keeper in a thread, as the agent runs it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any

from support.instance_servers import PORT, VIP, VIP6
from support.programs import PROGRAMS

from agent.config.schema import Config
from agent.instances.keeper import InstanceKeeper, InstancePaths


def config(
    instances: Mapping[str, object] | None, health: Mapping[str, object] | None = None, protocol: str = "tcp"
) -> Config:
    """Return a configuration with a service of both families, on PORT."""
    return of_services(
        *(
            {"name": name, "vip": vip, "protocol": protocol, "port": PORT, "instances": instances}
            | ({"health": health} if health else {})
            for name, vip in (("web", VIP), ("web6", VIP6))
        )
    )


def of_services(*services: Mapping[str, object]) -> Config:
    """Return a configuration with these services."""
    return Config.model_validate(
        {
            "cluster": 1,
            "node": {"interface": "lo"},
            "services": list(services),
            "bgp": {
                "local_as": 1,
                "identity_prefix": "10.254.0.0/16",
                "peers": [{"address": "10.0.0.1", "as": 2}],
            },
            "members": {"allow": ["10.0.0.0/24"], "key": "none"},
        }
    )


def by_pidfile(
    folder: Path, health: Mapping[str, object] | None = None, protocol: str = "tcp", **settings: object
) -> Config:
    """Return the configuration of two instances, blue the primary, and more settings of them."""
    match = [{"pidfile": str(folder / f"{name}.pid")} for name in ("blue", "green")]
    return config({"match": match, **settings}, health, protocol)


class Running:
    """A keeper whose loop runs in a thread of this network namespace."""

    def __init__(self, make: Callable[[], InstanceKeeper]) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.keeper = asyncio.run_coroutine_threadsafe(_call(make), self._loop).result()
        self._task = asyncio.run_coroutine_threadsafe(self.keeper.run(), self._loop)

    def call(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Return the result of an operator's request."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    def states(self) -> dict[str, str]:
        """Return the state of each instance."""
        status = self.keeper.status("web")
        return {one["name"]: one["state"] for one in status["instances"]} if status else {}

    def end(self) -> None:
        """End it, as at the end of an agent: the choice stays."""
        self._task.cancel()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        # A canceled future does not wait for its task: the task's own end is run to here.
        if rest := asyncio.all_tasks(self._loop):
            self._loop.run_until_complete(asyncio.wait(rest, timeout=30))
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()


async def _call(make: Callable[[], InstanceKeeper]) -> InstanceKeeper:
    return make()


@contextlib.contextmanager
def running(settings: Config, bpffs: Path, run: Path) -> Iterator[Running]:
    """Run a keeper that has its pins in a folder of `bpffs` and its record in `run`."""
    paths = InstancePaths(
        bpffs / "instances", bpffs / "steering", run / "instances.json", run / "instances.sock", PROGRAMS
    )
    one = Running(lambda: InstanceKeeper(settings, paths, lambda: None))
    try:
        yield one
    finally:
        one.end()


def steered(folder: Path, steer: str, port: int | str = 443, *more: Mapping[str, object], **service: object) -> Config:
    """Return a configuration in which the IPv4 VIP's connections go to two instances elsewhere, blue the primary; and
    with more services."""
    match = [{"pidfile": str(folder / f"{name}.pid")} for name in ("blue", "green")]
    one = {"name": "web", "vip": VIP, "protocol": "tcp", "port": port, "instances": {"match": match, "steer": steer}}
    return of_services(one | service, *more)


def descriptors(pid: int | None = None) -> int:
    """Return how many descriptors a process has open, by default this one: without those that only garbage holds."""
    if pid is None:
        gc.collect()
    return len(os.listdir(f"/proc/{pid or os.getpid()}/fd"))
