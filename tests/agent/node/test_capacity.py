# SPDX-License-Identifier: Apache-2.0
"""More members than a node's table holds: every node leaves out the same ones, and names them."""

import random
from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.model import Member
from agent.node.capacity import MAX_MEMBERS, fitting, problem

FIRST = IPv4Address("10.0.0.1")


def member(number: int, lost: bool = False) -> Member:
    return Member(FIRST + number, (1,), {}, lost, 0.0, "")


def test_while_all_fit_nothing_changes() -> None:
    others = tuple(member(number) for number in range(1, 4))
    assert fitting(others, FIRST, limit=4) == (others, frozenset())
    assert fitting(others, FIRST, limit=4)[0] is others
    assert problem(frozenset()) == []


@given(st.sets(st.integers(0, 200), min_size=2, max_size=40), st.integers(1, 30), st.randoms())
def test_all_nodes_leave_out_the_same_nodes(numbers: set[int], limit: int, rng: random.Random) -> None:
    choices = set()
    for own in numbers:
        others = tuple(member(number) for number in sorted(numbers - {own}))
        fit, excess = fitting(others, FIRST + own, limit)
        assert {m.address for m in fit} | excess | {FIRST + own} == {FIRST + number for number in numbers}
        assert len({m.address for m in fit} | ({FIRST + own} - excess)) == min(limit, len(numbers))
        choices.add(excess)
    assert len(choices) == 1


def test_who_is_lost_yields_to_the_living() -> None:
    """A node that joined later does not know the lost one, and must come to the same result."""
    living = tuple(member(number) for number in range(2, 5))
    with_lost = (member(1, lost=True), *living)
    assert fitting(with_lost, FIRST, limit=4) == (living, frozenset({FIRST + 1}))
    assert fitting(living, FIRST, limit=4) == (living, frozenset())
    back = (replace(with_lost[0], lost=False), *living)
    assert fitting(back, FIRST, limit=4)[1] == {FIRST + 4}


@pytest.mark.parametrize(("count", "named"), [(1, "10.0.0.1 own"), (9, "10.0.0.8 and 1 more own")])
def test_nodes_that_do_not_fit_are_named(count: int, named: str) -> None:
    (line,) = problem({FIRST + number for number in range(count)})
    assert line.startswith(f"{MAX_MEMBERS + count} members are {count} more than a node's table holds: 10.0.0.1")
    assert named in line
