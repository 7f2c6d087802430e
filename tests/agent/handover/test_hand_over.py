# SPDX-License-Identifier: Apache-2.0
"""The hand-over as one node sees it: which nodes it asks, when it ends its answers, what it sends again."""

import numpy as np

from agent.handover.hand_over import NEVER, OVERDUE_S, PULL_S, HandOver, Order, SendPull, SendRecords, wanted
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


def change(one: HandOver, chains: Chains, answering: set[int], tick: int = TICK) -> list[Order]:
    return [*one.begin(chains, answering, NOW), *one.finish(tick)]


def awaited(one: HandOver, now: float = NOW) -> list[int]:
    return np.flatnonzero(one.awaited(now, ROWS) > now).tolist()


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
    orders = change(new, AFTER, {A, B})
    assert plain(orders) == [("pull", A, 1, [0]), ("pull", B, 1, [0])]
    assert awaited(new) == [0]
    new.receive(A, End(1), TICK)
    new.receive(A, End(1), TICK)
    new.receive(A, End(9), TICK)
    assert awaited(new) == [0]
    new.receive(B, End(1), TICK)
    assert awaited(new) == []
    assert new.unanswered == 0


def test_it_waits_half_a_second_for_a_node_that_does_not_answer_and_not_at_all_for_one_that_cannot_be_asked() -> None:
    new = HandOver(C)
    assert plain(change(new, AFTER, {A})) == [("pull", A, 1, [0])]
    assert awaited(new, NOW + PULL_S - 0.01) == [0]
    assert awaited(new, NOW + PULL_S) == []
    assert new.unanswered == 1
    assert new.overdue(NOW + 9) == set()
    assert new.overdue(NOW + 11) == {A}
    assert new.receive(A, End(1), TICK) == []
    assert new.overdue(NOW + 11) == set()
    alone = HandOver(C)
    assert change(alone, AFTER, set()) == []
    assert awaited(alone) == []


def test_an_owner_that_does_not_know_of_the_change_ends_its_answer_when_it_does() -> None:
    owner = HandOver(A, BEFORE)
    asked = owner.receive(C, Pull(7, rows(0)), TICK)
    assert plain(asked) == [("records", C, {0: NEVER})]
    assert owner.begin(AFTER, {B, C}, NOW) == []
    assert plain(owner.receive(B, Pull(3, rows(0)), TICK)) == [("records", B, {0: NEVER})], "not written yet"
    changed = [one for one in owner.finish(TICK + 1) if one.node == C]
    assert plain(changed) == [("records", C, {0: TICK - 1}), ("end", C, 7)]
    assert change(owner, AFTER, {B, C}) == []
    assert owner.finish(TICK) == []


def test_one_that_owns_none_of_the_rows_ends_its_answer_at_once() -> None:
    other = HandOver(B, BEFORE)
    assert plain(other.receive(C, Pull(7, rows(0)), TICK)) == [("records", C, {0: NEVER}), ("end", C, 7)]


def test_a_holder_pushes_without_being_asked_and_is_then_asked_for_the_rest_only() -> None:
    owner = HandOver(A, BEFORE)
    assert plain(change(owner, AFTER, {B, C})) == [("records", C, {0: NEVER})]
    again = owner.receive(C, Pull(1, rows(0, 2)), TICK + 3)
    assert plain(again) == [("records", C, {0: TICK - 1, 2: NEVER})], "row 2 is still its own: no end"


def test_what_was_sent_long_ago_or_to_a_process_before_is_sent_again() -> None:
    owner = HandOver(A, AFTER)
    owner.receive(C, Pull(1, rows(0)), TICK)
    assert plain(owner.receive(C, Pull(2, rows(0)), TICK + 1)) == [("records", C, {0: TICK - 1}), ("end", C, 2)]
    assert plain(owner.receive(C, Pull(3, rows(0)), TICK + 99)) == [("records", C, {0: NEVER}), ("end", C, 3)]
    owner.forget(C)
    assert plain(owner.receive(C, Pull(4, rows(0)), TICK + 99)) == [("records", C, {0: NEVER}), ("end", C, 4)]


def test_a_node_that_was_blind_pulls_all_its_rows() -> None:
    back = HandOver(B, AFTER)
    assert plain(back.pull_all({A, C}, NOW)) == [("pull", A, 1, [1, 3]), ("pull", C, 1, [1, 3])]
    assert HandOver(B).pull_all({A}, NOW) == []


def test_a_leaving_node_pushes_everything_to_who_is_new() -> None:
    leaver = HandOver(C, AFTER)
    assert plain(change(leaver, BEFORE, {A, B})) == [("records", A, {0: NEVER})]


def test_a_node_that_is_about_to_end_ends_its_answers_though_its_chains_stay() -> None:
    leaver = HandOver(A, BEFORE)
    assert plain(leaver.receive(B, Pull(4, rows(0)), TICK)) == [("records", B, {0: NEVER})]
    assert plain(leaver.leave(TICK + 1)) == [("records", B, {0: TICK - 1}), ("end", B, 4)]
    assert plain(leaver.receive(C, Pull(7, rows(2)), TICK)) == [("records", C, {2: NEVER}), ("end", C, 7)]


def test_sessions_that_had_packets_since() -> None:
    since = np.array([NEVER, 49, 49, 49])
    assert wanted(np.array([49, 2, 1, 0], np.uint32), since, 50).tolist() == [True, False, True, True]


def test_each_of_two_pulls_of_a_node_gets_its_end() -> None:
    """The tables of the asker change twice before those of the holder do."""
    holder = HandOver(A)
    change(holder, chains((A, B), (A, B), (A, B), (A, B)), {B})
    for number, row in ((1, 0), (2, 1)):
        orders = holder.receive(B, Pull(number, rows(row)), TICK)
        assert plain(orders) == [("records", B, {row: NEVER})], "it may still make sessions there"
    orders = change(holder, chains((B, A), (B, A), (A, B), (A, B)), {B}, TICK + 60)
    assert plain(orders)[-2:] == [("end", B, 1), ("end", B, 2)]


def test_a_pull_of_rows_that_were_given_up_is_not_overdue() -> None:
    new = HandOver(C)
    change(new, AFTER, {A, B})
    assert new.overdue(NOW + OVERDUE_S) == {A, B}
    change(new, BEFORE, {A, B})
    assert new.overdue(NOW + OVERDUE_S) == set()
