# SPDX-License-Identifier: Apache-2.0
"""The next-hop rule, walked over all tables that nodes may have: what holds in any case, and what does not.

A packet of a connection (no SYN) enters at node 1 and the connection's node is 2: by renaming nodes, that is each case.
Each of four nodes believes any of the 65 chains of nodes 1 to 4: 65^4 = 17,850,625 beliefs, walked all at once.

What holds:
 1. No packet is forwarded more than K + 1 = 10 times.
 2. If all believe the same chain, and it lists the connection's node, the packet reaches it.
 3. With three nodes: if each node that it visits lists the connection's node, the packet reaches it.
 4. In grace, the kernel of no node without the connection ever sees it: it arrives, or is dropped and sent again.

What does not hold: that one visited node lists it is not enough. The smallest counterexample: node 1 believes (3, 2),
node 3 believes (). Node 3 has no node to try, so its kernel answers with a reset (or, in grace, drops). With
four nodes it is not even enough that every visited node lists it: if 1 believes (3, 2), 3 believes (4, 2) and 4
believes (1, 2), each trusts another owner, and the packet circles until its hops are used up; TCP sends again.

A chain of up to 8 nodes that all agree on leads to each of them. A chain of 9 would not: from the first or the second
place the last one is not reached, because the packet starts again once, at the node where the skipped ingress makes
the places seem to come too early. So K is 9, and a row has 8 places.
"""

import itertools
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cache
from random import Random

import numpy as np
import numpy.typing as npt
import pytest
from support.oracle.next_hop import CONNECTION, COOKIE, TIME_WAIT, Belief, K, Packet, decide

from bpf.layout.counter import Counter
from bpf.reference.pick import Arrival, NodeState, Socket, pick

INGRESS, HOLDER = 1, 2
ARRIVED = 1
ENDS = {"drop_hop_limit": -1, "deliver_chain_end": -2, "pass_no_member": -3, "deliver_only_node": -4, "drop_grace": -5}
HOPS = K + 3
Flags = npt.NDArray[np.bool_]
FOUR = pytest.param(4, marks=pytest.mark.slow)
"""17,850,625 beliefs; three nodes have 4,096."""


@cache
def chains(nodes: int) -> list[tuple[int, ...]]:
    return [chain for size in range(nodes + 1) for chain in itertools.permutations(range(1, nodes + 1), size)]


def rule(nodes: int, grace: bool) -> npt.NDArray[np.int8]:
    """Return the rule as a table: from node, chain, hop and previous node to the next node or the end."""
    table = np.zeros((nodes + 1, len(chains(nodes)), HOPS, nodes + 1), np.int8)
    for node, (number, chain), hop, prev in itertools.product(
        range(1, nodes + 1), enumerate(chains(nodes)), range(HOPS), range(nodes + 1)
    ):
        if bool(hop) == bool(prev):
            decision = decide(Belief(node, chain, grace=grace), Packet(False, hop, prev or None))
            table[node, number, hop, prev] = decision.to or ENDS[decision.event]
    return table


@dataclass(frozen=True)
class Walks:
    """One entry for each belief: `chain[node - 1]` as a number, how the packet ended, after how many forwards.

    `one_lists`, `all_list`: whether a node, or each node, that it visited lists the connection's node.
    """

    chain: list[npt.NDArray[np.uint8]]
    end: npt.NDArray[np.int8]
    forwards: npt.NDArray[np.int8]
    one_lists: Flags
    all_list: Flags

    def believed(self, index: int) -> dict[int, tuple[int, ...]]:
        known = chains(len(self.chain))
        return {node: known[numbers[index]] for node, numbers in enumerate(self.chain, 1)}


def walk(nodes: int, holder: int | None, grace: bool = False) -> Walks:
    """Walk a packet through all beliefs, all those with one chain of the ingress at once: more fit into no cache."""
    known, next_of = chains(nodes), rule(nodes, grace)
    lists_holder = np.array([holder in chain for chain in known])
    beliefs = np.indices((len(known),) * nodes, np.uint8).reshape(nodes, -1)
    total = beliefs.shape[1]
    end, forwards = np.zeros(total, np.int8), np.zeros(total, np.int8)
    one_lists, all_list = np.zeros(total, bool), np.ones(total, bool)
    size = total // len(known)
    for part in (slice(start, start + size) for start in range(0, total, size)):
        _walk(
            beliefs[:, part], holder, next_of, lists_holder, end[part], forwards[part], one_lists[part], all_list[part]
        )
    return Walks(list(beliefs), end, forwards, one_lists, all_list)


