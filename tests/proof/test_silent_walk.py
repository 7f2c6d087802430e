# SPDX-License-Identifier: Apache-2.0
"""Silent nodes, walked: who is reached while some nodes of a chain are dead, and who answers in their place.

All nodes believe one chain, 1, 2, ..., which is each chain by renaming; node 99 is outside it. Dead nodes swallow what
they get. Each living node knows all of them as silent, or, as an observer that is late, none.

What holds:
 1. If all know, a packet reaches every living node of a chain of up to 8, wherever it enters; none is swallowed.
 2. If all know, a new flow is delivered where the chain without the dead nodes delivers it, within one forward.
 3. If one does not know yet, a packet is lost only to a dead node that this one sent it to.
 4. While a dead node of the chain is awaited, no node answers a packet without its connection: no reset.
 5. Whatever nodes believe of chains and of each other's silence, no packet is forwarded more than K + 1 times.

What does not hold: that a node which some other calls silent by mistake is always reached, or the packet dropped. Its
packets are dropped where the mistaken node is the last to be tried; a few of those for later places are reset by the
last node of the chain, which takes all before it for tried. Those for the owner are not.
"""

import itertools
from collections.abc import Collection, Iterator
from dataclasses import replace
from random import Random

import pytest
from support.oracle.next_hop import CONNECTION, Belief, K, Packet, decide

OUTSIDE = 99
DEAD = "swallowed"
ANSWERS = {"deliver_chain_end", "deliver_only_node", "pass_no_member"}
"""The kernel gets a packet whose connection it does not have, and resets it."""
FOUR, FIVE = (pytest.param(nodes, marks=pytest.mark.slow) for nodes in (4, 5))


def walk(
    chain: tuple[int, ...],
    silent: Collection[int],
    ingress: int,
    holder: int | None,
    unaware: Collection[int] = (),
    opens: bool = False,
) -> tuple[list[int], str]:
    """Return the nodes that a packet visits, and its end. Silent nodes are dead, but for a holder; all are awaited."""
    path, packet = [ingress], Packet(opens)
    while (at := path[-1]) == holder or at not in silent:
        known = () if at in unaware else silent
        socket = CONNECTION if at == holder else None
        decision = decide(Belief(at, chain, socket, silent=known, awaited=known), packet)
        if decision.to is None:
            return path, decision.event
        packet = replace(packet, hop=packet.hop + 1, prev=at)
        path.append(decision.to)
    return path, DEAD


def deaths(length: int) -> Iterator[tuple[tuple[int, ...], set[int], list[int]]]:
    """Yield the chain, who of it is dead, and all living nodes."""
    chain = tuple(range(1, length + 1))
    for size in range(1, length + 1):
        for dead in itertools.combinations(chain, size):
            yield chain, set(dead), [*sorted(set(chain) - set(dead)), OUTSIDE]


@pytest.mark.parametrize("length", range(1, K))
def test_every_living_node_is_reached_if_all_know_who_is_silent(length: int) -> None:
    for chain, dead, living in deaths(length):
        for ingress, holder in itertools.product(living, living[:-1]):
            path, event = walk(chain, dead, ingress, holder)
            assert (path[-1], event) == (holder, "deliver_socket"), (dead, path)


@pytest.mark.parametrize("length", range(1, K))
def test_new_flow_goes_where_the_chain_without_the_silent_takes_it(length: int) -> None:
    for chain, dead, living in deaths(length):
        for ingress in living:
            path, event = walk(chain, dead, ingress, None, opens=True)
            assert (path[-1], event) == (living[0], "deliver_owner"), (dead, path)
            assert len(path) <= 2


@pytest.mark.parametrize("length", range(2, 6))
def test_packet_is_lost_only_to_a_dead_node_that_a_late_observer_sent_it_to(length: int) -> None:
    lost, lost_if_none_knows, walks = 0, 0, 0
    for chain, dead, living in deaths(length):
        for ingress, holder, late in itertools.product(living, living[:-1], living):
            path, event = walk(chain, dead, ingress, holder, {late})
            assert event in ("deliver_socket", DEAD), (dead, late, path)
            assert event != DEAD or path[-2] == late, (dead, late, path)
            walks, lost = walks + 1, lost + (event == DEAD)
            lost_if_none_knows += walk(chain, dead, ingress, holder, living)[1] == DEAD
    assert lost <= lost_if_none_knows / 2, (lost, lost_if_none_knows, walks)
    print(f"chain of {length}: one late observer loses {lost} of {walks}; if no node knows, {lost_if_none_knows}")


def mistaken(chain: tuple[int, ...], holder: int, wrong: int) -> Iterator[tuple[list[int], str]]:
    """Yield path and end of a packet for `holder`, which lives, from each ingress; one other node calls it silent."""
    aware = {*chain, OUTSIDE} - {wrong}
    for ingress in (*chain, OUTSIDE):
        if ingress != holder:
            yield walk(chain, {holder}, ingress, holder, aware)


@pytest.mark.parametrize("length", range(2, K))
def test_owner_that_one_node_calls_silent_by_mistake_is_reached_or_its_packets_are_dropped(length: int) -> None:
    chain, reset, walks = tuple(range(1, length + 1)), 0, 0
    for holder in chain:
        for wrong in {*chain, OUTSIDE} - {holder}:
            for path, event in mistaken(chain, holder, wrong):
                walks += 1
                reset += event in ANSWERS
                assert holder != 1 or event not in ANSWERS, path
    assert reset / walks < 0.1


@pytest.mark.parametrize("nodes", [1, 2, 3, FOUR, FIVE])
def test_no_node_answers_while_a_silent_one_is_awaited(nodes: int) -> None:
    """Any chain, any silent nodes in it, any path to node 1: answered only if no node of the chain is silent."""
    numbers = range(1, nodes + 1)
    chains = [chain for size in range(nodes + 1) for chain in itertools.permutations(numbers, size)]
    answered = 0
    for chain, hop, grace in itertools.product(chains, range(K + 2), (False, True)):
        for size, prev in itertools.product(range(nodes), (*numbers[1:], OUTSIDE) if hop else (None,)):
            for silent in itertools.combinations(range(2, nodes + 1), size):
                here = Belief(1, chain, grace=grace, silent=silent, awaited=silent)
                event = decide(here, Packet(False, hop, prev)).event
                assert event not in ANSWERS or not set(silent) & set(chain), (here, hop, prev)
                answered += event in ANSWERS
    assert answered, "a test that could not fail would prove nothing"


@pytest.mark.parametrize(
    ("nodes", "beliefs"), [(3, 4_000), *(pytest.param(nodes, 20_000, marks=pytest.mark.slow) for nodes in (3, 4, 5))]
)
def test_forwards_are_bounded_whatever_nodes_believe_of_silence(nodes: int, beliefs: int) -> None:
    """Nodes believe any chains, and any others silent; all live and get what they are sent."""
    choose, longest = Random(nodes), 0
    chains = [chain for size in range(nodes + 1) for chain in itertools.permutations(range(1, nodes + 1), size)]
    for _ in range(beliefs):
        believed = {}
        for node in range(1, nodes + 1):
            others = [other for other in range(1, nodes + 1) if other != node and choose.random() < 0.3]
            believed[node] = Belief(node, choose.choice(chains), silent=others, awaited=others[:1])
        at, packet = 1, Packet(opens=False)
        while (decision := decide(believed[at], packet)).to is not None:
            at, packet = decision.to, replace(packet, hop=packet.hop + 1, prev=at)
            assert packet.hop <= K + 1, believed
        longest = max(longest, packet.hop)
    assert longest == K + 1, "the bound is reached"
