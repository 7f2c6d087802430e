# SPDX-License-Identifier: Apache-2.0
"""The loop over sessions: what it frees, what it reports, and what those get who watch."""

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import replace
from ipaddress import ip_network
from typing import Any, cast

import numpy as np
import pytest
from support.session_slots import SLOTS, Slots

from agent.sessions import keeper as keeper_module
from agent.sessions import watch as watch_module
from agent.sessions.cause import Cause
from agent.sessions.former import FormerSessions
from agent.sessions.keeper import CROWDED, PRESSURE, REFUSED_S, SessionKeeper
from agent.sessions.page import Names, decode
from agent.sessions.selection import USED, Selection
from agent.sessions.watch import SessionWatch, pages_of
from bpf.layout.nat import ticks
from bpf.layout.session import SessionState, Tag, TagFlag
from bpf.maps.ring_reader import RingReader
from bpf.maps.session_dtype import EVENT_DTYPE
from bpf.maps.session_map import now_tick

EVERY = Selection((*USED, SessionState.FREE))
NAMES = Names({3: "web"})


class Ring:
    """The program's end and the agent's of a ring buffer, and the flag that the program writes into it."""

    def __init__(self) -> None:
        self.watched: bool | None = None
        self.events: list[bytes] = []
        self.is_open = False

    def write(self, slot: int, before: int, after: int) -> None:
        if self.watched:
            self.events.append(np.array([(slot, 0, before, after)], EVENT_DTYPE).tobytes())

    def open(self) -> RingReader[bytes]:
        assert not self.is_open
        self.is_open = True
        return cast(RingReader[bytes], self)

    def read(self) -> list[bytes]:
        found, self.events = self.events, []
        return found

    def close(self) -> None:
        self.is_open = False

    def set_watched(self, on: bool) -> None:
        self.watched = on


