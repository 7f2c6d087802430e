# SPDX-License-Identifier: Apache-2.0
"""Changes with a deadline: the files that a change leaves, what is refused, and what a dead agent left."""

import asyncio
import errno
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agent.change import history_file
from agent.change.history import History, awaiting, started
from agent.config.file import Loaded, load_text, read_text
from agent.daemon import changes as module
from agent.daemon.changes import Changes
from agent.daemon.lifecycle import Lifecycle
from agent.daemon.speaker import Speaker
from agent.errors import AgentError, HalfDoneError
from agent.node.agent import Agent

TEXT = """\
cluster: 7
node: {interface: eth0}
services:
  - {name: web, vip: 192.0.2.10, protocol: tcp, port: 443, weight: 100}
bgp: {local_as: 65001, identity_prefix: 10.254.0.0/16, peers: [{address: 10.0.0.1, as: 65000}]}
members: {allow: [10.0.0.0/24], key_file: cluster.key}
xdp: {mode: 'off'}
"""
CHANGED = TEXT.replace("weight: 100", "weight: 50")
AGAIN = TEXT.replace("weight: 100", "weight: 20")
BROKEN = TEXT.replace("cluster: 7", "cluster: 0")


class Daemon:
    """The changes of a node whose agents start at once."""

    def __init__(self, folder: Path) -> None:
        self.lb_yml, self.state = folder / "lb.yml", folder / "kept" / "config.json"
        self.rejected = folder / "lb.yml.rejected"
        self.lifecycle = Lifecycle(self.load(None), lambda _: None)
        self.sessions: str | None = None
        """What the agent says would be lost."""
        self.changes = Changes(self.lifecycle, self.load, self.state)
        self.start()

    def load(self, text: str | None) -> Loaded:
        return load_text(self.lb_yml, read_text(self.lb_yml) if text is None else text)

    def start(self) -> None:
        """Start the next agent, as the lifecycle does."""
        if self.lifecycle.next is not None:
            self.lifecycle.advance()
        nat = SimpleNamespace(refusal=lambda _: self.sessions)
        agent = SimpleNamespace(config=self.lifecycle.current.config, nat=nat, generation=0)
        self.changes.started(cast(Agent, agent))

    async def apply(self, text: str, timeout_s: float | None = None) -> None:
        self.lb_yml.write_text(text)
        await self.changes.apply(timeout_s)
        self.start()

    @property
    def running(self) -> str:
        return self.lifecycle.current.text


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    async def nothing(*_: object) -> None:
        return

    monkeypatch.setattr("agent.daemon.lifecycle.own_interface", nothing)
    monkeypatch.setattr(Speaker, "check", nothing)
    monkeypatch.setattr(Speaker, "follow", nothing)
    for name in ("WATCH_S", "DEADLINE_S", "RETRY_S"):
        monkeypatch.setattr(module, name, 0.002)
    (tmp_path / "lb.yml").write_text(TEXT)
    (tmp_path / "cluster.key").write_text("00" * 16)
    (tmp_path / "cluster.key").chmod(0o600)
    return tmp_path


def run(scenario: Callable[[], Awaitable[Any]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 30))


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def expire(daemon: Daemon) -> None:
    daemon.changes._deadline = time.monotonic() - 1


def test_change_returns_at_its_deadline_unless_confirmed(folder: Path) -> None:
    async def scenario() -> None:
        daemon = Daemon(folder)
        tasks = asyncio.gather(*daemon.changes.tasks())
        await daemon.apply(CHANGED, 300)
        assert daemon.running == CHANGED
        assert "a change waits for its confirmation: at " in daemon.changes.problems()[0]
        expire(daemon)
        await until(lambda: daemon.lifecycle.next is not None)
        daemon.start()
        assert (daemon.running, daemon.lb_yml.read_text(), daemon.rejected.read_text()) == (TEXT, TEXT, CHANGED)
        assert history_file.load(daemon.state) == History(TEXT)
        await until(lambda: not daemon.changes.problems())

        await daemon.apply(CHANGED, 300)
        daemon.changes.confirm()
        with pytest.raises(AgentError, match="no change waits"):
            daemon.changes.confirm()
        await asyncio.sleep(0.05)
        assert daemon.lifecycle.next is None
        assert history_file.load(daemon.state) == History(CHANGED, (TEXT,))
        tasks.cancel()

    run(scenario)


def test_another_change_is_refused_while_one_waits(folder: Path) -> None:
    async def scenario() -> None:
        daemon = Daemon(folder)
        await daemon.apply(CHANGED, 300)
        daemon.lb_yml.write_text(AGAIN)
        for timeout_s in (None, 10.0):
            with pytest.raises(AgentError, match=r"an earlier change waits .*lbctl config confirm"):
                await daemon.changes.apply(timeout_s)
        assert daemon.lifecycle.next is None
        assert history_file.load(daemon.state).pending is not None
        await daemon.changes.undo()
        daemon.start()
        assert (daemon.running, daemon.lb_yml.read_text()) == (TEXT, TEXT)
        assert daemon.rejected.read_text() == AGAIN, "what was edited meanwhile is kept"

    run(scenario)


def test_undo_goes_back_step_by_step(folder: Path) -> None:
    async def scenario() -> None:
        daemon = Daemon(folder)
        for text in (CHANGED, AGAIN):
            await daemon.apply(text)
        for text in (CHANGED, TEXT):
            await daemon.changes.undo()
            daemon.start()
            assert (daemon.running, daemon.lb_yml.read_text()) == (text, text)
        with pytest.raises(AgentError, match="nothing to go back to"):
            await daemon.changes.undo()

    run(scenario)


