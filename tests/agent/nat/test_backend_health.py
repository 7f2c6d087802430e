# SPDX-License-Identifier: Apache-2.0
"""The health of backends on one node: its own checks beside what other nodes publish."""

import asyncio
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address

import pytest
from support.nat_config import TEXT, nat_config

from agent.health.probe import Probe
from agent.health.rise_fall import Health
from agent.nat import backend_health
from agent.nat.backend import BackendKey, backends_of
from agent.nat.backend_health import BackendHealth

FAST = "health: {type: tcp, interval_s: 0.1, timeout_s: 0.1, rise: 2, fall: 2}"
CONFIG = nat_config(TEXT.replace("mode: nat\n", f"mode: nat\n    {FAST}\n", 1))
OWN = IPv4Address("10.0.0.11")
A, B = (key for key in backends_of(CONFIG) if key.service == CONFIG.services[0].key)


class World:
    """Backends that answer or not, and the health that one node believes of them."""

    def __init__(self, healthy: tuple[BackendKey, ...] = ()) -> None:
        self.answers = {A.address: True, B.address: True}
        self.asked: list[IPv4Address] = []
        self.changes = 0
        self.health = BackendHealth(CONFIG, {4: OWN}, healthy, self._count)

    def _count(self) -> None:
        self.changes += 1

    def probe_of(self, target: tuple[IPv4Address, int], check: object, source: IPv4Address) -> Probe:
        assert source == OWN

        async def probe() -> tuple[bool, str]:
            self.asked.append(target[0])
            return self.answers.get(target[0], True), "as the test says"

        return probe

    def votes(self, key: BackendKey, *votes: bool, assigned: tuple[BackendKey, ...] = (), now: float = 0.0) -> None:
        every = dict.fromkeys(self.health.numbers.values(), (True,))
        self.health.follow({one.number for one in assigned}, every | {key.number: votes}, now)

    async def until(self, reached: Callable[[], object]) -> None:
        async with asyncio.timeout(20):
            while not reached():
                await asyncio.sleep(0.005)

    def of(self, key: BackendKey) -> Health:
        return self.health.health[key]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[[World, Callable[[World], Awaitable[None]]], None]:
    def run(world: World, scenario: Callable[[World], Awaitable[None]]) -> None:
        monkeypatch.setattr(backend_health, "probe_of", world.probe_of)

        async def running() -> None:
            task = asyncio.create_task(world.health.run())
            try:
                await scenario(world)
            finally:
                task.cancel()

        asyncio.run(running())

    return run


Run = Callable[[World, Callable[[World], Awaitable[None]]], None]


def test_backend_that_others_check_is_not_asked(run: Run) -> None:
    async def scenario(world: World) -> None:
        world.votes(B, True, assigned=(A,))
        assert (world.of(A).healthy, world.of(B).healthy) == (True, True), (
            "as the others publish, until it checks itself"
        )
        await world.until(lambda: len(world.asked) > 3)
        assert set(world.asked) == {A.address}
        assert world.health.results() == {A.number: True}
        assert world.health.checks_itself(A)
        assert not world.health.checks_itself(B)

    run(World(), scenario)


@pytest.mark.slow
def test_backend_that_one_node_does_not_reach_is_up_where_it_answers(run: Run) -> None:
    async def scenario(world: World) -> None:
        world.votes(B, True, True)
        world.votes(B, True, False)
        assert world.of(B).healthy
        await world.until(lambda: world.asked.count(B.address) > 3)
        assert world.of(B).healthy
        assert world.health.results() == {}, "only assigned nodes publish"
        world.answers[B.address] = False
        await world.until(lambda: not world.of(B).healthy)
        world.votes(B, True, True)
        assert world.of(B).healthy, "all others reach it again"
        count = len(world.asked)
        await asyncio.sleep(0.3)
        assert len(world.asked) == count

    run(World(), scenario)


def test_backend_that_most_nodes_call_down_is_down_at_once_and_up_by_its_own_check(run: Run) -> None:
    async def scenario(world: World) -> None:
        world.votes(B, True, True)
        world.votes(B, False, False, True)
        assert not world.of(B).healthy
        await world.until(lambda: world.of(B).healthy)

    run(World(), scenario)


@pytest.mark.slow
def test_node_without_others_checks_all(run: Run) -> None:
    async def scenario(world: World) -> None:
        world.answers[A.address] = False
        world.health.follow(set(world.health.numbers.values()), {}, 0.0)
        await world.until(lambda: len(world.health.results()) == 4)
        assert world.health.results() == {number: key != A for key, number in world.health.numbers.items()} | {
            key.number: False for key in world.health.numbers if key.address == A.address
        }
        before = world.changes
        world.answers[A.address] = True
        await world.until(lambda: world.of(A).healthy)
        assert world.changes > before

    run(World(), scenario)


def test_result_is_published_only_once_it_is_known(run: Run) -> None:
    async def scenario(world: World) -> None:
        world.votes(A, assigned=(A,))
        assert world.health.results() == {}
        await world.until(world.health.results)
        assert world.health.results() == {A.number: True}

    run(World((A,)), scenario)


def test_healthy_backends_stay_so_when_an_agent_follows() -> None:
    assert World((A,)).of(A).healthy
    assert not World((A,)).of(B).healthy
