# SPDX-License-Identifier: Apache-2.0
"""A switch from one epoch to another, walked over all mixtures of nodes at two successive steps.

A flow has a row in each epoch's table: by renaming nodes, the new one's chain is 1, 2, ..., the old one's any other of
the same length. The steps of a node, with the chain that it makes of the two rows:

    old       knows the old epoch only                   old
    both      the old one's places, then the new one's   old + new       it has both configured, some others do not
    turns     alternating places, the old owner first    old x new       all have both
    switched  alternating places, the new owner first    new x old
    leaving   the new one's places, then the old one's   new + old       some know the new one only
    new       knows the new epoch only                   new

What holds, without grace:
 1. At whatever node a new flow enters, an owner of one of the two rows delivers it.
 2. While all know both, an owner's packets reach it within two forwards, wherever they enter.
 3. While some nodes know one epoch only, every node of that epoch's chain is reached as if all knew only that one.
 4. When all have switched, every place of the joined chain is reached.
 5. 1 and 2 hold too while some nodes are silent, for the owners that live. The first node that lives of a row whose
    owner is silent delivers in its place, and is reached within three forwards.
Whatever nodes believe, no packet is forwarded more than K + 1 times, and in grace no other node's kernel sees one
(test_next_hop_walk.py); so this holds too, while nodes switch, for connections that neither row's owner has.

If one row's places were tried after the other's, 2 would not hold.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache

import pytest
from support.oracle.next_hop import CONNECTION, Belief, Decision, K, Packet, decide, join_rows

from bpf.reference import pick as reference

Chain = tuple[int, ...]
Step = Callable[[Chain, Chain], Sequence[int]]

STEPS: Mapping[str, Step] = {
    "old": lambda _, old: old,
    "both": lambda new, old: join_rows(old, new, alternating=False),
    "turns": lambda new, old: join_rows(old, new, alternating=True),
    "switched": lambda new, old: join_rows(new, old, alternating=True),
    "leaving": lambda new, old: join_rows(new, old, alternating=False),
    "new": lambda new, _: new,
}
SIZES = [(3, 2), (3, 3), (4, 2), (4, 3), (4, 4), (5, 2), (5, 3), (5, 4)]
"""Nodes, and places in a chain."""


@cache
def decided(me: int, chain: Chain, holds: bool, opens: bool, hop: int, prev: int | None, silent: Chain) -> Decision:
    here = Belief(me, chain, CONNECTION if holds else None, silent=silent, awaited=silent)
    return decide(here, Packet(opens, hop, prev))


def walk(
    beliefs: Sequence[Chain], ingress: int, holder: int | None, opens: bool = False, silent: Chain = ()
) -> tuple[int, str, int]:
    """Return where a packet ends, its event, and the number of forwards. Node i believes `beliefs[i - 1]`."""
    at, prev, hop = ingress, None, 0
    while (decision := decided(at, beliefs[at - 1], at == holder, opens, hop, prev, silent)).to:
        at, prev, hop = decision.to, at, hop + 1
    return at, decision.event, hop


def mixtures(nodes: int, places: int, *steps: str) -> Iterator[tuple[Chain, Chain, tuple[Chain, ...]]]:
    """Yield the two chains, and the chain of each node, for all old chains and all nodes at any of these steps."""
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
def test_new_flow_is_delivered_by_an_owner(nodes: int, places: int, steps: tuple[str, str]) -> None:
    for new, old, beliefs in mixtures(nodes, places, *steps):
        for ingress in range(1, nodes + 1):
            taker, event, forwards = walk(beliefs, ingress, None, opens=True)
            assert event.startswith("deliver")
            assert taker in (new[0], old[0])
            assert forwards <= 1


@pytest.mark.parametrize(("nodes", "places"), SIZES)
def test_owners_are_reached_within_two_forwards_while_nodes_switch(nodes: int, places: int) -> None:
    for new, old, beliefs in mixtures(nodes, places, "turns", "switched"):
        for ingress, holder in itertools.product(range(1, nodes + 1), (new[0], old[0])):
            end, _, forwards = walk(beliefs, ingress, holder)
            assert end == holder
            assert forwards <= 2


@pytest.mark.parametrize(("nodes", "places"), [(3, 3), (4, 3), (4, 4), pytest.param(5, 3, marks=pytest.mark.slow)])
def test_owners_are_reached_within_two_forwards_while_some_nodes_are_silent(nodes: int, places: int) -> None:
    """All know who is silent, and no node sends it anything. Without a living owner, the next of the two rows take
    its place."""
    for new, old, beliefs in mixtures(nodes, places, "turns", "switched"):
        for silent in (dead for size in (1, 2) for dead in itertools.combinations(range(1, nodes + 1), size)):
            living = [node for node in range(1, nodes + 1) if node not in silent]
            owners = {next((node for node in row if node in living), 0) for row in (new, old)} - {0}
            for ingress in living:
                taker, event, forwards = walk(beliefs, ingress, None, opens=True, silent=silent)
                assert event.startswith("deliver")
                assert taker in (owners or {ingress})
                assert forwards <= 1
                for holder in owners:
                    end, _, forwards = walk(beliefs, ingress, holder, silent=silent)
                    assert end == holder
                    assert forwards <= (2 if holder in (new[0], old[0]) else 3)


@pytest.mark.parametrize(("nodes", "places"), SIZES)
@pytest.mark.parametrize("steps", [("both", "turns"), ("switched", "leaving")], ids="-".join)
def test_first_owner_is_reached_by_one_forward_while_nodes_begin_or_end_to_alternate(
    nodes: int, places: int, steps: tuple[str, str]
) -> None:
    for *_, beliefs in mixtures(nodes, places, *steps):
        owner = beliefs[0][0]
        for ingress in range(1, nodes + 1):
            end, _, forwards = walk(beliefs, ingress, owner)
            assert (end, forwards) == (owner, int(ingress != owner))


@pytest.mark.parametrize(("nodes", "places"), SIZES)
@pytest.mark.parametrize("known", ["old", "new"])
def test_chain_of_the_epoch_that_all_know_is_reached(nodes: int, places: int, known: str) -> None:
    """This lasts until the operator has changed the last node, so it must hold for old owners too."""
    steps = ("old", "both") if known == "old" else ("leaving", "new")
    for new, old, beliefs in mixtures(nodes, places, *steps):
        for ingress, holder in itertools.product(range(1, nodes + 1), old if known == "old" else new):
            assert walk(beliefs, ingress, holder)[0] == holder


@pytest.mark.parametrize(("nodes", "places"), SIZES)
@pytest.mark.parametrize("step", ["turns", "switched"])
def test_every_place_of_the_joined_chain_is_reached_when_all_have_switched(nodes: int, places: int, step: str) -> None:
    for new, old, beliefs in mixtures(nodes, places, step):
        assert set(beliefs[0]) >= {*new[:3], *old[:3]}
        for ingress, holder in itertools.product(range(1, nodes + 1), beliefs[0]):
            end, _, forwards = walk(beliefs, ingress, holder)
            assert end == holder
            assert forwards <= K - 1


@pytest.mark.parametrize(("places", "share"), [(2, 0.10), (3, 0.07), (4, 0.04)])
def test_node_that_returns_with_the_old_epoch_alone_loses_little(places: int, share: float) -> None:
    """It does not know the rows of connections made under the new epoch: some of their packets end at it."""
    new, lost, walked = tuple(range(1, places + 1)), 0, 0
    for old in itertools.permutations(range(1, 6), places):
        for straggler, ingress in itertools.product(range(1, 6), repeat=2):
            steps = ["old" if node == straggler else "both" for node in range(1, 6)]
            beliefs = [tuple(STEPS[step](new, old)) for step in steps]
            assert walk(beliefs, ingress, old[0])[0] == old[0]
            walked += 1
            lost += walk(beliefs, ingress, new[0])[0] != new[0]
    assert 0 < lost / walked < share


def test_one_row_after_the_other_loses_owners_while_nodes_switch() -> None:
    lost = 0
    for new, old, beliefs in mixtures(5, 3, "both", "leaving"):
        for ingress, holder in itertools.product(range(1, 6), (new[0], old[0])):
            lost += walk(beliefs, ingress, holder)[0] != holder
    assert lost > 0


def test_oracle_and_reference_implementation_join_rows_alike() -> None:
    chains = [chain for size in range(5) for chain in itertools.permutations(range(1, 6), size)]
    longer = [tuple(range(1, 9)), tuple(range(8, 0, -1)), (5, 7, 1, 8, 2, 3)]
    for first, other, alternating in itertools.product([*chains, *longer], [*chains[::7], *longer], (False, True)):
        assert reference.join_rows(first, other, alternating) == tuple(join_rows(first, other, alternating))
