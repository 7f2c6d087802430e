# SPDX-License-Identifier: Apache-2.0
"""Tables against the oracle, their golden vectors, and the properties that keep connections alive."""

import random
from dataclasses import replace
from ipaddress import IPv4Address

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.candidates import BASE, candidate, chains_of, members, plain
from support.examples import examples
from support.oracle import chain as oracle

from agent.model import Candidate, State
from agent.table.rendezvous import build


def chains(candidates: list[Candidate], rows: int = 4096, chain: int = 4) -> list[list[IPv4Address]]:
    return chains_of(build(candidates, rows, chain))


@examples(60)
@given(st.lists(candidate, max_size=9, unique_by=lambda c: c.address), st.integers(1, 8), st.randoms())
def test_equals_the_oracle(candidates: list[Candidate], chain: int, shuffler: random.Random) -> None:
    rows = sorted(shuffler.sample(range(4096), 40))
    found = chains(candidates, chain=chain)
    asked = plain(candidates)
    assert [found[row] for row in rows] == [oracle.chain(asked, row, chain) for row in rows]


@examples(20)
@given(st.lists(candidate, max_size=9, unique_by=lambda c: c.address), st.randoms())
def test_order_of_members_does_not_matter(candidates: list[Candidate], shuffler: random.Random) -> None:
    digest = build(candidates, 4096, 4).digest
    shuffler.shuffle(candidates)
    assert build(candidates, 4096, 4).digest == digest


def test_golden_vectors() -> None:
    """Frozen: a change here is a new TABLE_VERSION, or clusters would break connections when they upgrade."""
    assert build(members(5), 65_536, 4).digest == "b5fd520a8739b0ff"
    mixed = [
        Candidate(BASE, 100, 100, State.UP),
        Candidate(BASE + 1, 300, 75, State.UP),
        Candidate(BASE + 2, 200, 0, State.DRAINING),
        Candidate(BASE + 3, 100, 0, State.LOST),
        Candidate(BASE + 4, 0, 0, State.UP),
    ]
    assert build(mixed, 4096, 8).digest == "93ac0df36f66554e"


def test_digest_of_the_owners_leaves_out_who_is_lost() -> None:
    """A node that joined since has never known it, and owns and gives the same rows."""
    live, lost = members(5), Candidate(BASE + 9, 100, 0, State.LOST)
    known, unknown = build([*live, lost], 4096, 4), build(live, 4096, 4)
    assert known.digest != unknown.digest
    assert known.owners_digest == unknown.owners_digest
    drained = replace(live[0], effective=0, state=State.DRAINING)
    assert build([drained, *live[1:]], 4096, 4).owners_digest != unknown.owners_digest


@pytest.mark.parametrize(("count", "bound"), [(4, 1.02), (16, 1.04), (64, 1.10)])
def test_spread_is_even(count: int, bound: float) -> None:
    owners = np.bincount(build(members(count), 65_536, 4).places[:, 0], minlength=count)
    assert owners.max() / owners.mean() < bound


def test_spread_follows_weight() -> None:
    candidates = [Candidate(BASE + i, 100 * (i + 1), 100 * (i + 1), State.UP) for i in range(4)]
    share = np.bincount(build(candidates, 65_536, 4).places[:, 0], minlength=4) / 65_536
    assert share == pytest.approx([0.1, 0.2, 0.3, 0.4], rel=0.03)


@pytest.mark.parametrize("state", [State.DRAINING, State.LOST])
def test_one_change_moves_only_its_own_rows_and_the_old_owner_is_next(state: State) -> None:
    before = chains(members(5))
    changed = members(5)
    changed[2] = Candidate(BASE + 2, 100, 0, state)
    for old, new in zip(before, chains(changed), strict=True):
        if old[0] == BASE + 2:
            assert new[:2] == [old[1], BASE + 2]
        else:
            assert new == old


def test_old_owner_is_next_after_a_new_member() -> None:
    for old, new in zip(chains(members(4)), chains(members(5)), strict=True):
        assert new[0] == old[0] or new[:2] == [BASE + 4, old[0]]