def _walk(
    beliefs: npt.NDArray[np.uint8], holder: int | None, next_of: npt.NDArray[np.int8], lists_holder: Flags,
    end: npt.NDArray[np.int8], forwards: npt.NDArray[np.int8], one_lists: Flags, all_list: Flags,
) -> None:  # fmt: skip
    """Walk a packet through some beliefs at once, and write into the last four arrays what became of it (`Walks`)."""
    alive = np.arange(beliefs.shape[1])
    at, prev = np.full(alive.size, INGRESS, np.int8), np.zeros(alive.size, np.int8)
    for hop in range(HOPS):
        if holder:
            arrived = at == holder
            end[alive[arrived]] = ARRIVED
            alive, at, prev = alive[~arrived], at[~arrived], prev[~arrived]
        here = beliefs[at - 1, alive]
        one_lists[alive] |= lists_holder[here]
        all_list[alive] &= lists_holder[here]
        onward = next_of[at, here, hop, prev]
        end[alive[onward < 0]] = onward[onward < 0]
        going = onward > 0
        alive, at, prev = alive[going], onward[going], at[going]
        forwards[alive] += 1
        if not alive.size:
            return
    raise AssertionError("a packet is still in flight")


@cache
def walked(nodes: int, holder: int | None) -> Walks:
    return walk(nodes, holder)


def total_length(walks: Walks, index: int) -> int:
    return sum(len(chain) for chain in walks.believed(index).values())


@pytest.mark.parametrize("nodes", [1, 2, 3, FOUR])
@pytest.mark.parametrize("holder", [None, HOLDER])
def test_forwards_are_bounded_whatever_the_nodes_believe(nodes: int, holder: int | None) -> None:
    walks = walked(nodes, holder)
    assert walks.forwards.max() <= K + 1
    assert walks.end.all()
    # The bound is reached: a test that could not fail would prove nothing.
    assert nodes < 3 or holder or walks.forwards.max() == K + 1


@pytest.mark.parametrize("nodes", [2, 3, FOUR])
def test_packet_arrives_if_all_nodes_agree(nodes: int) -> None:
    walks = walked(nodes, HOLDER)
    same = np.logical_and.reduce([chain == walks.chain[0] for chain in walks.chain[1:]])
    assert (walks.end[same & walks.one_lists] == ARRIVED).all()


def lost_on(length: int) -> list[tuple[int, int]]:
    """Return ingress and holder of each packet that is lost although all believe the chain 1, 2, ... of that length."""
    chain, lost = tuple(range(1, length + 1)), []
    for ingress, holder in itertools.product((*chain, 99), chain):
        at, packet = ingress, Packet(opens=False)
        while (decision := decide(Belief(at, chain, CONNECTION if at == holder else None), packet)).to:
            at, packet = decision.to, Packet(opens=False, hop=packet.hop + 1, prev=at)
        if at != holder:
            lost.append((ingress, holder))
    return lost


@pytest.mark.parametrize("length", range(1, K + 1))
def test_packet_arrives_on_an_agreed_chain_of_fewer_than_k_nodes(length: int) -> None:
    assert lost_on(length) == ([(1, 9), (2, 9)] if length == K else [])


def test_packet_arrives_among_three_nodes_if_each_visited_node_lists_the_holder() -> None:
    walks = walked(3, HOLDER)
    assert (walks.end[walks.all_list] == ARRIVED).all()


def test_packet_can_be_lost_if_only_one_visited_node_lists_the_holder() -> None:
    walks = walked(3, HOLDER)
    lost = np.flatnonzero(walks.one_lists & (walks.end != ARRIVED))
    smallest = walks.believed(min(lost, key=lambda index: total_length(walks, index)))
    assert {node: smallest[node] for node in (1, 3)} == {1: (3, 2), 3: ()}


