# SPDX-License-Identifier: Apache-2.0
"""Which nodes check a backend, and what the others believe."""

from collections import Counter
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.health.rise_fall import Health
from agent.nat.backend import BackendKey, ambiguous
from agent.nat.belief import CHECKERS, assigned, believed, must_check

NODES = [IPv4Address(f"10.0.0.{n}") for n in range(1, 21)]
BACKENDS = [BackendKey("192.0.2.10:443/tcp", IPv4Address(f"10.9.0.{n}"), 8443).number for n in range(1, 101)]
UP, DOWN = Health(True, 1, 3.0, "accepts connections"), Health(False, 0, 3.0, "refused")


def checkers(nodes: list[IPv4Address]) -> dict[int, set[IPv4Address]]:
    of_node = {node: assigned(node, nodes, BACKENDS) for node in nodes}
    return {backend: {node for node in nodes if backend in of_node[node]} for backend in BACKENDS}


@pytest.mark.parametrize("count", [1, 4, 5, 20])
def test_each_backend_has_five_checkers_or_all_nodes(count: int) -> None:
    found = checkers(NODES[:count])
    assert {len(some) for some in found.values()} == {min(count, CHECKERS)}


def test_checks_are_spread_over_the_nodes() -> None:
    load = Counter(node for some in checkers(NODES).values() for node in some)
    assert len(load) == len(NODES)
    assert max(load.values()) <= 2 * CHECKERS * len(BACKENDS) / len(NODES)


def test_node_that_goes_leaves_its_checks_and_no_others_change() -> None:
    before, after = checkers(NODES), checkers(NODES[1:])
    for backend in BACKENDS:
        assert len(before[backend] - after[backend]) == (NODES[0] in before[backend])


def test_node_that_does_no_nat_is_assigned_nothing() -> None:
    assert assigned(NODES[0], NODES[1:], BACKENDS) == frozenset()
    assert assigned(NODES[0], NODES, []) == frozenset()


@given(st.lists(st.booleans(), max_size=5))
def test_node_checks_itself_unless_all_results_are_good(votes: list[bool]) -> None:
    assert must_check(votes) == (votes.count(True) == 0 or False in votes)


@pytest.mark.parametrize(
    ("before", "votes", "healthy", "since", "why"),
    [
        (DOWN, [True, True], True, 9.0, "answers 2 of 2 nodes"),
        (UP, [False, False, True], False, 9.0, "does not answer 2 of 3 nodes"),
        (UP, [False, True, True], True, 3.0, "answers 2 of 3 nodes"),
        (UP, [False, True], True, 3.0, "accepts connections"),
        (DOWN, [], False, 3.0, "refused"),
    ],
)
def test_most_results_decide(before: Health, votes: list[bool], healthy: bool, since: float, why: str) -> None:
    after = believed(before, votes, 9.0)
    assert (after.healthy, after.since, after.why) == (healthy, since, why)
    assert believed(after, votes, 10.0) is after


def test_numbers_of_backends_differ_by_service_address_and_port() -> None:
    one = BackendKey("192.0.2.10:443/tcp", IPv4Address("10.9.0.1"), 8443)
    others = [
        one._replace(service="192.0.2.10:443/udp"),
        one._replace(address=IPv4Address("10.9.0.2")),
        one._replace(port=1),
    ]
    numbers = {key: key.number for key in (one, *others)}
    assert len(set(numbers.values())) == 4
    assert not ambiguous(numbers)
    assert all(0 <= number < 1 << 31 for number in numbers.values())
    assert ambiguous({one: 5, others[0]: 5, others[1]: 6}) == {5}
