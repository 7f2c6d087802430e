# SPDX-License-Identifier: Apache-2.0
"""A reload: what takes long or may fail comes before the current agent ends."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, cast

import pytest

from agent.config.file import Loaded, parse
from agent.config.schema import Config
from agent.daemon import lifecycle as module
from agent.daemon.lifecycle import Lifecycle
from agent.errors import AgentError
from bpf.attach.datapath import DataPath
from bpf.errors import BpfError

TEXT = """\
cluster: 7
node: {interface: eth0}
services:
  - {name: web, vip: 192.0.2.10, protocol: tcp, port: 443}
bgp: {local_as: 65001, identity_prefix: 10.254.0.0/16, peers: [{address: 10.0.0.1, as: 65000}]}
members: {allow: [10.0.0.0/24]}
xdp: {mode: MODE}
"""


class Opened:
    """A data path that is open."""

    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        self.closed = True


class Daemon:
    """A lifecycle whose data paths the test opens."""

    def __init__(self, mode: str = "auto") -> None:
        self.mode = mode
        self.opening: list[Future[DataPath]] = []
        self.first = self.load()
        self.lifecycle = Lifecycle(self.first, self.open)

    def load(self) -> Loaded:
        text = TEXT.replace("MODE", self.mode)
        return Loaded(Path("lb.yml"), text, parse(text, "lb.yml"))

    async def replace(self) -> int:
        """Change to the configuration, which is the same."""
        return await self.lifecycle.replace(self.load())

    def open(self, config: Config) -> Future[DataPath] | None:
        assert config.xdp.mode != "off", "an agent still uses the data path"
        self.opening.append(Future())
        return self.opening[-1]

    async def opens(self, count: int) -> Future[DataPath]:
        """Wait until so many data paths are being opened; return the last one."""
        while len(self.opening) < count:
            await asyncio.sleep(0)
        return self.opening[-1]


@pytest.fixture(autouse=True)
def interface_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    async def own_interface(_: Config) -> None:
        return

    monkeypatch.setattr(module, "own_interface", own_interface)


def run(scenario: Callable[[], Awaitable[Any]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_current_agent_runs_until_the_next_data_path_is_open() -> None:
    async def scenario() -> None:
        daemon, opened = Daemon(), Opened()
        reload = asyncio.create_task(daemon.replace())
        opening = await daemon.opens(1)
        for _ in range(50):
            await asyncio.sleep(0)
        assert not daemon.lifecycle.ending.done(), "it would be silent for as long as the program compiles"
        opening.set_result(cast(DataPath, opened))
        assert await reload == 1
        assert daemon.lifecycle.ending.result() is False, "the next agent goes on; nothing is withdrawn"
        assert daemon.lifecycle.advance().datapath is cast(DataPath, opened)

    run(scenario)


def test_data_path_that_does_not_open_refuses_the_reload() -> None:
    async def scenario() -> None:
        daemon = Daemon()
        reload = asyncio.create_task(daemon.replace())
        (await daemon.opens(1)).set_exception(BpfError("the XDP program does not compile"))
        with pytest.raises(AgentError, match="does not compile"):
            await reload
        assert not daemon.lifecycle.ending.done()
        assert daemon.lifecycle.next is None

    run(scenario)


def test_of_two_reloads_the_last_one_counts_and_nothing_stays_open() -> None:
    async def scenario() -> None:
        daemon, first, second = Daemon(), Opened(), Opened()
        reloads = [asyncio.create_task(daemon.replace()) for _ in range(2)]
        (await daemon.opens(1)).set_result(cast(DataPath, first))
        (await daemon.opens(2)).set_result(cast(DataPath, second))
        await asyncio.gather(*reloads)
        assert (first.closed, second.closed) == (True, False)
        assert daemon.lifecycle.advance().datapath is cast(DataPath, second)
        assert not second.closed

    run(scenario)


def test_without_a_data_path_nothing_is_opened_beside_the_current_agent() -> None:
    async def scenario() -> None:
        daemon = Daemon(mode='"off"')
        await daemon.replace()
        assert daemon.opening == []
        assert daemon.lifecycle.advance().datapath is None

    run(scenario)


def test_stop_after_a_reload_reaches_the_next_agent() -> None:
    """The current one ended without withdrawing: the next one must."""

    async def scenario() -> None:
        daemon, opened = Daemon(), Opened()
        reload = asyncio.create_task(daemon.replace())
        (await daemon.opens(1)).set_result(cast(DataPath, opened))
        await reload
        daemon.lifecycle.stop()
        assert daemon.lifecycle.ending.result() is False
        daemon.lifecycle.advance()
        assert daemon.lifecycle.ending.result() is True

    run(scenario)
