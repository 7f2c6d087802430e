# SPDX-License-Identifier: Apache-2.0
"""A switch from one epoch to another, walked over all mixtures of nodes that are at one step of it or at the next.

A flow has a row in each epoch's table: by renaming nodes, the new one's chain is 1, 2, ..., the old one's any other of
the same length. The steps of a node, with what it makes of the two rows:

    old       knows the old epoch only                   old
    both      the old one's places, then the new one's   old + new       its configuration has both, not all others' do
    turns     places in turns, the old owner first       old x new       all have both
    switched  places in turns, the new owner first       new x old
    leaving   the new one's places, then the old one's   new + old       some know the new one only
    new       knows the new epoch only                   new

What holds, without grace:
 1. Whatever node a new flow enters at, an owner of one of the two rows takes it.
 2. While all know both, an owner's packets reach it within two forwards, wherever they enter.
 3. Beside nodes that know one epoch only, every node that its chain names is reached as among those nodes alone.
 4. Where all are switched, every place that counts is reached.
That no packet is forwarded more than K + 1 times, and that in grace nobody else's kernel sees one, holds for whatever
nodes believe (test_next_hop_walk.py); so it holds for connections that neither row's owner has, while nodes switch.

Were one row's places tried after the other's, 2 would not hold.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache

import pytest
from support.oracle.next_hop import CONNECTION, Belief, Decision, K, Packet, decide, two_rows

from bpf.reference.pick import joined

Chain = tuple[int, ...]
Step = Callable[[Chain, Chain], Sequence[int]]

STEPS: Mapping[str, Step] = {
    "old": lambda _, old: old,
    "both": lambda new, old: two_rows(old, new, alternating=False),
    "turns": lambda new, old: two_rows(old, new, alternating=True),
    "switched": lambda new, old: two_rows(new, old, alternating=True),
    "leaving": lambda new, old: two_rows(new, old, alternating=False),
    "new": lambda new, _: new,
}
SIZES = [(3, 2), (3, 3), (4, 2), (4, 3), (4, 4), (5, 2), (5, 3), (5, 4)]
"""Nodes, and places in a chain."""


@cache
def decided(me: int, chain: Chain, holds: bool, opens: bool, hop: int, prev: int | None) -> Decision:
    return decide(Belief(me, chain, CONNECTION if holds else None), Packet(opens, hop, prev))


def walk(beliefs: Sequence[Chain], ingress: int, holder: int | None, opens: bool = False) -> tuple[int, str, int]:
    """Where a packet ends, how, and after how many forwards. Node i believes `beliefs[i - 1]`."""
    at, prev, hop = ingress, None, 0
    while (decision := decided(at, beliefs[at - 1], at == holder, opens, hop, prev)).to:
        at, prev, hop = decision.to, at, hop + 1
    return at, decision.event, hop


def mixtures(nodes: int, places: int, *steps: str) -> Iterator[tuple[Chain, Chain, tuple[Chain, ...]]]:
    """The two chains, and what each node makes of them, for all old chains and all nodes at any of these steps."""
    new = tuple(range(1, places + 1))
    for old in itertools.permutations(range(1, nodes + 1), places):
        kinds = [tuple(STEPS[step](new, old)) for step in steps]
        for beliefs in itertools.product(kinds, repeat=nodes):
            yield new, old, beliefs


@pytest.mark.parametrize(("nodes", "places"), SIZES)
@pytest.mark.parametrize(
    "steps",
    [("old", "both"), ("both", "turns"), ("turns", "switched"), ("switched", "leaving"), ("leaving", "new")],
    ids="-".join,
)
def test_a_new_flow_is_taken_by_an_owner(nodes: int, places: int, steps: tuple[str, str]) -> None:
    for new, old, beliefs in mixtures(nodes, places, *steps):
        for ingress in range(1, nodes + 1):
            taker, event, forwards = walk(beliefs, ingress, None, opens=True)
            assert event.startswith("deliver")
            assert taker in (new[0], old[0])
            assert forwards <= 1


@pytest.mark.parametrize(("nodes", "places"), SIZES)
def test_while_nodes_switch_owners_are_reached_within_two_forwards(nodes: int, places: int) -> None:
    for new, old, beliefs in mixtures(nodes, places, "turns", "switched"):
        for ingress, holder in itertools.product(range(1, nodes + 1), (new[0], old[0])):
            end, _, forwards = walk(beliefs, ingress, holder)
            assert end == holder
            assert forwards <= 2


@pytest.mark.parametrize(("nodes", "places"), SIZES)
@pytest.mark.parametrize("steps", [("both", "turns"), ("switched", "leaving")], ids="-".join)
def test_while_nodes_begin_or_end_to_take_turns_the_first_owner_is_reached_at_once(
    nodes: int, places: int, steps: tuple[str, str]
) -> None:
    for *_, beliefs in mixtures(nodes, places, *steps):
        owner = beliefs[0][0]
        for ingress in range(1, nodes + 1):
            end, _, forwards = walk(beliefs, ingress, owner)
            assert (end, forwards) == (owner, int(ingress != owner))


@pytest.mark.parametrize(("nodes", "places"), SIZES)
@pytest.mark.parametrize("known", ["old", "new"])
def test_beside_nodes_that_know_one_epoch_all_that_it_names_are_reached(nodes: int, places: int, known: str) -> None:
    """This lasts as long as an operator takes from the first node to the last, so it must hold for old owners too."""
    steps = ("old", "both") if known == "old" else ("leaving", "new")
    for new, old, beliefs in mixtures(nodes, places, *steps):
        for ingress, holder in itertools.product(range(1, nodes + 1), old if known == "old" else new):
            assert walk(beliefs, ingress, holder)[0] == holder


@pytest.mark.parametrize(("nodes", "places"), SIZES)
@pytest.mark.parametrize("step", ["turns", "switched"])
def test_where_all_have_switched_every_place_that_counts_is_reached(nodes: int, places: int, step: str) -> None:
    for new, old, beliefs in mixtures(nodes, places, step):
        assert set(beliefs[0]) >= {*new[:3], *old[:3]}
        for ingress, holder in itertools.product(range(1, nodes + 1), beliefs[0]):
            end, _, forwards = walk(beliefs, ingress, holder)
            assert end == holder
            assert forwards <= K - 1


@pytest.mark.parametrize(("places", "share"), [(2, 0.10), (3, 0.07), (4, 0.04)])
def test_one_that_comes_back_with_the_old_epoch_alone_loses_little(places: int, share: float) -> None:
    """Connections made under the new one meanwhile: some ways end at it, for it does not know their rows."""
    new, lost, walked = tuple(range(1, places + 1)), 0, 0
    for old in itertools.permutations(range(1, 6), places):
        for straggler, ingress in itertools.product(range(1, 6), repeat=2):
            steps = ["old" if node == straggler else "both" for node in range(1, 6)]
            beliefs = [tuple(STEPS[step](new, old)) for step in steps]
            assert walk(beliefs, ingress, old[0])[0] == old[0]
            walked += 1
            lost += walk(beliefs, ingress, new[0])[0] != new[0]
    assert 0 < lost / walked < share


def test_one_row_after_the_other_would_lose_owners_while_nodes_switch() -> None:
    lost = 0
    for new, old, beliefs in mixtures(5, 3, "both", "leaving"):
        for ingress, holder in itertools.product(range(1, 6), (new[0], old[0])):
            lost += walk(beliefs, ingress, holder)[0] != holder
    assert lost > 0


def test_the_two_statements_of_how_rows_are_joined_agree() -> None:
    chains = [chain for size in range(5) for chain in itertools.permutations(range(1, 6), size)]
    longer = [tuple(range(1, 9)), tuple(range(8, 0, -1)), (5, 7, 1, 8, 2, 3)]
    for first, other, alternating in itertools.product([*chains, *longer], [*chains[::7], *longer], (False, True)):
        assert joined(first, other, alternating) == tuple(two_rows(first, other, alternating))
