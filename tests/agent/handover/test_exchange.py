# SPDX-License-Identifier: Apache-2.0
"""The exchange of two nodes in turns: what the owner of a row cannot take stays with the node that has it."""

from collections.abc import Iterable
from ipaddress import ip_network
from types import SimpleNamespace

import numpy as np
import pytest
from support.session_arrays import POOLS, SESSIONS, Arrays
from support.session_records import record

from agent.address import Network
from agent.handover.exchange import Count, Exchange
from agent.handover.item import Codec, Origin, Slots
from agent.handover.sent_log import SETTLED_TICKS
from agent.sessions.scan import limits, scan
from bpf.layout.nat import NAT_ROWS
from bpf.layout.session import SessionState

HOLDER, OWNER = 1, 2
MORE = 2 * SESSIONS
TICK = 1000


class Two:
    """A node with a session among `MORE` slots, whose rows get another owner, with these `numbers` and this `pool`."""

    def __init__(self, numbers: list[int], slot: int = SESSIONS + 5, pool: Network = POOLS[4]) -> None:
        self.clock = SimpleNamespace(tick=TICK)
        self.items: dict[int, list[bytes]] = {HOLDER: [], OWNER: []}
        self.arrays = {HOLDER: Arrays(sessions=MORE), OWNER: Arrays(sessions=max(numbers))}
        self.nodes = {HOLDER: self._exchange(HOLDER, [MORE], POOLS[4]), OWNER: self._exchange(OWNER, numbers, pool)}
        self.arrays[HOLDER].store.write(record(slot, created_age=10, stamp_age=2), TICK)
        for owner in (HOLDER, OWNER):
            for node in self.nodes.values():
                node.begin(np.full((NAT_ROWS, 2), (owner, 3 - owner), np.uint32), set(), 0.0)
                node.finish()

    def _exchange(self, own: int, numbers: list[int], pool: Network) -> Exchange:
        def stream(node: int, items: Iterable[bytes]) -> None:
            self.items[node] += items

        codec = Codec(Slots(NAT_ROWS, {4: [Origin(pool, number) for number in numbers]}))
        store, pulls = self.arrays[own].store, np.zeros(NAT_ROWS, np.uint64)
        return Exchange(own, store, codec, pulls, stream, lambda: self.clock.tick)

    def second(self) -> None:
        """Let a tick pass, in which the holder looks for sessions to send, and everything arrives."""
        self.clock.tick += 1
        self.nodes[HOLDER].sweep({OWNER})
        while any(self.items.values()):
            for own, other in ((HOLDER, OWNER), (OWNER, HOLDER)):
                items, self.items[own] = self.items[own], []
                if items:
                    self.nodes[own].receive(other, items, 0.0)
        tags = self.arrays[OWNER].tags
        expired = scan(tags, self.clock.tick, limits())
        self.arrays[OWNER].store.free(expired.expired, expired.tags)


@pytest.mark.parametrize(("numbers", "taken"), [([SESSIONS], 0), ([MORE, SESSIONS], 1)], ids=["fewer", "both"])
def test_a_session_of_a_number_that_its_owner_does_not_know_stays_where_it_is(numbers: list[int], taken: int) -> None:
    """It is at rest: without an answer the holder would take it for the owner's, and free it."""
    two = Two(numbers)
    for _ in range(SETTLED_TICKS + 5):
        two.second()
    holder, owner = two.nodes[HOLDER], two.nodes[OWNER]
    assert [node.counters[count] for node, count in ((owner, Count.TAKEN), (holder, Count.FREED))] == [taken, taken]
    assert len(two.arrays[HOLDER].store.used(np.ones(NAT_ROWS, np.bool_))) == 1 - taken
    assert ("the pool is another one" in owner.faults.get(HOLDER, "")) == (not taken)


@pytest.mark.parametrize("declined", ["number", pytest.param("backend", marks=pytest.mark.slow)])
def test_the_slot_of_a_session_that_its_owner_cannot_take_is_reserved_until_it_ends(declined: str) -> None:
    two = Two([SESSIONS] if declined == "number" else [MORE], slot=5)
    owner, holder = two.arrays[OWNER], two.arrays[HOLDER]
    if declined == "backend":
        owner.store.backends = {}
    owner.map.sessions4["backend_port"][5] = 8443  # of a session that has ended
    for _ in range(200):
        two.second()
        assert owner.state(5) is SessionState.RESERVED
    assert not owner.map.sessions4[5:6].tobytes().strip(b"\0"), "no answer is for the session that has ended"
    assert not len(owner.store.used(np.ones(NAT_ROWS, np.bool_))), "it is no session to hand over"
    holder.store.free(np.array([5]), holder.tags[[5]])
    for _ in range(60):
        two.second()
    assert owner.state(5) is SessionState.FREE


@pytest.mark.parametrize(("age", "left"), [(100, (0, 1)), (1, (1, 0))], ids=["older", "younger"])
def test_of_two_sessions_with_one_endpoint_the_younger_ends_though_the_owner_does_not_know_the_number(
    age: int, left: tuple[int, int]
) -> None:
    two = Two([SESSIONS], slot=5)
    two.arrays[OWNER].store.write(record(5, client=9, created_age=age, stamp_age=1), TICK)
    for _ in range(3):
        two.second()
    assert tuple(len(two.arrays[node].store.used(np.ones(NAT_ROWS, np.bool_))) for node in (HOLDER, OWNER)) == left


def test_sessions_with_endpoints_of_two_pools_both_live() -> None:
    two = Two([SESSIONS], slot=5, pool=ip_network("10.254.0.0/24"))
    two.arrays[OWNER].store.write(record(5, client=9, created_age=1, stamp_age=1), TICK)
    for _ in range(3):
        two.second()
    assert [len(two.arrays[node].store.used(np.ones(NAT_ROWS, np.bool_))) for node in (HOLDER, OWNER)] == [1, 1]
