# SPDX-License-Identifier: Apache-2.0
"""The choice table: shares by weight, and what a backend that goes moves."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.nat.choice import ENTRIES, ChoiceTable

weights = st.dictionaries(st.binary(min_size=1, max_size=6), st.integers(0, 10_000), min_size=1, max_size=12)


def names_of(table: ChoiceTable, usable: object = None) -> list[bytes | None]:
    entries = table.among(table.names if usable is None else usable)  # type: ignore[arg-type]
    return [table.names[place] if place >= 0 else None for place in entries.tolist()]


@given(weights)
def test_each_backend_has_its_share_to_within_one_entry(given_weights: dict[bytes, int]) -> None:
    total = sum(given_weights.values())
    counts = Counter(names_of(ChoiceTable(given_weights)))
    if not total:
        assert counts == {None: ENTRIES}
        return
    for name, weight in given_weights.items():
        assert abs(counts[name] - ENTRIES * weight / total) < 1


@given(weights, st.data())
def test_backend_that_goes_moves_its_own_entries_only(given_weights: dict[bytes, int], data: st.DataObject) -> None:
    table = ChoiceTable(given_weights)
    usable = data.draw(st.sets(st.sampled_from(sorted(given_weights))))
    before, after = names_of(table), names_of(table, usable)
    takes = usable & set(table.names)
    for was, is_now in zip(before, after, strict=True):
        assert is_now == was if was in takes else is_now in takes or not takes
    fewer = data.draw(st.sets(st.sampled_from(sorted(takes)))) if takes else set()
    for was, is_now in zip(after, names_of(table, fewer), strict=True):
        assert is_now == was or was not in fewer


def test_backend_that_joins_moves_about_its_own_share() -> None:
    before = names_of(ChoiceTable({bytes([n]): 100 for n in range(8)}))
    after = names_of(ChoiceTable({bytes([n]): 100 for n in range(9)}))
    moved = sum(one != other for one, other in zip(before, after, strict=True))
    assert ENTRIES // 9 <= moved <= 2 * ENTRIES // 9


def test_entries_are_the_same_on_every_node_whatever_the_order_of_the_file() -> None:
    given_weights = {b"a": 3, b"b": 5, b"c": 1}
    table, other = ChoiceTable(given_weights), ChoiceTable(dict(reversed(given_weights.items())))
    assert table.names == other.names
    assert np.array_equal(table.among(table.names), other.among(other.names))


@pytest.mark.parametrize("count", [256, 255])
def test_as_many_backends_as_entries_are_all_served(count: int) -> None:
    assert len(set(names_of(ChoiceTable({n.to_bytes(2): 1 for n in range(count)})))) == count
