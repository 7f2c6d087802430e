# SPDX-License-Identifier: Apache-2.0
"""Which other nodes announce a VIP, by their identities."""

from ipaddress import IPv4Address

from agent.control.operator_request import announcing_nodes
from agent.model import Member, Share, State

A, B, C = (IPv4Address("10.0.0.11") + i for i in range(3))


def member(address: IPv4Address, state: State = State.UP, announced: bool = True, lost: bool = False) -> Member:
    return Member(address, 1, {5: Share(100, 100, state, announced)}, lost, 0.0, "")


def test_nodes_that_announce_a_vip() -> None:
    assert announcing_nodes([member(A), member(B, announced=False), member(C)], [5, 6]) == (A, C)
    assert announcing_nodes([member(A, lost=True), member(B, State.LEFT)], [5, 6]) == ()
    # A draining node keeps the VIP for its connections, and the routers still send it packets.
    assert announcing_nodes([member(A, State.DRAINING)], [5, 6]) == (A,)
    assert announcing_nodes([member(A)], [6]) == ()
