# SPDX-License-Identifier: Apache-2.0
"""The pause between attempts to connect; what a router sent before it reset the connection. Attempts: lab tests."""

import logging
import select
import socket
import struct
from collections.abc import Iterator

import pytest
from exabgp.logger.option import option
from exabgp.protocol.family import AFI
from exabgp.reactor.network.error import LostConnection

from bgp.exabgp import connect
from bgp.exabgp.connect import MAX_PAUSE_S, RETRY_S, BoundedOutgoing, Pause


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


@pytest.fixture
def connection(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[BoundedOutgoing, socket.socket]]:
    """A connection of ExaBGP, and the router's end of it."""
    monkeypatch.setattr(option, "logger", logging.getLogger("exabgp"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = BoundedOutgoing(AFI.ipv4, "127.0.0.1", "127.0.0.1", listener.getsockname()[1])
        assert list(ours.establish())[-1] is True
        router, _ = listener.accept()
        with router:
            yield ours, router
    ours.close()


def reset(ours: BoundedOutgoing, router: socket.socket) -> None:
    """End the connection by an RST, as Linux does if a daemon closes it before it has read all."""
    router.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    router.close()
    poller = select.poll()
    poller.register(ours.io, 0)  # errors alone
    assert poller.poll(10_000)


SHUTDOWN = b"\xff" * 16 + struct.pack("!HBBB", 21, 3, 6, 2)


@pytest.mark.parametrize("writes", [1, 2])
def test_notification_before_a_reset_is_read_though_a_write_fails_first(
    connection: tuple[BoundedOutgoing, socket.socket], writes: int
):
    ours, router = connection
    router.sendall(SHUTDOWN)
    reset(ours, router)
    for _ in range(writes):  # the first fails by ECONNRESET, the next by EPIPE
        assert list(ours.writer(b"an UPDATE"))[-1] is True
    messages = [read for read in ours.reader() if read[0]]
    assert [(length, number, body) for length, number, _, body, _ in messages] == [(21, 3, bytes([6, 2]))]
    with pytest.raises(LostConnection):
        list(ours.reader())


def test_data_are_sent_as_fast_as_the_router_takes_them(connection: tuple[BoundedOutgoing, socket.socket]):
    ours, router = connection
    data, received = bytes(range(256)) * 65536, bytearray()
    done = False
    for done in ours.writer(data):
        while len(received) < len(data) and (done or select.select([router], [], [], 0)[0]):
            received += router.recv(1 << 20)
    assert done
    assert bytes(received) == data


def test_write_that_fails_on_a_connection_that_lives_ends_it(
    connection: tuple[BoundedOutgoing, socket.socket],
):
    ours, _ = connection
    real = ours.io

    class Refusing:
        def send(self, _: bytes) -> int:
            raise PermissionError(1, "Operation not permitted")

        def close(self) -> None:
            real.close()

    ours.io = Refusing()
    with pytest.raises(LostConnection, match="problem while sending: Operation not permitted"):
        list(ours.writer(b"an UPDATE"))
    assert ours.io is None
