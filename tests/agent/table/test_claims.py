# SPDX-License-Identifier: Apache-2.0
"""Claims: which rows a node claims, and the places of those that do."""

from dataclasses import replace
from ipaddress import IPv4Address

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.examples import examples

from agent.model import Candidate, State
from agent.table import algorithm
from agent.table import claims as claims_module
from agent.table.claims import NAMED_S, PLACES, RANKED_PER_ROW, Claimants, OwnClaims, claimants, claims_of
from agent.table.cost import rank_keys
from agent.table.table import Table

ROWS = 4096
ADDRESSES = [IPv4Address("10.0.0.11") + i for i in range(12)]
FIRST = ADDRESSES[0]
EVERY_ROW = np.arange(ROWS, dtype=np.uint32)


def members(count: int = 12) -> list[Candidate]:
    return [Candidate(address, 100 + i % 3 * 50, 100, State.UP) for i, address in enumerate(ADDRESSES[:count])]


def table(candidates: list[Candidate], chain: int = 4, hash_name: str = "rendezvous") -> Table:
    return algorithm.build(1, hash_name, candidates, ROWS, chain)


def joined(made: Table, found: Claimants) -> NDArray[np.int16]:
    """Return whole chains: -1 after the end."""
    places = np.full((ROWS, PLACES), -1, np.int16)
    places[:, : made.places.shape[1]] = made.places
    rows, at, numbers = found.placed
    places[rows, at] = numbers
    return places


def test_a_node_claims_where_it_holds_connections_and_has_no_place() -> None:
    chains = np.array([[1, 2], [2, 3], [3, 4], [4, 1], [0, 0]], np.uint16)
    held = np.array([0, 1, 2, 4], np.uint32)
    assert claims_of(held, chains, 2, 1).tolist() == [1, 2, 4]
    assert claims_of(held, chains, 2, 9).tolist() == [0, 1, 2, 4]
    assert claims_of(held[:0], chains, 2, 1).tolist() == []


def test_a_node_that_the_chain_names_claims_too_where_there_are_claimants() -> None:
    """It keeps its place when a row has more claimants than places."""
    rows = np.array([[1, 2, 3, 0, 0], [1, 2, 3, 4, 0], [2, 3, 4, 1, 0], [3, 1, 2, 4, 0], [4, 0, 0, 0, 0]], np.uint16)
    held = np.arange(5, dtype=np.uint32)
    assert [claims_of(held, rows, 3, own).tolist() for own in (1, 2, 3)] == [[2, 4], [3, 4], [1, 4]]


def test_a_row_is_given_up_when_two_counts_have_found_no_connection_there() -> None:
    claims, found = OwnClaims(), []
    for held in ([2, 3], [3], [2], [], []):
        claims.count(np.array(held, np.uint32), lambda rows: rows, 0.0)
        found.append(claims.rows.tolist())
    assert found == [[2, 3], [2, 3], [2, 3], [2], []]


def test_a_claim_stands_for_some_minutes_after_the_chain_names_its_holder() -> None:
    """Only while the node holds connections there: it must not take another's place for nothing."""
    claims, held = OwnClaims(np.array([2, 3], np.uint32)), np.array([2, 3, 4], np.uint32)
    claims.count(held, lambda rows: rows[:2], 1000.0)
    before = claims.rows
    claims.count(held, lambda rows: None, 1001.0)
    claims.count(held, lambda rows: rows[:0], 1001.0 + NAMED_S)
    assert claims.rows is before
    assert claims.rows.tolist() == [2, 3]
    for _ in range(2):
        claims.count(held[1:], lambda rows: rows[:0], 1002.0 + NAMED_S)
    assert claims.rows.tolist() == [3]
    claims.count(held, lambda rows: rows[:0], 1002.0 + 2 * NAMED_S)
    assert claims.rows.tolist() == []


