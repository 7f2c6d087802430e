# SPDX-License-Identifier: Apache-2.0
"""The data path's task: a fault does not end it, and a program that something detached is back at once."""

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from ipaddress import IPv4Address
from types import SimpleNamespace
from typing import cast

import pytest

from agent.config.file import parse
from agent.errors import AgentError
from agent.model import Candidate, State
from agent.netlink.connection import Netlink
from agent.netlink.link import Link
from agent.node import forwarder
from agent.node.forwarder import Forwarder
from agent.node.plan import Tables, ThisNode
from agent.node.start import boot_number
from agent.table.epoch import EpochSwitch, EpochUse
from bpf.attach.datapath import DataPath
from bpf.errors import BpfError
from bpf.layout.echo import EchoState

A, B = IPv4Address("10.0.0.11"), IPv4Address("10.0.0.12")
CONFIG = parse(
    """\
cluster: 7
node: {interface: lo}
services:
  - {name: web, vip: 192.0.2.10, protocol: tcp, port: 443}
bgp: {local_as: 65001, identity_prefix: 10.254.0.0/16, peers: [{address: 10.0.0.1, as: 65000}]}
members: {allow: [10.0.0.0/24]}
""",
    "lb.yml",
)
MEMBERS = tuple(Candidate(address, 100, 100, State.UP) for address in (A, B))
TABLES = Tables({"web": MEMBERS}, {"web": True}, {A: None, B: None}, EpochSwitch(EpochUse(1)))


class MapWriter:
    """Replaces the writer: it raises the errors that it is given, and knows no MAC."""

    use: EpochUse | None = None

    def __init__(self, *_: object) -> None:
        self.ready, self.applied = False, 0
        self.errors: list[Exception] = []
        self.silent: list[tuple[Mapping[IPv4Address, int], ...]] = []
        self.set_uplink_mac = None
        self.nodes = SimpleNamespace(
            revision=0,
            set_hop=None,
            set_silent=lambda *both: self.silent.append(both),
            known_hop=lambda _: None,
            target=lambda address, _: address,
            reaches=lambda _: False,
            unlisted_egress=lambda _: [],
            narrow=list,
            vlans=list,
        )

    async def apply(self, *_: object) -> None:
        if self.errors:
            raise self.errors.pop()
        self.ready, self.applied = True, self.applied + 1


class FakeDataPath:
    """A data path that is attached, or not."""

    def __init__(self) -> None:
        self.is_attached, self.modes, self.fallback_reason = False, {"lo": "native"}, None
        self.mode, self.uplinks = "native", ()
        self.unpinned: BpfError | bool = False
        """Whether the pins were removed, or why they cannot be made again."""
        self.kept = 0
        self.attaching = lambda: None
        """Called before it is attached."""
        echo_state = SimpleNamespace(read=lambda: EchoState(boot=self.boot))
        self.maps = SimpleNamespace(echo_state=echo_state, nat=None)
        self.boot = 0

    def keep_pinned(self) -> bool:
        self.kept += 1
        if isinstance(self.unpinned, BpfError):
            raise self.unpinned
        unpinned, self.unpinned = self.unpinned, False
        return unpinned

    def attached(self) -> bool:
        return self.is_attached

    def attach(self) -> None:
        self.attaching()
        self.is_attached = True


async def nothing() -> None:
    """Replaces the keeper of the egress filter."""


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[Callable[[Forwarder, MapWriter, FakeDataPath], Awaitable[None]]], None]:
    """Run a scenario beside the task that writes."""
    monkeypatch.setattr(forwarder, "MapWriter", MapWriter)
    monkeypatch.setattr(forwarder, "EgressKeeper", lambda *_: SimpleNamespace(keep=nothing))
    monkeypatch.setattr(forwarder, "HopKeeper", lambda *_: SimpleNamespace(follow=lambda *_: None, problems=list))
    monkeypatch.setattr(forwarder, "CHECK_S", 0.02)
    monkeypatch.setattr(forwarder, "MACS_TIMEOUT_S", 0.4)

    def run(scenario: Callable[[Forwarder, MapWriter, FakeDataPath], Awaitable[None]]) -> None:
        async def running() -> None:
            datapath = FakeDataPath()
            node = ThisNode(CONFIG, A, None, None, (1,))
            made = Forwarder(node, (), cast(DataPath, datapath), cast(Netlink, None), (), lambda: None)
            task = asyncio.create_task(made._write_forever())
            try:
                async with asyncio.timeout(10):
                    await scenario(made, cast(MapWriter, made.map_writer), datapath)
            finally:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

        asyncio.run(running())

    return run


async def until(reached: Callable[[], object]) -> None:
    while not reached():
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("error", [BpfError("no"), AgentError("no"), OSError("no")])
def test_fault_is_reported_and_the_next_attempt_follows(run, error: Exception) -> None:
    async def scenario(made: Forwarder, writer: MapWriter, _: FakeDataPath) -> None:
        writer.errors.append(error)
        made.want(TABLES)
        await until(lambda: made.tried)
        assert (made.fault or "").startswith("tables or XDP: no: the agent tries again")
        assert (made.ready, made.attached.is_set()) == (False, False)
        assert made.problems() == [made.fault]
        await until(lambda: made.ready)
        assert made.fault is None
        assert made.problems() == []
        assert made.attached.is_set()

    run(scenario)


def test_tables_are_written_once_the_last_ones_are_in_use(run) -> None:
    async def scenario(made: Forwarder, writer: MapWriter, _: FakeDataPath) -> None:
        assert not made.written
        made.want(TABLES)
        await until(lambda: made.written)
        writer.errors.append(BpfError("no"))
        made.want(replace(TABLES, up={"web": False}))
        assert not made.written
        await until(lambda: made.fault)
        assert not made.written, "the program uses the former ones"
        await until(lambda: made.written)
        assert (made.fault, writer.applied) == (None, 2)

    run(scenario)


