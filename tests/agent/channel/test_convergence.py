# SPDX-License-Identifier: Apache-2.0
"""Nodes on a network that loses, duplicates, delays, reorders and replays, while they publish, restart and forget.

At no time does a node believe of another what that one did not publish, or go back to an earlier state; nor does it
believe a third node that has the key. Once the network is quiet all know all, and nothing is sent any more.
"""

import itertools
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.channel_network import KEY, Datagram, Network, address, state
from support.examples import examples

from agent.channel.channel import Channel
from agent.channel.event import Notice, StateReceived
from agent.channel.message import Authenticator, Kind, parse
from agent.channel.state import NodeState, encode
from agent.channel.transmitter import MAX_HELLO_S

MAX_DELAY_S = 20.0
SETTLE_S = 2 * MAX_HELLO_S + 1


@dataclass(frozen=True)
class Weather:
    """Probabilities for each datagram, and the mean delay."""

    lost: float = 0.0
    doubled: float = 0.0
    replayed: float = 0.0
    forged: float = 0.0
    delay_s: float = 0.001


@dataclass
class World:
    nodes: int
    seed: int
    weather: Weather
    published: dict[IPv4Address, dict[int, NodeState]] = field(default_factory=dict)
    """By version, which grows with each state of any node and process."""
    version: int = 0
    cut: set[IPv4Address] = field(default_factory=set)
    forged_versions: int = 1_000_000

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.network = Network(self.fate)
        self.all = frozenset(address(number) for number in range(self.nodes))
        self.notices = 0
        for number in range(self.nodes):
            self.restart(number)

    def fate(self, datagram: Datagram) -> Sequence[float]:
        weather, rng = self.weather, self.rng
        if rng.random() < weather.replayed:
            self.network.inject(rng.choice(self.network.sent), rng.expovariate(1.0))
        if rng.random() < weather.forged:
            self.forge(datagram)
        if datagram.source in self.cut or datagram.destination in self.cut or rng.random() < weather.lost:
            return ()
        copies = 2 if rng.random() < weather.doubled else 1
        return [min(rng.expovariate(1 / weather.delay_s), MAX_DELAY_S) for _ in range(copies)]

    def forge(self, datagram: Datagram) -> None:
        """Send what a third node could make of a datagram: with the key, but from its own address or without nonces."""
        message = parse(datagram.data)
        assert message is not None
        self.forged_versions += 1
        made = state(self.forged_versions)
        forged = message._replace(kind=Kind.STATE, sequence=10**9, part=0, parts=1, payload=encode(made))
        key, other_key = Authenticator([KEY]), Authenticator([b"other"])
        unknown = forged._replace(receiver_nonce=self.rng.getrandbits(64) | 1)
        self.network.inject(replace(datagram, data=key.seal(unknown)), 0.001)
        third = Datagram(address(50), datagram.destination, key.seal(forged._replace(receiver_nonce=1)))
        self.network.inject(third, 0.001)
        self.network.inject(replace(third, data=key.seal(forged)), 0.001)
        self.network.inject(replace(datagram, data=other_key.seal(forged)), 0.001)

    # What happens

    def publish(self, number: int) -> None:
        self.version += 1
        published = state(self.version, services=self.rng.choice([1, 150, 250]))
        self.published.setdefault(address(number), {})[self.version] = published
        self.network.channels[address(number)].publish(published, self.network.now)

    def restart(self, number: int) -> None:
        self.network.start(number)
        self.publish(number)
        self.network.channels[address(number)].follow(self.all, self.network.now)

    def forget(self, number: int) -> None:
        channel = self.network.channels[address(number)]
        channel.follow({address(self.rng.randrange(self.nodes))}, self.network.now)
        channel.follow(self.all, self.network.now)

    def cut_off(self, number: int) -> None:
        self.cut ^= {address(number)}

    def notify(self, number: int) -> None:
        self.notices += 1
        self.network.channels[address(number)].notify(200, self.notices.to_bytes(4, "big"), self.network.now)

    def wake(self, number: int) -> None:
        for other in sorted(self.all):
            self.network.channels[address(number)].wake(other, self.network.now)

    # What must hold

    def check(self) -> None:
        newest: dict[tuple[IPv4Address, IPv4Address], int] = {}
        notices: dict[tuple[IPv4Address, IPv4Address], bytes] = {}
        for node, event in self.network.events:
            pair = (node, event.address)
            if isinstance(event, StateReceived):
                assert event.state == self.published[event.address].get(event.state.version), "believed another"
                assert event.state.version >= newest.get(pair, 0), "went back"
                newest[pair] = event.state.version
            elif isinstance(event, Notice):
                assert event.payload > notices.get(pair, b""), "a notice counted twice"
                notices[pair] = event.payload

    def check_settled(self) -> None:
        last = {node: states[max(states)] for node, states in self.published.items()}
        for node, channel in self.network.channels.items():
            assert channel.states == {other: last[other] for other in self.all - {node}}
            assert channel.problems(self.network.now) == ()


