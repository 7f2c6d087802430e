# SPDX-License-Identifier: Apache-2.0
"""The rows of two nodes: what is a difference, who is in it, and what is no rows at all."""

import json
import re
from ipaddress import IPv4Address
from typing import Any

import numpy as np
import pytest

from agent.table.claims import PLACES
from agent.table.node_rows import MAX_SHOWN, NodeRows, compare, from_json

B1, B2, B3, B4, B5 = (int(IPv4Address(f"10.0.0.{number}")) for number in (11, 12, 13, 14, 15))
KEY = "192.0.2.10:443/tcp"


def rows(*changed: tuple[int, list[int]], count: int = 64, node: int = B1, epoch: int = 5) -> NodeRows:
    """Rows whose chains of 3 are b1, b2, b3 in turn, but for some."""
    places = np.zeros((count, PLACES), np.uint32)
    places[:, :3] = [np.roll([B1, B2, B3], number) for number in range(count)]
    for number, nodes in changed:
        places[number] = [*nodes, *[0] * (PLACES - len(nodes))]
    return NodeRows(IPv4Address(node), epoch, "web", KEY, 3, places)


def json_of(one: NodeRows) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(b"".join(one.encoded()))
    return value


def test_json_brings_back_all_places() -> None:
    one = rows((3, []), (4, [B1, 0, B3]), (5, [B4, B3, B2, B1, B5]))
    value = json_of(one)
    assert value["nodes"] == [f"10.0.0.{number}" for number in (11, 12, 13, 14, 15)]
    assert value["rows"][3:6] == [[], [0, -1, 2], [3, 2, 1, 0, 4]]
    back = from_json(value)
    assert (back.node, back.epoch, back.name, back.key, back.chain) == (IPv4Address(B1), 5, "web", KEY, 3)
    assert (back.places == one.places).all()
    assert from_json(json_of(rows(*((n, []) for n in range(64))))).places.sum() == 0


def test_many_rows_are_encoded_in_small_parts() -> None:
    """One call of json.dumps for all of them would hold up the agent's other threads until its end."""
    one = rows((4096, [B4, B5]), count=5000)
    assert max(map(len, one.encoded())) < 32_768
    assert (from_json(json_of(one)).places == one.places).all()


def test_equal_rows() -> None:
    found = compare(rows(), rows(node=B2))
    assert (found["rows"], found["differing"], found["owners"], found["shown"]) == (64, 0, [], [])


def test_rows_that_differ_in_their_owner_and_in_a_later_place() -> None:
    found = compare(rows(), rows((0, [B2, B1, B3]), (3, [B2, B1, B3]), (6, [B1, B2, B4]), node=B2))
    assert (found["differing"], found["owners_differing"], found["claimants_differing"]) == (3, 2, 0)
    assert found["owners"] == [{"here": "10.0.0.11", "there": "10.0.0.12", "rows": 2}]
    assert (found["only_here"], found["only_there"]) == ([], ["10.0.0.14"])
    assert found["shown"][0] == {
        "row": 0,
        "here": ["10.0.0.11", "10.0.0.12", "10.0.0.13"],
        "there": ["10.0.0.12", "10.0.0.11", "10.0.0.13"],
    }


def test_an_empty_row_has_no_owner() -> None:
    (pair,) = compare(rows(), rows((1, [])))["owners"]
    assert (pair["here"], pair["there"]) == ("10.0.0.13", None)


def test_claimants_are_no_difference_and_may_take_the_last_places_of_a_full_row() -> None:
    full = [B1, B2, B4, B4, B4, B4, B4, B5]
    found = compare(rows(), rows((0, [B1, B2, B3, B4]), (3, full)))
    assert (found["differing"], found["claimants_differing"], found["only_there"]) == (0, 2, ["10.0.0.14"])
    assert compare(rows(), rows((3, [B2, B1, *full[2:]])))["owners_differing"] == 1


def test_all_are_counted_and_few_are_shown() -> None:
    found = compare(rows(), rows(*((number, [B5, B2]) for number in range(64))))
    assert (found["differing"], len(found["shown"])) == (64, MAX_SHOWN)
    assert sum(pair["rows"] for pair in found["owners"]) == 64


@pytest.mark.parametrize(
    ("other", "problem"),
    [
        (rows(epoch=6, node=B2), "10.0.0.11 uses epoch 0x5, 10.0.0.12 0x6"),
        (rows(count=32, node=B2), "10.0.0.11 has 64 rows with chains of 3 and 10.0.0.12 has 32 rows with chains of 3"),
    ],
)
def test_other_epochs_and_tables_have_nothing_to_compare(other: NodeRows, problem: str) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)):
        compare(rows(), other)


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"rows": [[0, 9]]}, "a place is neither -1 nor the index of one of the 3 nodes"),
        ({"rows": [[-2]]}, "a place is neither"),
        ({"rows": [[0.5]]}, "a place is neither"),
        ({"rows": [["0"]]}, "a place is neither"),
        ({"rows": [[0], [[0]]]}, "a place is neither"),
        ({"epoch": 1 << 32}, "epoch: is not a number of 32 bits"),
        ({"rows": [[0] * 9]}, "a row is not a list of at most 8 nodes"),
        ({"rows": [7]}, "a row is not a list"),
        ({"rows": []}, "rows are not a list of 1 to"),
        ({"nodes": ["10.0.0.1", "x", "y"]}, "'x'"),
        ({"nodes": "10.0.0.1"}, "nodes are not a list of addresses"),
        ({"node": "b1"}, "'b1'"),
        ({"node": 7}, "are texts"),
        ({"epoch": True}, "whole numbers"),
        ({"chain": 0}, "chain: 0 is not in 1-8"),
    ],
)
def test_what_is_no_rows_is_refused(changed: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        from_json(json_of(rows()) | changed)


@pytest.mark.parametrize("value", [None, [], 7, "x"])
def test_neither_is_another_value(value: Any) -> None:
    with pytest.raises(ValueError, match="is not an object"):
        from_json(value)
    with pytest.raises(ValueError, match="lacks 'node'"):
        from_json({"rows": []})