@examples(20)
@given(st.integers(1, 12), st.integers(1, 7))
def test_claimants_are_in_the_order_of_longer_chains(count: int, chain: int) -> None:
    """If all nodes claim all rows, rows are those of longer chains: a join or a longer chain reorders nothing."""
    candidates = members(count)
    made = table(candidates, chain)
    found = claimants(made, candidates, {c.address: EVERY_ROW for c in candidates})
    assert joined(made, found).tolist() == table(candidates, PLACES).places.tolist()


@pytest.mark.parametrize("hash_name", ["rendezvous", "maglev"])
def test_only_claimants_that_have_no_place_are_added(hash_name: str) -> None:
    candidates = members()
    made = table(candidates, 4, hash_name)
    claims = {ADDRESSES[3]: EVERY_ROW[::2], ADDRESSES[7]: EVERY_ROW[::3], IPv4Address("10.9.9.9"): EVERY_ROW}
    chains = joined(made, claimants(made, candidates, claims))
    assert (chains[:, :4] == made.places).all(), "the rows themselves stay"
    for number, step in ((3, 2), (7, 3)):
        named = (chains == number).any(axis=1)
        assert named[::step].all()
        pure = (made.places == number).any(axis=1)
        assert (named[np.arange(ROWS) % step > 0] == pure[np.arange(ROWS) % step > 0]).all()
    both = {row.index(3) < row.index(7) for row in chains[::6].tolist() if 3 in row[4:] and 7 in row[4:]}
    assert both == {True, False}, "each row has an order of its own"


def test_claims_of_a_node_that_drains_or_is_lost_stand() -> None:
    candidates = members()
    candidates[3] = replace(candidates[3], effective=0, state=State.LOST)
    made = table(candidates)
    chains = joined(made, claimants(made, candidates, {ADDRESSES[3]: EVERY_ROW}))
    assert (chains == 3).any(axis=1).all()


def test_rows_that_are_full() -> None:
    candidates = members()
    made = table(candidates)
    rows = EVERY_ROW[:10]
    assert claimants(made, candidates, {c.address: rows for c in candidates}).overfull == 10
    absent = [a for a in ADDRESSES if ADDRESSES.index(a) not in made.places[0].tolist()]
    first = np.zeros(1, np.uint32)
    counts = []
    for number in range(8):
        found = claimants(made, candidates, dict.fromkeys(absent[:number], first))
        named = joined(made, found)[0]
        assert (named[:2] == made.places[0, :2]).all()
        counts.append((found.nearly_full, found.full, found.overfull, len(set(named[2:]) - set(made.places[0]) - {-1})))
    assert counts == [
        (0, 0, 0, 0), (0, 0, 0, 1), (0, 0, 0, 2), (0, 0, 0, 3), (0, 0, 0, 4), (1, 0, 0, 5), (0, 1, 0, 6), (0, 1, 1, 6),
    ]  # fmt: skip
    few = members(8)
    all_claim = claimants(table(few), few, {c.address: EVERY_ROW for c in few})
    assert (all_claim.nearly_full, all_claim.full, all_claim.overfull) == (0, 0, 0), "each node has a place"


def test_a_chain_yields_to_claimants_from_its_last_place_on_but_not_where_its_node_claims() -> None:
    candidates = members()
    made = table(candidates)
    chain = made.places[0].tolist()
    absent = [number for number in range(12) if number not in chain]

    def row(*claiming: int) -> list[int]:
        claims = {ADDRESSES[number]: np.zeros(1, np.uint32) for number in claiming}
        whole = joined(made, claimants(made, candidates, claims))
        assert (whole[1:, :4] == made.places[1:]).all()
        return [int(number) for number in whole[0]]

    assert row(*absent[:4])[:4] == chain
    assert row(*absent[:5])[:3] == chain[:3]
    assert set(row(*absent[:5])[3:]) == set(absent[:5])
    assert row(*absent[:5], chain[3])[:3] == [chain[0], chain[1], chain[3]]
    assert row(*absent[:6], chain[1])[:2] == chain[:2]
    assert set(row(*absent[:7])[2:]) < set(absent[:7])
    assert row(*absent[:5], *chain[2:])[:4] == chain


