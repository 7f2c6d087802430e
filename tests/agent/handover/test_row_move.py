# SPDX-License-Identifier: Apache-2.0
"""Which rows move to which node: compared with the rule row by row, in plain Python."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from agent.handover.row_move import Chains, asked_nodes, owned, pulled_rows, pushed_rows

ROWS = 24
NODES = range(1, 7)


@st.composite
def chains(draw: st.DrawFn) -> Chains:
    width = draw(st.integers(1, 5))
    rows = [draw(st.permutations(NODES))[: draw(st.integers(0, width))] for _ in range(ROWS)]
    return np.array([[*row, *[0] * (width - len(row))] for row in rows], np.uint32)


def moves_to(old: list[int], new: list[int]) -> set[int]:
    """Return the nodes to which a row moves."""
    return {new[0]} - {old[0], 0}


@given(chains(), chains(), st.sampled_from(NODES))
def test_rows_move_to_new_owners(old: Chains, new: Chains, own: int) -> None:
    expected = [moves_to(before, after) for before, after in zip(old.tolist(), new.tolist(), strict=True)]
    pulled = pulled_rows(old, new, own)
    assert pulled.tolist() == [own in one for one in expected]
    pushed = pushed_rows(old, new, own)
    for node in set(NODES) - {own}:
        rows = pushed.get(node, np.zeros(ROWS, np.bool_))
        assert rows.tolist() == [node in one for one in expected]
    assert own not in pushed
    assert 0 not in pushed
    named = {node for row in np.concatenate([old[pulled].ravel(), new[pulled].ravel()]).tolist() for node in [row]}
    assert asked_nodes(old, new, pulled, own) == named - {0, own}


@given(chains(), st.sampled_from(NODES))
def test_without_old_chains_all_rows_that_it_owns(new: Chains, own: int) -> None:
    assert pulled_rows(None, new, own).tolist() == [own == row[0] for row in new.tolist()]
    assert owned(new, own).tolist() == [row[0] == own for row in new.tolist()]


def test_chains_that_stay_move_nothing() -> None:
    chains = np.array([[1, 2, 3], [2, 1, 0], [3, 0, 0]], np.uint32)
    assert pushed_rows(chains, chains, 1) == {}
    assert not pulled_rows(chains, chains, 2).any()
