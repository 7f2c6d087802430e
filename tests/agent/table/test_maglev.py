# SPDX-License-Identifier: Apache-2.0
"""Maglev tables against the oracle, their golden vectors, their spread, and the old owners in their chains."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.candidates import BASE, candidate, chains_of, members, plain
from support.examples import examples
from support.oracle import chain as oracle

from agent.model import Candidate, State
from agent.table import maglev
from agent.table.table import Table


@cache
def built(candidates: tuple[Candidate, ...], rows: int, chain: int) -> Table:
    return maglev.build(list(candidates), rows, chain)


def build(candidates: Sequence[Candidate], rows: int, chain: int) -> Table:
    """Build each table once for the whole file."""
    return built(tuple(candidates), rows, chain)


@examples(60)
@given(st.lists(candidate, max_size=9, unique_by=lambda c: c.address), st.integers(1, 8), st.randoms())
def test_equals_the_oracle(candidates: list[Candidate], chain: int, shuffler: object) -> None:
    asked = plain(candidates)
    shuffler.shuffle(candidates)  # type: ignore[attr-defined]
    assert chains_of(build(candidates, 256, chain)) == oracle.maglev(asked, 256, chain)


@pytest.mark.slow
def test_many_members_equal_the_oracle() -> None:
    """Enough rows for both searches for the next free one, and enough members for several blocks."""
    crowd = [Candidate(BASE + i, 50 + i, 50 + i, State.UP) for i in range(50)]
    asked = plain(crowd)
    assert chains_of(build(crowd, 2048, 4)) == oracle.maglev(asked, 2048, 4)


def test_golden_vectors() -> None:
    """Frozen: a change here is a new TABLE_VERSION, or clusters would break connections when they upgrade."""
    mixed = [
        Candidate(BASE, 100, 100, State.UP),
        Candidate(BASE + 1, 300, 75, State.UP),
        Candidate(BASE + 2, 200, 0, State.DRAINING),
        Candidate(BASE + 3, 100, 0, State.LOST),
        Candidate(BASE + 4, 0, 0, State.UP),
    ]
    assert build(members(5), 65_536, 4).digest == "b7191e55d6e37916"
    assert build(mixed, 4096, 8).digest == "586c987c9fdee1de"


@pytest.mark.parametrize("count", [2, 7, 64, 1000])
def test_spread_is_nearly_perfect(count: int) -> None:
    owners = np.bincount(build(members(count), 65_536, 4).places[:, 0], minlength=count)
    assert owners.max() / owners.mean() <= 1.02
    assert owners.max() - owners.min() <= 1


@pytest.mark.parametrize("weights", [[100, 200, 300, 400], [1, 10_000], [37 * i % 50 + 50 for i in range(500)]])
def test_spread_follows_weight(weights: list[int]) -> None:
    candidates = [Candidate(BASE + i, weight, weight, State.UP) for i, weight in enumerate(weights)]
    owners = np.bincount(build(candidates, 65_536, 4).places[:, 0], minlength=len(weights))
    ideal = np.array(weights) * 65_536 / sum(weights)
    assert np.abs(owners - ideal).max() < 2


def moved(before: list[Candidate], after: list[Candidate], table_rows: int = 65_536) -> tuple[int, int]:
    """Return how many rows have another owner, and how many of those no longer have the old one in their chain."""
    old, new = (addresses(build(candidates, table_rows, 4)) for candidates in (before, after))
    rows = old[:, 0] != new[:, 0]
    return int(rows.sum()), int((new[rows] != old[rows][:, :1]).all(axis=1).sum())


def addresses(table: Table) -> NDArray[np.int64]:
    return np.array([*map(int, table.members), 0])[table.places]


NUMBERS_OF_ROWS = [4096, pytest.param(65_536, marks=pytest.mark.slow)]


@pytest.mark.parametrize("table_rows", NUMBERS_OF_ROWS)
@pytest.mark.parametrize("count", [2, 5, 64])
@pytest.mark.parametrize(
    "change", [{"state": State.DRAINING, "effective": 0}, {"state": State.LOST, "effective": 0}, {"effective": 30}]
)
def test_the_old_owner_of_every_moved_row_is_next(count: int, change: dict[str, object], table_rows: int) -> None:
    before = members(count)
    after = [*before[:1], replace(before[1], **change), *before[2:]]  # type: ignore[arg-type]
    old, new = (addresses(build(candidates, table_rows, 4)) for candidates in (before, after))
    different = new[:, 0] != old[:, 0]
    assert different.sum() > table_rows // count // 4
    assert (new[different, 1] == old[different, 0]).all()


@pytest.mark.parametrize("table_rows", NUMBERS_OF_ROWS)
@pytest.mark.parametrize("state", [State.DRAINING, State.LOST])
def test_removal_after_a_drain_moves_no_owner(state: State, table_rows: int) -> None:
    drained = members(16)
    drained[3] = replace(drained[3], effective=0, state=state)
    assert moved(drained, drained[:3] + drained[4:], table_rows) == (0, 0)


@pytest.mark.parametrize(
    ("count", "most_moved", "most_lost"), [(2, 0.34, 0), (5, 0.18, 4), (16, 0.065, 10), (64, 0.021, 30)]
)
def test_rows_of_a_new_member_have_the_old_owner(count: int, most_moved: float, most_lost: int) -> None:
    """Not every row, unlike rendezvous: see the module. The bounds are a little above the measured figures."""
    rows, lost = moved(members(count), members(count + 1))
    assert 65_536 // (count + 1) <= rows + 1 <= most_moved * 65_536
    assert lost <= most_lost


def test_without_a_healthy_member_all_present_ones_own_rows() -> None:
    draining = [Candidate(BASE + i, 100, 0, State.DRAINING) for i in range(2)]
    lost = Candidate(BASE + 2, 100, 0, State.LOST)
    assert {chain[0] for chain in chains_of(build([*draining, lost], 4096, 4))} == {BASE, BASE + 1}
    assert {chain[0] for chain in chains_of(build([lost], 4096, 4))} == {BASE + 2}
    assert chains_of(build([], 4096, 4)) == [[]] * 4096
