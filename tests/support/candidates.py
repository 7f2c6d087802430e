# SPDX-License-Identifier: Apache-2.0
"""Candidates of tables, for the tests of both algorithms: made, drawn at random, and as the oracle takes them."""

from collections.abc import Iterable
from ipaddress import IPv4Address

from hypothesis import strategies as st

from agent.model import Candidate, State
from agent.table.table import Table

BASE = IPv4Address("10.0.0.11")

candidate = st.builds(
    lambda offset, weight, part, state: Candidate(
        BASE + offset, weight, weight * part // 4 if state is State.UP else 0, state
    ),
    offset=st.integers(0, 4000),
    weight=st.one_of(st.integers(0, 10_000), st.sampled_from([0, 1, 100, 10_000])),
    part=st.integers(0, 4),
    state=st.sampled_from([State.UP, State.UP, State.DRAINING, State.LOST]),
)


def members(count: int, weight: int = 100) -> list[Candidate]:
    return [Candidate(BASE + i, weight, weight, State.UP) for i in range(count)]


def plain(candidates: Iterable[Candidate]) -> list[tuple[IPv4Address, int, int, str]]:
    """Return the candidates as the oracle takes them."""
    return [(c.address, c.weight, c.effective, str(c.state)) for c in candidates]


def chains_of(table: Table) -> list[list[IPv4Address]]:
    """Return the nodes of each row, owner first."""
    return [[table.members[place] for place in row if place >= 0] for row in table.places.tolist()]