def test_refused_file_changes_nothing_and_is_a_problem_until_mended(folder: Path) -> None:
    async def scenario() -> None:
        daemon = Daemon(folder)
        tasks = asyncio.gather(*daemon.changes.tasks())
        daemon.lb_yml.write_text(BROKEN)
        with pytest.raises(AgentError, match=r"lb\.yml:1:10: cluster: 0 is not in"):
            await daemon.changes.apply(300)
        assert daemon.lifecycle.next is None
        assert history_file.load(daemon.state).pending is None, "nothing would return"
        assert "cluster: 0 is not in" in daemon.changes.problems()[0]
        assert daemon.changes.refused
        daemon.lb_yml.write_text(AGAIN)
        await until(lambda: "differs from what runs by 1 change" in str(daemon.changes.problems()))
        assert daemon.changes.refused is None
        daemon.lb_yml.write_text(TEXT + "# a comment\n")
        await until(lambda: not daemon.changes.problems())
        tasks.cancel()

    run(scenario)


def test_key_file_that_others_can_read_is_named_until_mended(folder: Path) -> None:
    async def scenario() -> None:
        daemon = Daemon(folder)
        tasks = asyncio.gather(*daemon.changes.tasks())
        (folder / "cluster.key").chmod(0o644)
        await until(lambda: "other users have access" in str(daemon.changes.problems()))
        with pytest.raises(AgentError, match="other users have access"):
            await daemon.changes.apply(None)
        (folder / "cluster.key").chmod(0o600)
        await until(lambda: not daemon.changes.problems())
        assert daemon.changes.refused is None
        (folder / "cluster.key").write_text("11" * 16)
        await until(lambda: "differs" in str(daemon.changes.problems()))
        tasks.cancel()

    run(scenario)


def test_configuration_that_cannot_run_waits_for_nothing(folder: Path) -> None:
    async def scenario() -> None:
        daemon = Daemon(folder)
        daemon.lb_yml.write_text(CHANGED)
        await daemon.changes.apply(300)
        previous, following = daemon.lifecycle.current, daemon.lifecycle.advance()
        daemon.changes.cannot_run(following.loaded, "the kernel refuses")
        daemon.lifecycle.current = previous
        daemon.start()
        assert daemon.changes.refused == "the kernel refuses"
        assert history_file.load(daemon.state) == History(TEXT)

    run(scenario)


def test_change_that_loses_too_much_is_refused_unless_forced(folder: Path) -> None:
    async def scenario() -> None:
        daemon = Daemon(folder)
        daemon.sessions = "12 sessions would end"
        daemon.lb_yml.write_text(CHANGED)
        with pytest.raises(AgentError, match="12 sessions"):
            await daemon.changes.apply(None)
        assert daemon.lifecycle.next is None
        assert "was refused, and the previous configuration runs: 12 sessions" in daemon.changes.problems()[0]
        await daemon.changes.apply(None, force=True)
        daemon.start()
        assert daemon.running == CHANGED

    run(scenario)


def test_full_disk_refuses_a_change_with_a_deadline(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        daemon = Daemon(folder)

        def full(*_: object, **__: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device", "config.json")

        with monkeypatch.context() as patch:
            patch.setattr("agent.private_file.write", full)
            daemon.lb_yml.write_text(CHANGED)
            with pytest.raises(AgentError, match=r"config\.json: No space left on device"):
                await daemon.changes.apply(300)
            assert daemon.lifecycle.next is None
            await daemon.apply(CHANGED)
            assert daemon.running == CHANGED, "without a deadline it is only a problem"
            assert "No space left" in str(daemon.changes.problems())

    run(scenario)


def test_full_disk_at_the_deadline_does_not_keep_the_change(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        daemon = Daemon(folder)
        await daemon.apply(CHANGED, 300)
        tasks = asyncio.gather(*daemon.changes.tasks())

        def full(*_: object, **__: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device", "lb.yml")

        with monkeypatch.context() as patch:
            patch.setattr(history_file, "_replace", full)
            expire(daemon)
            await until(lambda: daemon.lifecycle.next is not None)
            daemon.start()
            assert daemon.running == TEXT
            with pytest.raises(HalfDoneError, match=r"runs again, but is not in lb\.yml"):
                await daemon.changes.undo()
            await until(lambda: "is not in lb.yml: lb.yml: No space left" in str(daemon.changes.problems()))
            await asyncio.sleep(0.02)
            assert daemon.lifecycle.next is None, "it runs already: no agent is started for each attempt"
        await until(lambda: daemon.lb_yml.read_text() == TEXT)
        await until(lambda: history_file.load(daemon.state) == History(TEXT))
        tasks.cancel()

    run(scenario)


@pytest.mark.parametrize(
    ("late_s", "is_refused", "restored"), [(301, False, True), (299, False, False), (10, True, True)]
)
def test_what_a_dead_agent_left(folder: Path, late_s: float, is_refused: bool, restored: bool) -> None:
    lb_yml, state = folder / "lb.yml", folder / "kept" / "config.json"
    lb_yml.write_text(CHANGED)
    lb_yml.chmod(0o644)
    began = 1e9
    history_file.save(state, started(awaiting(History(TEXT), TEXT, began, 300), CHANGED))
    assert history_file.restore_if_due(lb_yml, state, began + late_s, is_refused=is_refused) is restored
    assert lb_yml.read_text() == (TEXT if restored else CHANGED)
    assert lb_yml.stat().st_mode & 0o777 == 0o644
    if restored:
        assert (folder / "lb.yml.rejected").read_text() == CHANGED
        assert not history_file.restore_if_due(lb_yml, state, began + late_s)
        history_file.restore(lb_yml, TEXT)  # as after a death between the file and the history
        assert (folder / "lb.yml.rejected").read_text() == CHANGED
