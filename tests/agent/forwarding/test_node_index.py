# SPDX-License-Identifier: Apache-2.0
"""Node indexes keep their meaning, and run out."""

from ipaddress import IPv4Address

from agent.forwarding.node_index import node_indexes

A, B, C = (IPv4Address("10.0.0.11") + i for i in range(3))


def test_node_indexes_keep_their_meaning() -> None:
    first = node_indexes({}, [B, A], 8)
    assert first == {A: 1, B: 2}
    # A goes and C comes in one step: C must not get A's index, which the old rows still name.
    assert node_indexes(first, [B, C], 8) == {B: 2, C: 3}
    assert node_indexes({B: 2}, [B, C], 8) == {B: 2, C: 1}


def test_node_indexes_run_out() -> None:
    assert node_indexes({}, [A, B], 3) == {A: 1, B: 2}
    assert node_indexes({}, [A, B, C], 3) is None