def test_vlans_that_are_not_handled_are_problems(run, monkeypatch: pytest.MonkeyPatch) -> None:
    stripping = {"lo"}
    monkeypatch.setattr(forwarder, "strips_vlan_tags", stripping.__contains__)
    links = {2: Link(2, "lo", b"", 1500), 3: Link(3, "lo.5", b"", 1500, lower=2, vlan=5)}

    async def scenario(made: Forwarder, writer: MapWriter, _: FakeDataPath) -> None:
        made._on_links(links)
        (problem,) = made.problems()
        assert problem.startswith("lo strips VLAN tags")
        stripping.clear()
        made._on_links(links)
        assert made.problems() == []
        writer.nodes.vlans, writer.nodes.revision = lambda: [(A, 0), (A + 1, 5)], 1
        (problem,) = made.problems()
        assert problem.startswith(f"{A + 1} is reached by VLAN 5, which node.vlans does not name")

    run(scenario)


def test_program_that_is_detached_is_back_without_a_wait_for_macs(run) -> None:
    """Until then the kernel answers other nodes' packets with resets."""

    async def scenario(made: Forwarder, _: MapWriter, datapath: FakeDataPath) -> None:
        made.want(TABLES)
        await until(lambda: made.ready)
        datapath.is_attached = False
        began = asyncio.get_running_loop().time()
        await until(lambda: datapath.is_attached)
        assert asyncio.get_running_loop().time() - began < forwarder.MACS_TIMEOUT_S / 2

    run(scenario)


@pytest.mark.parametrize("use", [None, EpochUse(1)])
def test_tables_that_the_program_uses_are_taken_over(
    run, monkeypatch: pytest.MonkeyPatch, use: EpochUse | None
) -> None:
    """Not yet `ready`: the agent has written none of them."""
    monkeypatch.setattr(MapWriter, "use", use)

    async def scenario(made: Forwarder, _: MapWriter, __: FakeDataPath) -> None:
        assert (made.took_over, made.ready) == (use is not None, False)

    run(scenario)


def test_boot_is_known_as_long_as_the_program_answers_with_it(run) -> None:
    """The state file may be damaged: with another number this node's connections would count as gone."""

    async def scenario(made: Forwarder, writer: MapWriter, datapath: FakeDataPath) -> None:
        assert boot_number(0, made) not in (0, boot_number(0, made))
        datapath.boot = 7
        assert (boot_number(0, made), boot_number(5, made), boot_number(5, None)) == (7, 5, 5)

    run(scenario)


def test_removed_pins_are_made_again(run, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(made: Forwarder, _: MapWriter, datapath: FakeDataPath) -> None:
        made.want(TABLES)
        await until(lambda: made.ready)
        assert caplog.messages == ["XDP attached: lo (native)"]
        datapath.unpinned = True
        kept = datapath.kept
        await until(lambda: datapath.kept > kept + 2)
        assert made.ready
        assert not made.problems()
        assert caplog.messages[1:] == [
            "the data path's pins were removed, and were made again: leave /sys/fs/bpf/anylb alone"
        ]

    caplog.set_level("INFO", "anylb")
    run(scenario)


def test_pins_that_cannot_be_made_are_a_problem_while_tables_are_written_on(
    run, caplog: pytest.LogCaptureFixture
) -> None:
    """The program goes on with its maps, but only as long as this process."""

    async def scenario(made: Forwarder, writer: MapWriter, datapath: FakeDataPath) -> None:
        made.want(TABLES)
        await until(lambda: made.ready)
        datapath.unpinned = BpfError("cannot make /sys/fs/bpf/anylb: Operation not permitted")
        await until(lambda: bool(made.problems()))
        applied = writer.applied
        await until(lambda: writer.applied > applied + 2)
        assert made.ready
        (line,) = made.problems()
        assert line.startswith(
            "the data path's pins were removed, and cannot be made again: cannot make /sys/fs/bpf/anylb: Operation not "
            "permitted: mount -t bpf"
        )
        assert caplog.messages.count(line) == 1
        datapath.unpinned = True
        await until(lambda: not made.problems())

    run(scenario)


def test_silent_nodes_are_written_when_they_differ_with_the_end_of_their_grace(run) -> None:
    async def scenario(made: Forwarder, writer: MapWriter, _: FakeDataPath) -> None:
        for silent in ({}, {}, {B: 2.5}, {B: 2.5}, {}):
            made.pass_over(silent, {})
        made.pass_over({}, {B: 4.0})
        # The first is written in any case: an earlier agent may have left flags.
        assert writer.silent == [({}, {}), ({B: 122_500_000_000}, {}), ({}, {}), ({}, {B: 124_000_000_000})]

    run(scenario)


def test_the_loop_goes_on_while_sessions_are_copied_and_the_next_agent_waits_for_their_end(run) -> None:
    go_on, began = threading.Event(), threading.Event()

    async def scenario(made: Forwarder, _: MapWriter, datapath: FakeDataPath) -> None:
        def copy() -> None:
            began.set()
            assert go_on.wait(10)

        datapath.attaching = copy
        made.want(TABLES)
        await until(began.is_set)
        writing = next(task for task in asyncio.all_tasks() if "_write_forever" in str(task))
        writing.cancel()
        try:
            await asyncio.sleep(0.01)
            assert not writing.done()
        finally:
            go_on.set()
        await until(writing.done)
        assert datapath.is_attached

    run(scenario)