def test_of_very_many_claims_the_best_are_ranked(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a change of the key, when each node holds connections in rows all over the table."""
    candidates = [Candidate(IPv4Address("10.0.1.0") + i, 100, 100, State.UP) for i in range(100)]
    made = table(candidates)
    everywhere = dict.fromkeys((c.address for c in candidates), EVERY_ROW)
    ranked: list[int] = []
    monkeypatch.setattr(claims_module, "rank_keys", lambda *of: ranked.append(len(of[0])) or rank_keys(*of))
    found = claimants(made, candidates, everywhere)
    monkeypatch.setattr(claims_module, "RANKED_PER_ROW", 1000)
    exact = joined(made, claimants(made, candidates, everywhere))
    assert ranked[0] <= RANKED_PER_ROW * ROWS < ranked[1]
    equal = joined(made, found) == exact
    assert (equal | (joined(made, found) == -1)).all(), "none has the place of a better one"
    assert equal.all(axis=1).mean() > 0.9


@examples(20)
@given(st.lists(st.tuples(st.integers(0, 13), st.sets(st.integers(0, 6)) | st.none()), max_size=12), st.booleans())
def test_claimants_made_from_those_before_are_equal(changes: list[tuple[int, set[int] | None]], loses: bool) -> None:
    """A claim may come, change or end, be of a node that is no member, and of rows that do not exist."""
    candidates = members()
    if loses:
        candidates[3] = replace(candidates[3], effective=0, state=State.LOST)
    made, claims = table(candidates), dict[IPv4Address, NDArray[np.uint32]]()
    before = claimants(made, candidates, {})
    for number, rows in changes:
        claims = {a: r for a, r in claims.items() if a != FIRST + number}
        if rows is not None:
            claims[FIRST + number] = np.array(sorted(row if row < 6 else ROWS for row in rows), np.uint32)
        earlier = joined(made, before)
        before, new = claimants(made, candidates, claims, before=before), claimants(made, candidates, claims)
        assert before.touched is not None
        assert np.flatnonzero((joined(made, before) != earlier).any(axis=1)).tolist() == before.touched.tolist()
        assert (joined(made, before) == joined(made, new)).all()
        assert sorted(before.rows) == new.rows.tolist()
        assert all((before.members[before.rows == r] == new.members[new.rows == r]).all() for r in new.rows)
        assert (before.full, before.nearly_full, before.overfull) == (new.full, new.nearly_full, new.overfull)


def test_claimants_of_another_table_are_no_basis(monkeypatch: pytest.MonkeyPatch) -> None:
    claims, ranked = {ADDRESSES[0]: EVERY_ROW}, []
    monkeypatch.setattr(claims_module, "rank_keys", lambda *of: ranked.append(len(of[0])) or rank_keys(*of))
    first = table(members())
    before = claimants(first, members(), claims)
    same = claimants(first, members(), claims, before=before)
    assert (joined(first, same) == joined(first, before)).all()
    again = claimants(table(members(11)), members(11), claims, before=before)
    assert (joined(first, again) == joined(first, claimants(table(members(11)), members(11), claims))).all()
    assert ranked[1] == 0


def test_rows_that_do_not_exist_count_for_nothing() -> None:
    candidates = members()
    made = table(candidates)
    found = claimants(made, candidates, {ADDRESSES[1]: np.array([ROWS, 200_000], np.uint32)})
    assert (len(found.rows), found.full, found.overfull) == (0, 0, 0)
    empty = Table((), np.full((ROWS, 4), -1, np.int16))
    assert len(claimants(empty, [], {ADDRESSES[1]: EVERY_ROW}).rows) == 0
