# SPDX-License-Identifier: Apache-2.0
"""The kernel's rows of a table, with claimants and without."""

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Address

import numpy as np

from agent.forwarding.row_array import RowArray, chains_of, claims_in, differing
from agent.forwarding.row_array import rows_of as service_rows
from agent.model import Candidate, State
from agent.table.algorithm import build as build_with_lost
from agent.table.claims import Claimants, claimants
from agent.table.rendezvous import build
from agent.table.table import Table

ROWS = 4096
ADDRESSES = [IPv4Address("10.0.0.11") + i for i in range(10)]
CANDIDATES = [Candidate(address, 100, 100, State.UP) for address in ADDRESSES]
INDEXES = [3, 1, 9, 7, 5, 4, 8, 2, 6, 10]
TABLE = build(CANDIDATES, ROWS, 4)


def rows_of(table: Table, found: Claimants | None, indexes: Sequence[int], count: int) -> RowArray:
    return service_rows(table, found, indexes, count).array()


def test_rows_without_claims_are_the_same_bit_for_bit() -> None:
    rows = rows_of(TABLE, None, INDEXES, ROWS)
    assert (rows[:, 4:] == 0).all()
    assert (rows[:, :4] == np.array(INDEXES, np.uint16)[TABLE.places]).all()
    some = rows_of(TABLE, claimants(TABLE, CANDIDATES, {ADDRESSES[2]: np.array([5], np.uint32)}), INDEXES, ROWS)
    changed = differing(some, rows)
    assert changed.sum() == (0 if 2 in TABLE.places[5].tolist() else 1)
    assert (rows_of(TABLE, claimants(TABLE, CANDIDATES, {}), INDEXES, ROWS) == rows).all()


def test_claims_are_found_again_in_the_rows() -> None:
    rng = np.random.default_rng(1)
    claims = {a: np.sort(rng.choice(ROWS, 50, replace=False)).astype(np.uint32) for a in ADDRESSES}
    rows = rows_of(TABLE, claimants(TABLE, CANDIDATES, claims), INDEXES, 2 * ROWS)
    assert (rows[:ROWS] == rows[ROWS:]).all(), "a table with fewer rows is repeated"
    found = claims_in(rows, 4, ROWS)
    for number, (address, index) in enumerate(zip(ADDRESSES, INDEXES, strict=True)):
        named = (TABLE.places[claims[address]] == number).any(axis=1)
        assert found[index].tolist() == claims[address][~named].tolist()
    again = {a: found[index] for a, index in zip(ADDRESSES, INDEXES, strict=True)}
    assert (rows_of(TABLE, claimants(TABLE, CANDIDATES, again), INDEXES, 2 * ROWS) == rows).all()


def test_claims_are_found_again_in_places_of_the_chain() -> None:
    """A chain yields to more claimants than there are places after it."""
    absent = [number for number in range(10) if number not in TABLE.places[5].tolist()]
    claims = {ADDRESSES[number]: np.array([5], np.uint32) for number in absent}
    rows = rows_of(TABLE, claimants(TABLE, CANDIDATES, claims), INDEXES, ROWS)
    found = claims_in(rows, 4, ROWS)
    assert found == {INDEXES[number]: np.array([5]) for number in absent}


def test_only_the_rows_that_claims_touched_are_compared() -> None:
    rng = np.random.default_rng(2)
    drawn = {a: np.sort(rng.choice(ROWS, 900, replace=False)).astype(np.uint32) for a in ADDRESSES}
    first = claimants(TABLE, CANDIDATES, drawn)
    next_ = claimants(TABLE, CANDIDATES, drawn | {ADDRESSES[3]: drawn[ADDRESSES[3]][5:]}, before=first)
    of_table = chains_of(TABLE, INDEXES)
    before, after = (service_rows(TABLE, one, INDEXES, 2 * ROWS, of_table) for one in (first, next_))
    changed = after.differs_from(before, next_.touched)
    assert (changed == differing(after.array(), before.array())).all()
    assert 0 < changed.sum() <= 2 * 5
    other = service_rows(TABLE, next_, INDEXES[::-1], 2 * ROWS)
    assert other.differs_from(before, next_.touched).sum() > ROWS, "rows of another table may differ anywhere"


def test_fewer_members_than_places() -> None:
    table = build(CANDIDATES[:2], ROWS, 4)
    everywhere = np.arange(ROWS, dtype=np.uint32)
    rows = rows_of(table, claimants(table, CANDIDATES[:2], {ADDRESSES[0]: everywhere}), INDEXES[:2], ROWS)
    assert (rows[:, 2:] == 0).all()
    assert claims_in(rows, 4, ROWS) == {}


def test_lost_members_come_at_once_after_a_chain_that_is_shorter_than_its_places() -> None:
    """A walk ends at the first place without a node."""
    for living in (1, 2, 3):
        members = [replace(c, state=State.LOST) if i >= living else c for i, c in enumerate(CANDIDATES[:4])]
        table = build_with_lost(1, "rendezvous", members, ROWS, 4)
        rows = rows_of(table, claimants(table, members, {}), INDEXES[:4], ROWS)
        assert (np.sort(rows[:, :living]) == sorted(INDEXES[:living])).all()
        assert (np.sort(rows[:, living:4]) == sorted(INDEXES[living:4])).all()
        assert (rows[:, 4:] == 0).all()
