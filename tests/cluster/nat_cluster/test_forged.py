# SPDX-License-Identifier: Apache-2.0
"""NAT, live: packets that are forged on the client's link end no session, make none, and take no room from others."""

import socket

import pytest
from support.cluster_lab import FOUR
from support.nat_clients import NOBODY, STREAM, Clients, forged
from support.nat_lab import ECHO_PORT, VIP, NatLab
from support.packets import ACK, FIN, RST, SYN
from support.waiting import wait_for

from topology.traffic.sockets import ABORT

pytestmark = pytest.mark.lab


def test_forged_rsts_and_fins_close_nothing_and_a_real_rst_does(lab: NatLab) -> None:
    """After a FIN that counts, the SYN would begin another session in place of the client's."""
    sessions = lab.sessions()
    sessions.open(STREAM, VIP, ECHO_PORT, 20)
    ends = {one.end for one in sessions.held}
    lab.forge(
        forged(one.sock.getsockname(), flags, seq=one.sequence + far & 0xFFFF_FFFF)
        for one in sessions.held
        for far in (1 << 21, 1 << 31, 255 << 24)
        for flags in (RST, FIN | ACK, SYN)
    )
    assert sessions.broken() == []
    assert {state for end, state in lab.states().items() if end in ends} == {"established"}
    for one in sessions.held:
        one.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
    sessions.close()
    wait_for(lambda: not ends & set(lab.states()), "the control: sessions that their clients reset to be gone")


def test_a_forged_syn_and_ack_is_no_established_session(lab: NatLab) -> None:
    sessions = lab.sessions()
    sessions.open(STREAM, VIP, ECHO_PORT, 1)  # the control
    (real,) = (one.end for one in sessions.held)
    ends = [(NOBODY, port) for port in range(2000, 2020)]
    lab.forge(forged(end, SYN, seq=7) for end in ends)
    wait_for(lambda: sum(end.startswith(f"{NOBODY}:") for end in lab.states()) >= len(ends), "half-open sessions")
    lab.forge(forged(end, ACK, seq=8, ack=number << 24) for end in ends for number in (1, 99))
    assert sessions.broken() == []
    states = lab.states()  # the backend resets some of them
    assert {states.get(f"{address}:{port}", "closed") for address, port in ends} <= {"half-open", "closed"}
    assert states[real] == "established"
    sessions.close()


def test_a_flood_of_syns_touches_no_session_and_is_refused_at_the_limit(lab: NatLab, clients: Clients) -> None:
    """Of each bucket at most half may be half-open; the scan frees these soon when there are many."""
    clients.open()
    before = lab.nat_counters()
    refused = lambda: sum(lab.nat_counters()[node]["drop_nat_full"] - before[node]["drop_nat_full"] for node in FOUR)  # noqa: E731
    first = forged((NOBODY, 1024), SYN)

    def flood() -> bool:
        # With the first one's checksum: no backend answers them. They fill slots all the same.
        lab.forge(first[:20] + port.to_bytes(2, "big") + first[22:] for port in range(1024, 65_536))
        return refused() > 1000

    wait_for(flood, "SYNs to be refused: a slow machine's flood leaves time to free slots")
    assert clients.broken() == []
    sessions = lab.sessions()
    sessions.open(STREAM, VIP, ECHO_PORT, 20)  # each is repeated until there is room
    assert sessions.broken() == []
    sessions.close()
    assert clients.broken() == []
    for node in FOUR:  # else each agent that begins would have them all handed over, for a minute
        lab.request(node, "POST", f"/sessions/kill?client={NOBODY}/32")
