# SPDX-License-Identifier: Apache-2.0
"""NAT, live: which backends clients reach, from where answers come, and by which nodes."""

import socket
from ipaddress import ip_address, ip_network

import pytest
from support.cluster_lab import FOUR
from support.nat_clients import KINDS, STREAM
from support.nat_lab import BACKENDS, ECHO_PORT, POOL, POOL6, VIP, WEB_PORT, NatLab

pytestmark = pytest.mark.lab
MANY = 120
"""So many that it is never by chance that a node has none."""


@pytest.mark.parametrize(("kind", "vip", "port"), KINDS, ids=["tcp-4", "tcp-6", "udp-4", "udp-6"])
def test_requests_reach_all_backends_and_answers_come_from_the_vip(
    lab: NatLab, kind: socket.SocketKind, vip: str, port: int
) -> None:
    """A connected socket takes answers of the VIP's address and port alone."""
    sessions = lab.sessions()
    sessions.open(kind, vip, port, 60)
    assert set(sessions.backends()) == set(BACKENDS)
    assert sessions.broken() == []
    if kind == STREAM:
        pools = [ip_network(pool) for pool in (POOL, POOL6)]
        peers = {ip_address(peer) for backend in BACKENDS for peer in lab.peers(backend)}
        assert peers
        assert all(any(peer in pool for pool in pools) for peer in peers), peers
    sessions.close()


def test_the_port_of_a_backend_may_be_another(lab: NatLab) -> None:
    bodies = set()
    for _ in range(60):
        with lab.connect(VIP, WEB_PORT) as one:
            one.sendall(b"GET / HTTP/1.0\r\n\r\n")
            answer = b"".join(iter(lambda: one.recv(4096), b""))
        bodies.add(answer.splitlines()[-1].decode())
    assert bodies == set(BACKENDS)


def test_answers_arrive_at_other_nodes_than_the_owner(lab: NatLab) -> None:
    before, sent_on = lab.nat_counters(), lab.answers_sent_on()
    sessions = lab.sessions()
    sessions.open(STREAM, VIP, ECHO_PORT, MANY)
    assert {one.end for one in sessions.held} <= set(lab.states())
    sessions.close()
    now = lab.nat_counters()
    for counter in ("forward_backend", "forward_client", "forward_first"):
        assert all(now[node][counter] > before[node][counter] for node in FOUR), counter
    assert lab.answers_sent_on() - sent_on > MANY, "of at least two answers to each client, three of four"