@pytest.mark.slow
def test_packet_can_circle_among_four_nodes_with_three_owners() -> None:
    walks = walked(4, HOLDER)
    round_trip = walks.all_list & (walks.end == ENDS["drop_hop_limit"])
    smallest = walks.believed(min(np.flatnonzero(round_trip)[:20_000], key=lambda index: total_length(walks, index)))
    assert {node: smallest[node] for node in (1, 3, 4)} == {1: (3, 2), 3: (4, 2), 4: (1, 2)}


@pytest.mark.parametrize("nodes", [2, 3, FOUR])
def test_in_grace_no_kernel_without_the_connection_sees_it(nodes: int) -> None:
    ends = set(np.unique(walk(nodes, HOLDER, grace=True).end))
    assert ends <= {ARRIVED, ENDS["drop_grace"], ENDS["drop_hop_limit"]}


SOCKETS = {Socket.NONE: None, Socket.CONNECTION: CONNECTION, Socket.TIME_WAIT: TIME_WAIT, Socket.COOKIE: COOKIE}


NAMES = {counter: counter.name.lower() for counter in Counter}


def compare(here: NodeState[int], arrivals: Iterable[tuple[Arrival[int], Packet]]) -> None:
    """Decide on packets, each as the reference implementation and as the oracle knows it."""
    lost = set() if here.reachable is None else set(range(1, 9)) - set(here.reachable)
    known = here.silent, here.awaited, here.narrow, here.any_narrow
    belief = Belief(here.me, here.chain, SOCKETS[here.socket], here.up, here.grace, lost, *known)
    for arrival, packet in arrivals:
        theirs, ours = pick(here, arrival), decide(belief, packet)
        assert (ours.event, ours.to) == (NAMES[theirs.event], theirs.to), (here, arrival)
        assert theirs.to is None or ours.graced == theirs.in_grace, (here, arrival)


def twice(arrival: Arrival[int]) -> tuple[Arrival[int], Packet]:
    return arrival, Packet(arrival.opens, arrival.hop, arrival.prev, arrival.udp, arrival.in_grace)


def some_of(choose: Random, nodes: Collection[int], at_most: int) -> set[int]:
    return set(choose.sample(sorted(nodes), min(len(nodes), choose.randrange(at_most + 1))))


@pytest.mark.parametrize(("nodes", "some"), [(3, 2_000), pytest.param(4, 50_000, marks=pytest.mark.slow)])
def test_oracle_and_reference_implementation_agree(nodes: int, some: int) -> None:
    """All chains of few nodes, some of up to 8. test_next_hop.py compares the reference with the program."""
    arrivals = [
        twice(Arrival(opens, hop, prev, in_grace=in_grace))
        for opens in (True, False)
        for hop in range(K + 3)
        for prev in ((2, 3, 4, 9) if hop else (None,))
        for in_grace in (False, True)
    ]
    for chain, socket, up, grace in itertools.product(chains(nodes), SOCKETS, (True, False), (True, False)):
        compare(NodeState(1, chain, socket, up, grace), arrivals)
    choose = Random(11)
    for _ in range(some):
        chain = tuple(choose.sample(range(1, 9), choose.randrange(9)))
        lost, silent = some_of(choose, range(2, 9), 3), some_of(choose, range(2, 9), 5)
        hop = choose.randrange(K + 3)
        prev, udp = choose.randrange(2, 10) if hop else None, choose.random() < 0.1
        arrival = Arrival(choose.random() < 0.3, hop, prev, udp, in_grace=choose.random() < 0.3)
        up, grace, socket = choose.random() < 0.5, choose.random() < 0.5, choose.choice(list(SOCKETS))
        reachable, awaited = set(range(1, 9)) - lost, some_of(choose, silent, 2)
        narrow = some_of(choose, range(2, 9), 7) if choose.random() < 0.3 else set()
        width = {"narrow": narrow, "any_narrow": bool(narrow) or choose.random() < 0.1}
        compare(NodeState(1, chain, socket, up, grace, reachable, silent, awaited, **width), [twice(arrival)])
