# SPDX-License-Identifier: Apache-2.0
"""The pause between attempts to connect; the lab tests have the attempts themselves."""

import pytest

from bgp.exabgp import connect
from bgp.exabgp.connect import MAX_PAUSE_S, RETRY_S, Pause


def pauses(pause: Pause, clock: list[float], count: int) -> list[float]:
    """How long each of the next pauses lasts, after rejections."""
    found = []
    for _ in range(count):
        pause.increase()
        began = clock[0]
        while pause.backoff():
            clock[0] += 0.25
        found.append(clock[0] - began)
    return found


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(connect.time, "monotonic", lambda: now[0])
    return now


def test_rejected_attempts_pause_ever_longer_up_to_a_limit(clock: list[float]):
    assert pauses(Pause(), clock, 7) == [0.0, RETRY_S, 2.0, 4.0, 8.0, MAX_PAUSE_S, MAX_PAUSE_S]


def test_attempt_that_did_not_connect_makes_the_next_pauses_short_again(clock: list[float]):
    pause = Pause()
    pauses(pause, clock, 6)
    pause.increase()
    pause.wait(RETRY_S)
    assert pause.backoff()
    clock[0] += RETRY_S
    assert not pause.backoff()
    assert pauses(pause, clock, 2) == [0.0, RETRY_S]


def test_exabgp_makes_its_instances_of_our_classes():
    from exabgp.reactor import loop, protocol
    from exabgp.reactor.network.outgoing import Outgoing
    from exabgp.reactor.peer import Peer

    try:
        connect.install()
        assert issubclass(loop.Peer, Peer)
        assert issubclass(protocol.Outgoing, Outgoing)
        assert loop.Peer._close is not Peer._close, "these names are ExaBGP's own, and may change with its version"
        assert protocol.Outgoing.establish is not Outgoing.establish
    finally:
        loop.Peer, protocol.Outgoing = Peer, Outgoing
