# SPDX-License-Identifier: Apache-2.0
"""Who gets new connections: each policy, what the operator wants, and how it is written into the cells."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config.instances import InstancesConfig
from agent.instances.choice import Active, Instance, OperatorChoice, Share, cells, cpus_of, decide
from bpf.layout.instance import CELLS, PLACES, SLOTS, pack_cell, unpack_cell

BLUE = Instance("blue", (1,), 100, frozenset({11}))
GREEN = Instance("green", (2,), 100, frozenset({21}))
RED = Instance("red", (3,), 100, frozenset({31}))
ALL = (BLUE, GREEN, RED)


def order(instances: tuple[Instance, ...] = ALL, before: Active | None = None, **settings: Any) -> list[str]:
    operator = settings.pop("operator", OperatorChoice())
    decision = decide(InstancesConfig(**settings), instances, operator, before)
    return [f"{one.name} {weight}" for one, weight in decision.shares]


def gone(one: Instance) -> Instance:
    return replace(one, cookies=frozenset())


@pytest.mark.parametrize(
    ("instances", "operator", "expected"),
    [
        (ALL, OperatorChoice(), ["blue 1", "green 0", "red 0"]),
        ((gone(BLUE), GREEN, RED), OperatorChoice(), ["green 1", "red 0"]),
        (ALL, OperatorChoice(drained=frozenset({"blue"})), ["green 1", "red 0"]),
        (ALL, OperatorChoice(drained=frozenset({"blue", "green", "red"})), []),
        ((gone(BLUE),), OperatorChoice(), []),
    ],
)
def test_standby(instances: tuple[Instance, ...], operator: OperatorChoice, expected: list[str]) -> None:
    assert order(instances, operator=operator) == expected


@pytest.mark.parametrize(
    ("instances", "before", "expected"),
    [
        (ALL, None, "blue 1"),
        (ALL, Active("green", GREEN.cookies), "green 1"),
        ((BLUE, gone(GREEN), RED), Active("green", GREEN.cookies), "blue 1"),
        # It has restarted: the next one took over in between, and keeps it.
        ((replace(BLUE, cookies=frozenset({12})), GREEN), Active("blue", BLUE.cookies), "green 1"),
        ((replace(BLUE, cookies=frozenset({12})),), Active("blue", BLUE.cookies), "blue 1"),
        # It has more listeners than before, and is the same.
        ((replace(BLUE, cookies=frozenset({11, 12})), GREEN), Active("blue", BLUE.cookies), "blue 1"),
    ],
)
def test_without_failback(instances: tuple[Instance, ...], before: Active | None, expected: str) -> None:
    assert order(instances, before, failback=False)[0] == expected


def test_with_failback_the_primary_returns() -> None:
    assert order(ALL, Active("green", GREEN.cookies))[0] == "blue 1"


def test_after_a_switch_it_stays_until_it_no_longer_listens() -> None:
    switched = Active("red", RED.cookies)
    red = OperatorChoice(preferred="red")
    assert order(ALL, switched, operator=red) == ["red 1", "blue 0", "green 0"]
    assert order((BLUE, GREEN, gone(RED)), switched, operator=red)[0] == "blue 1"
    restarted = replace(RED, cookies=frozenset({32}))
    assert order((BLUE, GREEN, restarted), switched, operator=red)[0] == "blue 1"


def test_health_comes_before_the_order() -> None:
    """True: healthy; False: it fails its check; None: it was not asked yet."""

    def with_health(*healthy: bool | None) -> tuple[Instance, ...]:
        return tuple(replace(one, healthy=health) for one, health in zip(ALL, healthy, strict=True))

    assert order(with_health(False, None, True)) == ["red 1", "blue 0", "green 0"]
    assert order(with_health(None, True, True)) == ["green 1", "red 0", "blue 0"]
    assert order(with_health(False, None, False)) == ["green 1", "blue 0", "red 0"]
    assert order(with_health(False, False, False)) == ["blue 1", "green 0", "red 0"], "all fail: as if none did"
    assert order(with_health(True, False, True), policy="weighted") == ["blue 100", "red 100", "green 0"]
    assert order(with_health(True, False, True), policy="spread") == ["blue 1", "red 1", "green 0"]
    failing = with_health(True, True, False)
    assert order(failing, Active("red", RED.cookies), failback=False)[0] == "blue 1"
    assert order(failing, Active("red", RED.cookies), operator=OperatorChoice(preferred="red"))[0] == "blue 1"


def test_weights_and_spread() -> None:
    heavy = (replace(BLUE, weight=10), replace(GREEN, weight=90), RED)
    assert order(heavy, policy="weighted") == ["red 100", "green 90", "blue 10"]
    operator = OperatorChoice(weights={"red": 0}, preferred="red")
    assert order(heavy, policy="weighted", operator=operator) == ["green 90", "blue 10", "red 0"]
    assert order(heavy, policy="spread", operator=operator) == ["blue 1", "green 1", "red 1"]
    none = tuple(replace(one, weight=0) for one in ALL)
    assert order(none, policy="weighted") == ["blue 1", "green 1", "red 1"], "rather than those that are drained"


def written(*shares: tuple[int, list[int]]) -> list[tuple[int, ...]]:
    return cells([Share(weight, slots) for weight, slots in shares])


def test_cells_of_a_standby_list_the_others_behind_it() -> None:
    assert written((1, [5]), (0, [7]), (0, [9])) == [(5, 7, 9)] * CELLS
    assert written((1, []), (0, [7]), (0, [9])) == [(7, 9)] * CELLS, "it has no listener in this group"
    assert cells([]) == [()] * CELLS
    assert written((1, [])) == [()] * CELLS


def test_cells_go_round_the_listeners_of_an_instance() -> None:
    found = written((1, [1, 2, 3]), (0, [7, 8]))
    assert found[:3] == [(1, 2, 7), (2, 3, 8), (3, 1, 7)]
    assert Counter(cell[0] for cell in found).keys() == {1, 2, 3}


def test_cells_by_cpu_lead_to_its_listener_and_are_divided_evenly_among_instances() -> None:
    by_cpu, round_robin = Share(1, [1, 2, 3], {0: 1, 1: 2, 2: 3}), Share(1, [7, 8])
    for cpu, own in ((0, 1), (1, 2), (2, 3)):
        found = cells([by_cpu, round_robin], cpu)
        assert Counter(cell[0] for cell in found) == {own: CELLS // 2, 7: CELLS // 4, 8: CELLS // 4}
        others = {1, 2, 3} - {own}
        assert {cell[1] for cell in found if cell[0] == own} == others, "it goes round the rest if that one is closed"
        assert {cell[2] for cell in found if cell[0] in (7, 8)} == {own}
    assert Counter(cell[0] for cell in cells([by_cpu], 3)).keys() == {1, 2, 3}, "of a CPU that has no listener: round"
    assert cells([Share(1, [5], {0: 5})]) == [(5,)] * CELLS


@pytest.mark.parametrize(
    ("cookies", "bound", "pinned", "expected"),
    [
        ([11, 12], {11: 1, 12: 0}, set(), {11: 1, 12: 0}),
        ([11, 12], {11: 1, 12: 0}, {0, 1}, {11: 1, 12: 0}),
        ([11, 12], {11: 3}, set(), {}),
        ([11, 12], {11: 1, 12: 1}, set(), {}),
        ([12, 11], {}, {4, 2}, {12: 2, 11: 4}),
        ([11, 12], {}, {0, 1, 2}, {}),
        ([11], {}, {0}, {}),
        ([], {}, set(), {}),
    ],
)
def test_which_listener_is_whose_cpu(
    cookies: list[int], bound: dict[int, int], pinned: set[int], expected: dict[int, int]
) -> None:
    assert cpus_of(cookies, bound, pinned) == expected


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=100).filter(any))
def test_cells_are_in_proportion_to_the_weights(weights: list[int]) -> None:
    found = written(*((weight, [slot]) for slot, weight in enumerate(weights)))
    assert len(found) == CELLS
    first = Counter(cell[0] for cell in found)
    for slot, weight in enumerate(weights):
        assert (first[slot] > 0) == (weight > 0)
    small = sum(weight * CELLS < sum(weights) for weight in weights)
    for slot, weight in enumerate(weights):
        assert abs(first[slot] - weight * CELLS / sum(weights)) <= 1 + small


@given(st.lists(st.integers(0, SLOTS - 1), max_size=20))
def test_a_cell_is_read_as_it_was_written(slots: list[int]) -> None:
    assert unpack_cell(pack_cell(slots)) == tuple(slots[:PLACES])
    assert len(pack_cell(slots)) == 8
