# SPDX-License-Identifier: Apache-2.0
"""Orders for backends: all nodes end with the same, and any of them can take one back."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.channel.nat_state import MAX_DRAINS, BackendOrder
from agent.errors import AgentError
from agent.nat.orders import NONE, Orders, merged, with_order

orders = st.dictionaries(st.integers(0, 3), st.builds(BackendOrder, st.integers(1, 3), st.booleans(), st.just(0)))


def drained(orders: Mapping[int, BackendOrder]) -> set[int]:
    return {number for number, order in orders.items() if order.drained}


@given(st.lists(orders, min_size=2, max_size=4), st.randoms())
def test_nodes_end_with_the_same_orders_whatever_they_receive_first(known: list[Orders], random: object) -> None:
    first = merged(known[0], known[1:])
    random.shuffle(known)  # type: ignore[attr-defined]
    assert merged(known[0], known[1:]) == first
    assert merged(first, known) is first


def test_order_is_taken_back_on_another_node() -> None:
    here = with_order(NONE, [1, 2], drained=True)
    there = with_order(merged(NONE, [here]), [1], drained=False)
    assert drained(merged(here, [there])) == {2}
    assert merged(there, [here]) is there, "the older drain does not come back"
    assert drained(with_order(there, [1], drained=True)) == {1, 2}


def test_same_order_again_changes_nothing() -> None:
    here = with_order(NONE, [1], drained=True)
    assert with_order(here, [1], drained=True) == here
    assert with_order(here, [2], drained=False) == here


def test_counts_of_sessions_belong_to_the_node_that_publishes_them() -> None:
    assert merged(NONE, [{1: BackendOrder(1, True, 9)}]) == {1: BackendOrder(1, True)}


def test_orders_are_bounded() -> None:
    full = with_order(NONE, range(MAX_DRAINS), drained=True)
    with pytest.raises(AgentError, match="513 backends would be drained, more than 512"):
        with_order(full, [MAX_DRAINS], drained=True)
    back = with_order(full, [0], drained=False)
    assert drained(with_order(back, [MAX_DRAINS], drained=True)) == {*range(1, MAX_DRAINS + 1)}
    assert len(merged(full, [{MAX_DRAINS: BackendOrder(1, True)}])) == MAX_DRAINS
