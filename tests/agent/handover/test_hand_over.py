# SPDX-License-Identifier: Apache-2.0
"""The hand-over as one node sees it: whom it asks, when it ends its answers, what it sends again."""

import numpy as np

from agent.handover.hand_over import NEVER, PULL_S, HandOver, Order, SendPull, SendRecords, sent_since
from agent.handover.item import End, Pull
from agent.handover.row_move import Chains, Rows

A, B, C = 1, 2, 3
ROWS = 4
NOW, TICK = 1000.0, 50


def chains(*rows: tuple[int, ...]) -> Chains:
    return np.array([[*row, *[0] * (3 - len(row))] for row in rows], np.uint32)


def rows(*numbers: int) -> Rows:
    found = np.zeros(ROWS, np.bool_)
    found[list(numbers)] = True
    return found


def plain(orders: list[Order]) -> list[tuple[object, ...]]:
    """Return orders as tuples that can be compared."""
    found: list[tuple[object, ...]] = []
    for order in orders:
        if isinstance(order, SendPull):
            found.append(("pull", order.node, order.pull.number, np.flatnonzero(order.pull.rows).tolist()))
        elif isinstance(order, SendRecords):
            since = {int(row): int(order.since[row]) for row in np.flatnonzero(order.rows)}
            found.append(("records", order.node, since))
        else:
            found.append(("end", order.node, order.number))
    return found


BEFORE = chains((A, B), (B, A), (A, B), (B, A))
AFTER = chains((C, A, B), (B, C, A), (A, B, C), (B, A, C))


def test_a_node_that_joins_pulls_its_rows_and_waits_for_all_answers() -> None:
    new = HandOver(C)
    orders = new.change(AFTER, {A, B}, NOW, TICK)
    assert plain(orders) == [("pull", A, 1, [0, 1]), ("pull", B, 1, [0, 1])]
    assert new.pulling(NOW)
    new.receive(A, End(1), TICK)
    new.receive(A, End(1), TICK)
    new.receive(A, End(9), TICK)
    assert new.pulling(NOW)
    new.receive(B, End(1), TICK)
    assert not new.pulling(NOW)
    assert new.unanswered == 0


def test_it_waits_half_a_second_for_a_node_that_does_not_answer_and_not_at_all_for_one_that_cannot_be_asked() -> None:
    new = HandOver(C)
    assert plain(new.change(AFTER, {A}, NOW, TICK)) == [("pull", A, 1, [0, 1])]
    assert new.next_at == NOW + PULL_S
    assert new.pulling(NOW + PULL_S - 0.01)
    assert not new.pulling(NOW + PULL_S)
    assert new.unanswered == 1
    assert new.receive(A, End(1), TICK) == []
    alone = HandOver(C)
    assert alone.change(AFTER, set(), NOW, TICK) == []
    assert not alone.pulling(NOW)


def test_an_owner_that_does_not_know_of_the_change_ends_its_answer_when_it_does() -> None:
    owner = HandOver(A, BEFORE)
    asked = owner.receive(C, Pull(7, rows(0, 1)), TICK)
    assert plain(asked) == [("records", C, {0: NEVER, 1: NEVER})]
    changed = owner.change(AFTER, {B, C}, NOW, TICK + 1)
    assert plain(changed) == [("records", C, {0: TICK - 1, 1: TICK - 1}), ("end", C, 7)]
    assert owner.change(AFTER, {B, C}, NOW, TICK + 2) == []


def test_one_that_owns_none_of_the_rows_ends_its_answer_at_once() -> None:
    other = HandOver(B, BEFORE)
    assert plain(other.receive(C, Pull(7, rows(0)), TICK)) == [("records", C, {0: NEVER}), ("end", C, 7)]


def test_a_holder_pushes_without_being_asked_and_is_then_asked_for_the_rest_only() -> None:
    owner = HandOver(A, BEFORE)
    assert plain(owner.change(AFTER, {B, C}, NOW, TICK)) == [("records", C, {0: NEVER, 1: NEVER})]
    again = owner.receive(C, Pull(1, rows(0, 1, 2)), TICK + 3)
    assert plain(again) == [("records", C, {0: TICK - 1, 1: TICK - 1, 2: NEVER})], "row 2 is still its own: no end"


def test_what_was_sent_long_ago_or_to_a_process_before_is_sent_again() -> None:
    owner = HandOver(A, AFTER)
    owner.receive(C, Pull(1, rows(0)), TICK)
    assert plain(owner.receive(C, Pull(2, rows(0)), TICK + 1)) == [("records", C, {0: TICK - 1}), ("end", C, 2)]
    assert plain(owner.receive(C, Pull(3, rows(0)), TICK + 99)) == [("records", C, {0: NEVER}), ("end", C, 3)]
    owner.forget(C)
    assert plain(owner.receive(C, Pull(4, rows(0)), TICK + 99)) == [("records", C, {0: NEVER}), ("end", C, 4)]


def test_a_node_that_was_blind_pulls_all_its_rows() -> None:
    back = HandOver(B, AFTER)
    assert plain(back.pull_all({A, C}, NOW)) == [("pull", A, 1, [1, 2, 3]), ("pull", C, 1, [1, 2, 3])]
    assert HandOver(B).pull_all({A}, NOW) == []


def test_a_leaving_node_pushes_everything_to_who_is_new() -> None:
    leaver = HandOver(C, AFTER)
    assert plain(leaver.change(BEFORE, {A, B}, NOW, TICK)) == [
        ("records", A, {0: NEVER, 1: NEVER}),
        ("records", B, {0: NEVER}),
    ]


def test_sessions_that_had_packets_since() -> None:
    since = np.array([NEVER, 49, 49, 49])
    assert sent_since(np.array([1, 48, 49, 50], np.uint32), since).tolist() == [True, False, True, True]