EVENTS = ("publish", "publish", "restart", "forget", "cut_off", "notify", "wake")


def play(world: World, events: Sequence[tuple[float, str, int]]) -> None:
    for wait_s, event, number in events:
        world.network.run(wait_s)
        getattr(world, event)(number % world.nodes)
    world.weather = Weather()
    world.cut.clear()
    world.network.run(SETTLE_S)
    world.check_settled()
    for number in range(world.nodes):  # whatever state they are in: they learn of the next change at once
        world.publish(number)
    world.network.run(0.1)
    world.check_settled()
    world.check()
    world.network.sent.clear()
    world.network.run(60)
    assert world.network.sent == []


probabilities = st.sampled_from([0.0, 0.05, 0.2, 0.5])
weathers = st.builds(Weather, *[probabilities] * 4, st.sampled_from([0.001, 0.02, 0.3, 2.0, 8.0]))
histories = st.lists(
    st.tuples(st.sampled_from([0.0, 0.003, 0.05, 0.5, 8.0]), st.sampled_from(EVENTS), st.integers(0, 2)), max_size=12
)


@examples(60)
@given(st.integers(2, 3), st.integers(0, 2**32), weathers, histories)
def test_nodes_agree_once_the_network_is_quiet(
    nodes: int, seed: int, weather: Weather, events: list[tuple[float, str, int]]
) -> None:
    play(World(nodes, seed, weather), events)


@pytest.mark.slow
def test_long_histories_of_four_nodes(request: pytest.FixtureRequest) -> None:
    for seed in range(request.config.getoption("--channel-histories")):
        rng = random.Random(seed)
        chances = [rng.choice([0, 0.05, 0.2, 0.5]) for _ in range(4)]
        weather = Weather(*chances, rng.choice([0.001, 0.02, 0.3, 2.0, 8.0]))
        waits = [0.0, 0.003, 0.05, 0.5, 8.0]
        events = [(rng.choice(waits), rng.choice(EVENTS), rng.randrange(4)) for _ in range(30)]
        try:
            play(World(4, seed, weather), events)
        except AssertionError as error:
            raise AssertionError(f"history {seed}") from error


@pytest.mark.parametrize("change", ["nonce", "sequence"])
def test_the_checks_can_fail(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one of the protections: the same nonces after each start, or sequences that are not compared."""
    if change == "nonce":
        counters: defaultdict[Channel, Iterator[int]] = defaultdict(lambda: itertools.count(1))
        monkeypatch.setattr("agent.channel.channel.Channel._nonce", lambda channel: next(counters[channel]))
    else:
        whole = lambda _, message: message.payload if message.parts == 1 else None  # noqa: E731
        monkeypatch.setattr("agent.channel.session.Reassembly.add", whole)
        monkeypatch.setattr("agent.channel.session.Reassembly.is_superseded", lambda reassembly, message: False)
    with pytest.raises(AssertionError):
        play_all()


def play_all() -> None:
    for seed in range(20):
        events = [(0.05, "publish", seed), (0.5, "restart", seed), (0.05, "publish", seed)] * 3
        play(World(2, seed, Weather(replayed=0.5, delay_s=0.02)), events)
