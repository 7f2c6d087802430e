# SPDX-License-Identifier: Apache-2.0
"""The agent's loop beside a data path that is late: what is sent to the relay, and what is saved."""

import asyncio
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from agent.config.file import parse
from agent.model import State
from agent.node import saved_state
from agent.node.agent import COALESCE_S, Agent
from agent.node.own_interface import Interface
from agent.node.plan import Tables
from agent.paths import Paths
from agent.sessions.keeper import SessionKeeper
from bgp.relay.protocol import DesiredRoutes, Peer, Snapshot
from bgp.route import Route
from bpf.attach.datapath import DataPath

ADDRESS, PEER = IPv4Address("10.0.0.11"), "10.0.0.1"
CONFIG = parse(
    """\
cluster: 7
node: {interface: eth0}
services:
  - {name: web, vip: 192.0.2.10, protocol: tcp, port: 443}
bgp: {local_as: 65001, user: root, identity_prefix: 10.254.0.0/16, peers: [{address: 10.0.0.1, as: 65000}]}
members: {allow: [10.0.0.0/24]}
""",
    "lb.yml",
)


class Relay:
    """Replaces the relay's client; it keeps what it is given."""

    def __init__(self) -> None:
        self.snapshot: Snapshot | None = Snapshot((Peer(PEER, True, 1.0, True),))
        self.connected = True
        self.sent: list[DesiredRoutes] = []
        self.stopped = False

    def send_desired(self, *routes: tuple[object, ...]) -> None:
        self.sent.append(DesiredRoutes(*routes))  # type: ignore[arg-type]

    def send_stop(self) -> None:
        self.stopped = True


class Forwarder:
    """Replaces the data path: it writes nothing, and is `ready`, `tried` and hanging when the test says so."""

    def __init__(self) -> None:
        self.tried = self.ready = self.hanging = self.took_over = False
        self.wanted: Tables | None = None
        self.tables_digest = 0
        self.answers: list[bool] = []
        """Whether each answer that the echoes get had the flag that the node is ready."""

    def is_stuck(self, now: float) -> bool:
        del now
        return self.hanging

    def want(self, tables: Tables) -> None:
        self.wanted = tables

    def problems(self) -> list[str]:
        return []

    def follow(self, ends: object) -> None:
        pass

    def pass_over(self, silent: object, doubted: object) -> None:
        pass

    def answer_with(self, boot: int, digests: object, ready: bool) -> None:
        self.answers.append(ready)


def run(folder: Path, scenario: Callable[[Agent, Relay, Forwarder], Awaitable[None]]) -> None:
    """Run a scenario beside the loops of an agent whose relay and data path are replaced."""

    async def running() -> None:
        agent = Agent(CONFIG, Paths(run=folder, kept=folder), Interface("eth0", 1, bytes(6), ADDRESS), None)
        relay, forwarder = Relay(), Forwarder()
        agent.announcer.relay, agent.forwarder = relay, forwarder  # type: ignore[assignment]
        agent.vips.are_put = True
        loops = [asyncio.create_task(one) for one in (agent._plan_forever(), agent._heartbeat_forever())]
        try:
            async with asyncio.timeout(10):
                await scenario(agent, relay, forwarder)
        finally:
            agent._netlink.close()
            for loop in loops:
                if loop.done():
                    loop.result()  # nothing but an error ends it
                loop.cancel()

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("agent.node.agent.TICK_S", 0.05)
        asyncio.run(running())


async def until(reached: Callable[[], object]) -> None:
    while not reached():
        await asyncio.sleep(0.005)


def test_nothing_is_announced_before_the_first_tables(tmp_path: Path) -> None:
    async def scenario(agent: Agent, relay: Relay, forwarder: Forwarder) -> None:
        await until(lambda: forwarder.wanted)
        assert agent.plan is None
        forwarder.tried = forwarder.ready = True
        await until(lambda: agent.plan)

    run(tmp_path, scenario)


def test_nothing_is_announced_before_the_vips_are_on_lo(tmp_path: Path) -> None:
    """The kernel would answer the routers' packets with resets."""

    async def scenario(agent: Agent, relay: Relay, forwarder: Forwarder) -> None:
        forwarder.tried = forwarder.ready = True
        agent.vips.are_put = False
        await until(lambda: forwarder.wanted)
        forwarder.answers.clear()
        await until(lambda: len(forwarder.answers) > 1)
        assert agent.plan is None
        agent.vips.are_put = True
        await until(lambda: agent.plan)

    run(tmp_path, scenario)


