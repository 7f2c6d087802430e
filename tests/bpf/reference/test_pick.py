# SPDX-License-Identifier: Apache-2.0
"""The next-hop rule, by its reference implementation alone: bounded forwards, and a single change that spreads."""

import itertools
import random
from collections import Counter as Tally
from collections.abc import Collection, Iterator
from dataclasses import replace

import pytest

from bpf.layout.counter import Counter
from bpf.layout.limits import HOP_MAX
from bpf.reference.pick import Arrival, Decision, NodeState, Socket, pick


def walk(
    chains: dict[int, tuple[int, ...]], holder: int | None, opens: bool, ingress: int, in_grace: Collection[int] = ()
) -> list[tuple[int, Decision[int]]]:
    """Follow a packet through nodes that each believe their own chain; (node, decision) at each."""
    at, packet, path = ingress, Arrival[int](opens), []
    while True:
        socket_here = Socket.CONNECTION if at == holder else Socket.NONE
        decision = pick(NodeState(at, chains[at], socket_here, grace=at in in_grace), packet)
        path.append((at, decision))
        if decision.to is None:
            return path
        packet = replace(packet, hop=decision.hop, prev=at)
        at = decision.to


def tables_of(nodes: int) -> list[tuple[int, ...]]:
    return [chain for size in range(nodes + 1) for chain in itertools.permutations(range(1, nodes + 1), size)]


def believed(nodes: int, samples: int) -> Iterator[dict[int, tuple[int, ...]]]:
    """Yield all disagreements of that many nodes, or so many samples of them."""
    tables = tables_of(nodes)
    if samples:
        choose = random.Random(nodes)
        yield from (dict(enumerate(choose.choices(tables, k=nodes), 1)) for _ in range(samples))
    else:
        yield from (dict(enumerate(chains, 1)) for chains in itertools.product(tables, repeat=nodes))


ALL = 0


@pytest.mark.parametrize(
    ("nodes", "samples"),
    [(4, 200), *(pytest.param(*more, marks=pytest.mark.slow) for more in ((5, 200), (3, ALL), (4, 4000), (5, 4000)))],
)
def test_forwards_are_bounded_however_tables_disagree(nodes: int, samples: int) -> None:
    for chains in believed(nodes, samples):
        for ingress, holder, opens in itertools.product(chains, [None, *chains], (True, False)):
            forwards = len(walk(chains, holder, opens, ingress)) - 1
            assert forwards <= HOP_MAX, (chains, ingress, holder, opens)


def chain_of(states: tuple[str, ...]) -> tuple[int, ...]:
    """Return the chain of a row that ranks nodes 1, 2, ...: first the best that is up, then all others in order."""
    present = [node for node, state in enumerate(states, 1) if state != "absent"]
    best = next((node for node in present if states[node - 1] == "up"), None)
    return (best, *(node for node in present if node != best))[:4] if best else ()


def single_changes(nodes: int) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """A node joins, drains or returns; it never goes without having drained."""
    for old in itertools.product(("absent", "up", "draining"), repeat=nodes):
        for node, state in itertools.product(range(nodes), ("up", "draining")):
            if old[node] != state:
                yield old, (*old[:node], state, *old[node + 1 :])


@pytest.mark.parametrize("nodes", [3, 4, pytest.param(5, marks=pytest.mark.slow)])
def test_single_change_resets_no_connection(nodes: int) -> None:
    """While it spreads, each node believes the old chain or the new, in any mixture.

    A packet reaches the old owner, which has its connection, or, in a few mixtures, is dropped and sent again; no other
    node's kernel ever answers it.
    """
    ends: Tally[Counter] = Tally()
    for old, new in single_changes(nodes):
        before, after = chain_of(old), chain_of(new)
        if before == after or not before or before[0] not in after:
            continue
        present = [node for node in range(1, nodes + 1) if (old[node - 1], new[node - 1]) != ("absent", "absent")]
        for beliefs in itertools.product((before, after), repeat=len(present)):
            changed = {node for node, belief in zip(present, beliefs, strict=True) if belief is after}
            for ingress in present:
                path = walk(dict(zip(present, beliefs, strict=True)), before[0], False, ingress, changed)
                node, decision = path[-1]
                ends[decision.event] += 1
                assert node == before[0] or decision.event.name.startswith("DROP_"), (beliefs, path)
    dropped = sum(count for event, count in ends.items() if event.name.startswith("DROP_"))
    assert dropped < ends.total() / 1000