@pytest.mark.parametrize("effective", [50, 25, 10, 0])
def test_lowering_an_effective_weight_never_hides_the_old_owner(effective: int) -> None:
    lowered = members(5)
    lowered[1] = Candidate(BASE + 1, 100, effective, State.UP)
    for old, new in zip(chains(members(5)), chains(lowered), strict=True):
        assert old[0] in new[:2]


def test_without_a_healthy_member_all_present_ones_own_rows() -> None:
    draining = [Candidate(BASE + i, 100, 0, State.DRAINING) for i in range(2)]
    lost = Candidate(BASE + 2, 100, 0, State.LOST)
    assert {chain[0] for chain in chains([*draining, lost])} == {BASE, BASE + 1}
    assert {chain[0] for chain in chains([lost])} == {BASE + 2}
    assert chains([]) == [[]] * 4096


changes = st.lists(
    st.tuples(st.integers(0, 11), st.sampled_from(["removed", "up", "half", "sick", "draining", "lost", "heavier"])),
    min_size=1,
    max_size=12,
)


def changed(candidates: dict[int, Candidate], offset: int, what: str) -> None:
    old = candidates.get(offset, Candidate(BASE + offset * 37, 100, 100, State.UP))
    match what:
        case "removed":
            candidates.pop(offset, None)
        case "heavier":
            candidates[offset] = replace(old, weight=old.weight + 50, effective=old.effective and old.effective + 50)
        case "lost" | "draining":
            candidates[offset] = replace(old, effective=0, state=State(what))
        case _:
            part = {"up": 2, "half": 1, "sick": 0}[what]
            candidates[offset] = replace(old, effective=old.weight * part // 2, state=State.UP)


@examples(40)
@given(st.integers(0, 60), changes, st.integers(1, 8))
def test_changes_lead_to_the_table_of_a_full_build(others: int, steps: list[tuple[int, str]], chain: int) -> None:
    """Every step starts from the table before, with few members or many."""
    candidates = {offset: Candidate(BASE + offset * 37, 100, 100, State.UP) for offset in range(3)}
    crowd = [Candidate(BASE + 20 + i * 7, 50 + i, 50 + i, State.UP) for i in range(others)]
    table = None
    for offset, what in steps:
        changed(candidates, offset, what)
        now = [*candidates.values(), *crowd]
        table = build(now, 4096, chain, table)
        assert table.digest == build(now, 4096, chain).digest


def test_rows_without_spares_are_ranked_again() -> None:
    """Members are removed one by one until few are left: by then every row has lost more than its spares."""
    left = members(60)
    table = build(left, 4096, 4)
    while len(left) > 1:
        left.pop(len(left) // 2)
        table = build(left, 4096, 4, table)
        assert table.ranking is not None
        assert len(left) < 4 or (table.places >= 0).all()
    assert table.digest == build(left, 4096, 4).digest


@pytest.mark.slow
def test_equal_costs_keep_the_order_of_addresses_through_changes() -> None:
    """Costs coarse enough (weight 10,000) to be equal sometimes: the smaller address wins, whichever came first."""
    everyone = members(300, weight=10_000)
    table = build(everyone[100:], 65_536, 4)
    for new in everyone[:3]:
        table = build([new, *(c for c in everyone[100:]), *everyone[: everyone.index(new)]], 65_536, 4, table)
    assert table.digest == build([*everyone[:3], *everyone[100:]], 65_536, 4).digest


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_many_members_equal_the_oracle(count: int) -> None:
    """With many members the code ranks only good hashes; the oracle ranks all."""
    crowd = [Candidate(BASE + i, 1 + i * 7 % 300, 1 + i * 7 % 300, State.UP) for i in range(count)]
    crowd += [Candidate(BASE + 5000 + i, 0, 0, State.UP) for i in range(3)]
    found = chains(crowd, chain=8)
    asked = plain(crowd)
    for row in range(0, 4096, 256):
        assert found[row] == oracle.chain(asked, row, 8)


def test_earlier_table_of_another_shape_changes_nothing() -> None:
    before = build(members(40), 8192, 6)
    assert build(members(41), 4096, 4, before).digest == build(members(41), 4096, 4).digest