@pytest.mark.parametrize("copied", [True, False], ids=["sessions in place", "sessions to be copied"])
def test_what_was_announced_stays_until_it_is_known_which_sessions_are_left(tmp_path: Path, copied: bool) -> None:
    """Routers bring answers of backends by the prefix of the former pool, as long as some session has an address of it.
    All nodes announce it: what the agent before published stays, too, or others would withdraw it, or announce it."""

    async def scenario(agent: Agent, relay: Relay, forwarder: Forwarder) -> None:
        former = SimpleNamespace(in_use=None)
        agent.nat.sessions = cast(SessionKeeper, SimpleNamespace(former=former, problems=tuple))
        agent.nat._datapath = cast(DataPath, SimpleNamespace(has_sessions=copied))
        forwarder.tried = forwarder.ready = copied
        await until(lambda: forwarder.wanted)
        published = bool(agent.membership.version)
        assert published is not copied
        assert agent.membership._own_state._former is not copied
        forwarder.tried = forwarder.ready = True
        agent._wake.set()
        for _ in range(20):
            agent._wake.set()
            await asyncio.sleep(COALESCE_S)
        assert (agent.plan, bool(agent.membership.version)) == (None, published)
        former.in_use = False
        agent._wake.set()
        await until(lambda: agent.plan)
        assert not agent.membership._own_state._former
        assert agent.membership.version

    run(tmp_path, scenario)


@pytest.mark.parametrize("took_over", [False, True])
def test_node_whose_members_are_unknown_is_ready_only_with_the_tables_of_an_earlier_agent(
    tmp_path: Path, took_over: bool
) -> None:
    async def scenario(agent: Agent, relay: Relay, forwarder: Forwarder) -> None:
        forwarder.took_over, relay.snapshot = took_over, None
        forwarder.answers.clear()
        await until(lambda: len(forwarder.answers) > 1)
        assert set(forwarder.answers) == {took_over}
        assert agent.plan is None

    run(tmp_path, scenario)


def test_request_before_the_first_tables_is_saved(tmp_path: Path) -> None:
    async def scenario(agent: Agent, relay: Relay, forwarder: Forwarder) -> None:
        await until(lambda: forwarder.wanted)
        agent.operator.set_admin_state(State.DRAINING)
        assert saved_state.load(agent.paths.state).admin_state is State.DRAINING

    run(tmp_path, scenario)


def test_identity_is_announced_before_the_first_plan_unless_routers_have_a_vip(tmp_path: Path) -> None:
    """Others must know the node before they speak to it; an agent that starts again must withdraw nothing."""
    vip = Route.of("192.0.2.10/32", str(ADDRESS))

    async def scenario(agent: Agent, relay: Relay, forwarder: Forwarder) -> None:
        relay.snapshot = Snapshot((Peer(PEER, True, 1.0, True, (), (vip,)),))
        await until(lambda: forwarder.wanted)
        await until(lambda: len(forwarder.answers) > 1)
        assert not relay.sent
        relay.snapshot = Snapshot((Peer(PEER, True, 1.0, True),))
        await until(lambda: relay.sent)
        assert [[route.prefix for route in sent.desired] for sent in relay.sent] == [["10.254.0.11/32"]] * len(
            relay.sent
        )
        assert agent.plan is None

    run(tmp_path, scenario)


def test_agent_that_stops_leaves_the_routes_to_the_relay_and_waits_for_its_decision(tmp_path: Path) -> None:
    vip = Route.of("192.0.2.10/32", str(ADDRESS))

    async def scenario(agent: Agent, relay: Relay, forwarder: Forwarder) -> None:
        forwarder.tried = forwarder.ready = True
        await until(lambda: relay.sent)
        for decided in (
            Snapshot((Peer(PEER, True, 1.0, True, (), (vip,)),), deadman=True, held=True),
            Snapshot((Peer(PEER, True, 1.0, True),), deadman=True),
        ):
            relay.snapshot = Snapshot((Peer(PEER, True, 1.0, True, (), (vip,)),))
            leaving = asyncio.create_task(agent.leave())
            await until(lambda: relay.stopped)
            relay.sent.clear()
            for _ in range(5):  # its loops go on
                agent._wake.set()
                await asyncio.sleep(0.01)
            assert not leaving.done()
            relay.snapshot = decided
            await leaving
            assert not relay.sent, "a message after the stop would be an agent that lives"

    run(tmp_path, scenario)


def test_agent_that_stops_before_its_first_plan_says_so(tmp_path: Path) -> None:
    """The VIPs that the agent before announced would stay until the dead-man acts."""

    async def scenario(agent: Agent, relay: Relay, forwarder: Forwarder) -> None:
        relay.snapshot = Snapshot((Peer(PEER, True, 1.0, False),), deadman=True)
        await agent.leave()
        assert relay.stopped
        assert not relay.sent
        assert forwarder.wanted is None, "tables of unknown members would replace those in the kernel"

    run(tmp_path, scenario)


def test_agent_whose_tables_hang_is_silent_whatever_else_changes(tmp_path: Path) -> None:
    """Each message is a heartbeat: with one, the relay would announce the VIPs again that its dead-man withdrew."""

    async def scenario(agent: Agent, relay: Relay, forwarder: Forwarder) -> None:
        forwarder.tried = forwarder.ready = True
        await until(lambda: relay.sent)
        forwarder.hanging = True
        await asyncio.sleep(0)
        relay.sent.clear()
        before = agent.plan
        relay.snapshot = Snapshot((Peer(PEER, True, 1.0, True),), deadman=True)
        await until(lambda: agent.plan is not before)
        assert not relay.sent
        await agent.leave()
        assert relay.stopped, "a stop needs no data path"

    run(tmp_path, scenario)