class World:
    """A keeper, and what is around it."""

    def __init__(self, slots: int = SLOTS) -> None:
        self.slots, self.ring = Slots(slots), Ring()
        self.refused = self.changes = 0
        self.watch = SessionWatch(self.slots.table, self.ring.open, self.ring.set_watched)
        self.keeper = SessionKeeper(self.slots.table, self.watch, lambda: self.refused, {3: "web"}, self.change)

    def change(self) -> None:
        self.changes += 1

    def fill(self, share: float, state: SessionState = SessionState.EST) -> None:
        self.slots.map.tags[: round(SLOTS * share)] = state << 40 | 1 << 48 | now_tick()

    async def scanned(self) -> None:
        """Wait for the end of a scan that begins from now on."""
        for _ in range(2):
            before = self.keeper.scan
            await until(lambda before=before: self.keeper.scan is not before)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def running(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(keeper_module, "PERIOD_S", 0.01)
    monkeypatch.setattr(keeper_module, "MAX_LOAD", 100.0)
    monkeypatch.setattr(watch_module, "PERIOD_S", 0.01)
    world = World()
    task = asyncio.create_task(world.keeper.run())
    try:
        yield world
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert not world.ring.watched
        assert not world.ring.is_open


def test_expired_sessions_are_freed_and_counts_of_backends_repaired(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play() -> None:
        async with running(monkeypatch) as world:
            world.slots.put(5, idle=ticks(3601), now=now_tick())
            world.slots.put(6, idle=ticks(3000), now=now_tick())
            await until(lambda: Tag.unpack(int(world.slots.map.tags[5])).state is SessionState.FREE)
            await world.scanned()
            assert world.slots.map.tags[6]
            assert world.slots.loads[1].tolist() == [1, 2]
            summary = world.keeper.summary()
            assert (summary["slots"], summary["established"], summary["free"]) == (SLOTS, 1, SLOTS - 1)
            world.slots.loads[1, 0] = 7
            monkeypatch.setattr(keeper_module, "RECOUNT_S", 0)
            await until(lambda: world.slots.loads[1, 0] == 1)

    asyncio.run(play())


@pytest.mark.parametrize(("share", "kept"), [(PRESSURE - 0.02, True), (PRESSURE + 0.02, False)])
def test_half_open_sessions_end_sooner_when_half_of_the_slots_are_used(
    monkeypatch: pytest.MonkeyPatch, share: float, kept: bool
) -> None:
    async def play() -> None:
        async with running(monkeypatch) as world:
            world.slots.put(SLOTS - 1, SessionState.SYN, idle=ticks(10), now=now_tick())
            await world.scanned()
            world.fill(share)
            await world.scanned()
            await world.scanned()
            state = Tag.unpack(int(world.slots.map.tags[SLOTS - 1])).state
            assert (state is SessionState.SYN) == kept

    asyncio.run(play())


def test_a_crowded_table_and_refusals_are_problems_for_as_long_as_they_last(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play() -> None:
        async with running(monkeypatch) as world:
            world.fill(CROWDED - 0.01)
            await world.scanned()
            assert (world.keeper.problems(), world.changes) == ((), 0)
            world.fill(CROWDED + 0.01)
            await until(lambda: world.changes == 1)
            (line,) = world.keeper.problems()
            assert line.startswith("nat: more than 70% of the 65,536 session slots are used: end what is not")
            world.fill(CROWDED + 0.01, SessionState.SYN)
            await until(lambda: world.changes == 2)
            assert "half-open sessions, which may be a flood of SYNs: end" in world.keeper.problems()[0]
            world.slots.map.tags[:] = 0
            await until(lambda: world.changes == 3)
            assert world.keeper.problems() == ()
            world.refused = 1
            await until(lambda: world.changes == 4)
            (line,) = world.keeper.problems()
            assert "new connections are refused" in line
            await world.scanned()
            assert world.changes == 4
            monkeypatch.setattr(keeper_module, "REFUSED_S", 0)
            await until(lambda: world.changes == 5)
            assert world.keeper.problems() == ()

    assert REFUSED_S > 1
    asyncio.run(play())


def test_the_load_is_that_of_the_slots_that_new_sessions_may_get() -> None:
    """While `nat.sessions` changes there are more slots; those are of no use to new sessions."""
    world = World(2 * SLOTS)
    world.slots.conf = replace(world.slots.conf, sessions=SLOTS)
    world.fill(CROWDED + 0.01)
    world.slots.map.tags[SLOTS + 5] = world.slots.map.tags[0]
    world.keeper._round()
    (line,) = world.keeper.problems()
    assert line.startswith("nat: more than 70% of the 65,536 session slots are used: end what is not")
    summary = world.keeper.summary()
    used = round(SLOTS * (CROWDED + 0.01))
    assert (summary["slots"], summary["free"], summary["established"]) == (SLOTS, SLOTS - used, used + 1)
    world.slots.conf = replace(world.slots.conf, sessions=2 * SLOTS)
    world.keeper._round()
    assert world.keeper.problems() == ()


def test_refusals_before_the_agent_began_are_no_problem() -> None:
    world = World()
    world.refused = 9
    keeper = SessionKeeper(world.slots.table, world.watch, lambda: 9, {}, world.change)
    keeper._round()
    assert keeper.problems() == ()


def test_former_sessions_are_looked_for_in_a_thread_once_the_table_has_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look reads the records of all sessions. Before, those that are still to be copied would seem to have ended."""
    monkeypatch.setattr(keeper_module, "RETRY_S", 0.005)
    world, asked, looks = World(), [0], list[int]()

    def complete() -> bool:
        asked[0] += 1
        return asked[0] > 3

    class Looking(FormerSessions):
        def look(self, now: float) -> None:
            looks.append(threading.get_ident())
            super().look(now)

    world.slots.put(5, idle=ticks(3601), now=now_tick())
    former = Looking(world.slots.table, lambda: False, [ip_network("10.254.0.0/31")])

    async def play() -> None:
        keeper = SessionKeeper(world.slots.table, world.watch, lambda: 0, {}, world.change, former, complete)
        task = asyncio.create_task(keeper.run())
        await until(lambda: asked[0] >= 3)
        assert (looks, former.in_use, keeper.scan, world.changes) == ([], None, None, 0)
        assert world.slots.map.tags[5] >> np.uint64(32), "what has expired is freed only then, too"
        await until(lambda: world.changes == 1)
        assert former.in_use is False
        assert threading.get_ident() not in looks
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(play())


async def changes(world: World, selection: Selection, count: int) -> list[dict[str, Any]]:
    """Watch until there are so many changes."""
    seen: list[dict[str, Any]] = []
    async with asyncio.timeout(60), contextlib.aclosing(world.watch.pages(selection)) as pages:
        async for page in pages:
            seen += decode(json.loads(page), NAMES)
            if len(seen) >= count:
                break
    return seen


def test_watchers_get_changes_of_the_program_and_of_the_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play() -> None:
        async with running(monkeypatch) as world:
            await world.scanned()
            assert world.ring.watched is False
            world.ring.watched = True  # as one who was killed leaves it
            world.slots.put(7, SessionState.SYN, now=now_tick())
            world.ring.write(7, 0, 1)
            watchers = [asyncio.create_task(changes(world, EVERY, 3)) for _ in range(2)]
            only_free = asyncio.create_task(changes(world, Selection((SessionState.FREE,)), 1))
            await until(lambda: world.ring.is_open and not world.ring.events)
            syn = world.slots.put(7, SessionState.SYN, now=now_tick())
            world.ring.write(7, 0, syn)
            est = world.slots.put(7, SessionState.EST, 4000, TagFlag.SYNACK_SEEN, now=now_tick())
            world.ring.write(7, syn, est)  # the scan frees it next
            for seen in [await one for one in watchers]:
                assert sorted((one["before"], one["state"], one["cause"]) for one in seen) == [
                    ("established", "free", "expired"),
                    ("free", "half-open", "packet"),
                    ("half-open", "established", "packet"),
                ]
                assert {one["client"] for one in seen} == {"192.0.2.7:41000"}
            (freed,) = await only_free
            assert (freed["slot"], freed["state"]) == (7, "free")
            await until(lambda: not world.ring.is_open)
            assert world.ring.watched is False
            assert world.slots.table.on_change is None

    asyncio.run(play())


def test_a_slow_watcher_is_informed_of_what_it_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play() -> None:
        monkeypatch.setattr(watch_module, "QUEUE", 2)
        async with running(monkeypatch) as world:
            pages = world.watch.pages(EVERY)
            first = asyncio.create_task(anext(pages))
            await until(lambda: world.ring.is_open)
            tag = world.slots.put(3, now=now_tick())
            for _ in range(6):
                world.ring.write(3, 0, tag)
                await until(lambda: not world.ring.events)
            await first
            await until(lambda: world.watch._watchers[0].missed)
            missed = world.watch._watchers[0].missed
            got = [json.loads(await anext(pages))["missed"] for _ in range(2)]
            world.ring.write(3, 0, tag)
            assert (got, json.loads(await anext(pages))["missed"]) == ([0, 0], missed)
            await pages.aclose()

    asyncio.run(play())


def test_a_full_ring_buffer_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play() -> None:
        monkeypatch.setattr(watch_module, "FULL", 3)
        async with running(monkeypatch) as world:
            pages = world.watch.pages(EVERY)
            first = asyncio.create_task(anext(pages))
            await until(lambda: world.ring.is_open)
            tag = world.slots.put(3, now=now_tick())
            for _ in range(3):  # in one period: nothing else runs meanwhile
                world.ring.write(3, 0, tag)
            assert json.loads(await first)["missed"] == 1
            world.ring.write(3, 0, tag)
            assert json.loads(await anext(pages))["missed"] == 0
            await pages.aclose()

    asyncio.run(play())


def lines(slots: Slots, selection: Selection, changed: Iterable[tuple[int, int, int]]) -> list[dict[str, Any]]:
    numbers, before, after = (np.array(column) for column in zip(*changed, strict=True))
    change = numbers, before.astype(np.uint64), after.astype(np.uint64), Cause.PACKET
    return [one for page in pages_of(slots.table, selection, change, 5, 0) for one in decode(json.loads(page), NAMES)]


def test_the_record_of_a_later_session_is_not_shown_for_an_earlier_one() -> None:
    slots = Slots()
    earlier = slots.put(8)
    slots.map.tags[8] = slots.map.tags[8] ^ np.uint64(2 << 48)
    assert [sorted(one) for one in lines(slots, EVERY, [(8, earlier, 0)])] == [
        ["before", "cause", "flags", "idle_s", "row", "slot", "state"]
    ]
    assert lines(slots, Selection(EVERY.states, services=frozenset({3})), [(8, earlier, 0)]) == []
