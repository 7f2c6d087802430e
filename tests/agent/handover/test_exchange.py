# SPDX-License-Identifier: Apache-2.0
"""The exchange of two nodes in turns: what the owner of a row cannot take stays with the node that has it."""

from collections.abc import Iterable
from types import SimpleNamespace

import numpy as np
import pytest
from support.session_arrays import POOLS, SESSIONS, Arrays
from support.session_records import record

from agent.handover.exchange import Count, Exchange
from agent.handover.item import Codec, Origin, Slots
from agent.handover.sent_log import SETTLED_TICKS
from bpf.layout.nat import NAT_ROWS

HOLDER, OWNER = 1, 2
MORE = 2 * SESSIONS
TICK = 1000


class Two:
    """A node with sessions among `MORE` slots, whose rows get another owner, which knows these `numbers`."""

    def __init__(self, numbers: list[int]) -> None:
        self.clock = SimpleNamespace(tick=TICK)
        self.items: dict[int, list[bytes]] = {HOLDER: [], OWNER: []}
        self.arrays = {HOLDER: Arrays(sessions=MORE), OWNER: Arrays(sessions=max(numbers))}
        self.nodes = {HOLDER: self._exchange(HOLDER, [MORE]), OWNER: self._exchange(OWNER, numbers)}
        self.arrays[HOLDER].store.write(record(SESSIONS + 5, created_age=10, stamp_age=2), TICK)
        for owner in (HOLDER, OWNER):
            for node in self.nodes.values():
                node.begin(np.full((NAT_ROWS, 2), (owner, 3 - owner), np.uint32), set(), 0.0)
                node.finish()

    def _exchange(self, own: int, numbers: list[int]) -> Exchange:
        def stream(node: int, items: Iterable[bytes]) -> None:
            self.items[node] += items

        codec = Codec(Slots(NAT_ROWS, {4: [Origin(POOLS[4], number) for number in numbers]}))
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
