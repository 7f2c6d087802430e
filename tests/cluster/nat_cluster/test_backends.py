# SPDX-License-Identifier: Apache-2.0
"""NAT, live: what becomes of the sessions of a backend that dies."""

import pytest
from support.cluster_lab import FOUR
from support.nat_clients import HELD, STREAM, Clients
from support.nat_lab import BACKENDS, ECHO_PORT, VIP, NatLab
from support.waiting import wait_for

pytestmark = pytest.mark.lab


def test_connections_of_a_backend_that_dies_are_reset_and_kept_only_where_it_says_so(
    lab: NatLab, clients: Clients
) -> None:
    """`on_down: keep` of the service by IPv6 is the control: without resets clients wait, and live on if it returns."""
    clients.open()
    kept = [one for one in clients.others.held if one.backend == "s3" and one.sock.type == STREAM]
    assert kept
    with lab.backend_cut_off("s3"):
        wait_for(
            lambda: not any(BACKENDS["s3"] in lab.backends_up(node) for node in FOUR), "s3 to be down on all nodes"
        )
        assert clients.broken(backend="s3") == []
        ends = [(one.state, one.reason) for one in clients.nat.report()[0] if one.owner == "s3"]
        assert len(ends) > HELD / 10
        assert set(ends) == {("broken", "reset")}
        sessions = lab.sessions()
        sessions.open(STREAM, VIP, ECHO_PORT, 60)
        assert set(sessions.backends()) == {"s1", "s2"}
        sessions.close()
    wait_for(lambda: lab.serves(FOUR), "s3 to be up")
    broken = clients.others.broken()  # UDP of the other services has moved to other backends
    assert [one.end for one in kept if one in broken] == []
    sessions = lab.sessions()
    sessions.open(STREAM, VIP, ECHO_PORT, 60)
    assert set(sessions.backends()) == set(BACKENDS)
    sessions.close()
