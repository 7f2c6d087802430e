# SPDX-License-Identifier: Apache-2.0
"""The BFD process with real sockets, in a network namespace of its own; the test plays the neighbors and ExaBGP."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.bfd_process import ADDRESSES, OURS, PATIENT, BfdHelper, BfdNeighborModel
from support.waiting import wait_for

from bgp.bfd.config import BfdPeer
from bgp.bfd.packet import Packet, SessionState
from topology.lab.netns import inside_net

pytestmark = pytest.mark.lab  # needs root for the namespace

V4 = BfdPeer("127.0.0.2", "127.0.0.1")
V6 = BfdPeer("2001:db8::2", "2001:db8::1")
LINK_LOCAL = BfdPeer("fe80::2%lo", "fe80::1%lo")
FAR = BfdPeer("127.0.0.3", "127.0.0.1", multihop=2)
TEARDOWN = "neighbor {} teardown 10"


@pytest.fixture
def new_process(tmp_path: Path) -> Iterator[Callable[..., BfdHelper]]:
    """A function that starts processes, each with a directory of its own; all are killed at the end."""
    made: list[BfdHelper] = []
    count = itertools.count()

    def make(*peers: BfdPeer, before: str = ADDRESSES) -> BfdHelper:
        directory = tmp_path / str(next(count))
        directory.mkdir()
        made.append(BfdHelper(directory, *peers, before=before))
        return made[-1]

    yield make
    for process in made:
        process.__exit__()


@pytest.mark.parametrize("peer", [V4, V6, LINK_LOCAL, FAR], ids=["v4", "v6", "link-local", "multihop"])
def test_session_comes_up_and_a_silent_neighbor_is_torn_down(new_process: Callable[..., BfdHelper], peer: BfdPeer):
    process = new_process(peer)
    router = BfdNeighborModel(process, peer)
    router.bring_up(multiplier=10)
    assert router.source in range(49152, 65536)
    assert router.hops == 255
    status = process.wait_for(peer, lambda status: status.state == "up" and status.detection_ms == 3000)
    assert (status.diagnostic, status.interval_ms) == ("", 300)
    assert process.command() == TEARDOWN.format(peer.name)
    assert "silent for too long" in process.wait_for(peer, lambda status: status.state == "down").diagnostic


@pytest.mark.parametrize("peer", [V4, V6], ids=["v4", "v6"])
def test_packets_with_ttl_254_are_dropped(new_process: Callable[..., BfdHelper], peer: BfdPeer):
    router = BfdNeighborModel(new_process(peer), peer)
    router.ttl = 254
    for _ in range(3):
        packet = router.receive()
        router.send(Packet(SessionState.DOWN, 3, OURS, 0, 1_000_000, 300_000))
        assert (packet.state, packet.your_discriminator) == (SessionState.DOWN, 0)
    router.ttl = 255
    router.bring_up()


def test_remote_flood_does_not_displace_the_neighbor_s_packets(new_process: Callable[..., BfdHelper]):
    process = new_process(V4)
    router = BfdNeighborModel(process, V4)
    router.bring_up(multiplier=10)
    number = router.received[-1].my_discriminator
    until = time.monotonic() + 7  # longer than the 3 s that it may be silent
    while time.monotonic() < until:
        router.ttl = 64
        os.kill(process.process.pid, signal.SIGSTOP)  # so that the packets fill the socket's queue
        for _ in range(3000):
            router.send(Packet(SessionState.DOWN, 3, OURS, 0, 1, 1))
        router.ttl = 255
        router.send(Packet(SessionState.UP, 10, OURS, number, 300_000, 300_000))
        os.kill(process.process.pid, signal.SIGCONT)
        time.sleep(0.2)
    assert process.status(V4).state == "up"  # type: ignore[union-attr]
    assert process.command(0) == ""


def test_neighbor_behind_routers_is_no_farther_away_while_its_session_is_up(new_process: Callable[..., BfdHelper]):
    process = new_process(FAR)
    router = BfdNeighborModel(process, FAR)
    router.ttl = 64  # as BIRD sends: any TTL brings a session up and down
    router.bring_up()
    process.wait_for(FAR, lambda status: status.state == "up")
    number = router.received[-1].my_discriminator
    router.send(Packet(SessionState.DOWN, 3, OURS, number, 1_000_000, 300_000))
    assert process.command() == TEARDOWN.format(FAR.name)
    router.ttl = 253  # two hops
    router.bring_up()
    process.wait_for(FAR, lambda status: status.state == "up" and status.detection_ms == PATIENT * 300)
    for _ in range(4):
        router.ttl = 252
        router.send(Packet(SessionState.DOWN, 3, OURS, number, 1_000_000, 300_000))
        router.ttl = 253
        router.send(Packet(SessionState.UP, PATIENT, OURS, number, 300_000, 300_000))
        assert router.receive().state is SessionState.UP
    router.send(Packet(SessionState.DOWN, 3, OURS, number, 1_000_000, 300_000))
    assert process.command() == TEARDOWN.format(FAR.name), "the control: from two hops away it is the neighbor"


def test_packets_of_another_source_or_session_are_ignored(new_process: Callable[..., BfdHelper]):
    process = new_process(V4, replace(V4, address="127.0.0.3"))
    router, other = BfdNeighborModel(process, V4), BfdNeighborModel(process, replace(V4, address="127.0.0.3"))
    router.bring_up()
    other.peer = replace(V4, address="127.0.0.9")
    ours = router.received[-1].my_discriminator
    for yours in (0, ours):  # from another neighbor's socket
        other.send(Packet(SessionState.DOWN, 3, OURS, yours, 1_000_000, 300_000))
    router.send(Packet(SessionState.UP, PATIENT, OURS, ours, 300_000, 300_000))
    for packet in (router.receive(), router.receive()):
        assert packet.state is SessionState.UP


def test_neighbor_in_admin_down_is_not_torn_down(new_process: Callable[..., BfdHelper]):
    process = new_process(V4)
    router = BfdNeighborModel(process, V4)
    router.bring_up()
    router.send(Packet(SessionState.ADMIN_DOWN, 3, OURS, router.received[-1].my_discriminator, 1_000_000, 300_000))
    process.wait_for(V4, lambda status: status.state == "down")
    assert process.command(0.5) == ""
    router.bring_up()
    router.send(Packet(SessionState.DOWN, 3, OURS, router.received[-1].my_discriminator, 1_000_000, 300_000))
    assert process.command() == TEARDOWN.format("127.0.0.2"), "the control: Down is a failure"


@pytest.mark.parametrize("end", ["eof", "sigterm"])
def test_exit_sends_admin_down(new_process: Callable[..., BfdHelper], end: str):
    process = new_process(V4)
    router = BfdNeighborModel(process, V4)
    router.bring_up()
    if end == "eof":
        process.process.stdin.close()  # type: ignore[union-attr]
    else:
        process.process.send_signal(signal.SIGTERM)
    assert process.process.wait(60) == 0
    while router.receive().state is SessionState.UP:
        pass
    assert router.received[-1].state is SessionState.ADMIN_DOWN
    assert process.status(V4) is None, "no stale status"


def test_reads_all_output_of_exabgp(new_process: Callable[..., BfdHelper]):
    process = new_process(V4)
    router = BfdNeighborModel(process, V4)
    stdin = process.process.stdin
    assert stdin is not None
    for _ in range(64):
        stdin.write(
            b"done\n" * 4096
        )  # far more than a pipe holds: unread, it would block this test, as it would block ExaBGP
    stdin.flush()
    router.bring_up()


def test_replaced_configuration_applies_without_a_flap(new_process: Callable[..., BfdHelper]):
    process = new_process(V4)
    router = BfdNeighborModel(process, V4)
    router.bring_up()
    number = router.received[-1].my_discriminator
    process.configure(replace(V4, interval_ms=500, multiplier=4), V6)
    while (packet := router.receive()).desired_min_tx_us != 500_000 or not packet.poll:
        router.send(Packet(SessionState.UP, PATIENT, OURS, number, 300_000, 300_000))
    assert (packet.state, packet.multiplier, packet.my_discriminator) == (SessionState.UP, 4, number)
    router.send(Packet(SessionState.UP, PATIENT, OURS, number, 300_000, 300_000, final=True))
    process.wait_for(
        V4, lambda status: (status.state, status.interval_ms, status.detection_ms) == ("up", 500, PATIENT * 500)
    )
    other = BfdNeighborModel(process, V6)
    other.bring_up()
    process.configure(V6)
    while router.receive().state is not SessionState.ADMIN_DOWN:
        pass
    wait_for(lambda: process.status(V4) is None)
    assert process.status(V6).state == "up"  # type: ignore[union-attr]


def test_address_that_appears_later(new_process: Callable[..., BfdHelper]):
    process = new_process(V4, before="true")
    process.wait_for(V4, lambda status: status.error is None)
    time.sleep(1.5)  # it sends without success meanwhile
    process.run("ip link set lo up")
    BfdNeighborModel(process, V4).bring_up()


def test_interface_that_appears_later_and_is_recreated(new_process: Callable[..., BfdHelper]):
    """A link-local endpoint contains the interface index, which changes when a device is created again."""
    peer = BfdPeer("fe80::2%late", "fe80::1%late")
    process = new_process(peer, before="ip link set lo up")
    assert "fe80::1%late" in (process.wait_for(peer, lambda status: status.error).error or "")
    for _ in range(2):
        process.run("ip link add late type veth peer name far && ip link set late up && ip link set far up")
        process.run("ip addr add fe80::1/64 dev late nodad && ip addr add fe80::2/64 dev far nodad")
        BfdNeighborModel(process, peer, on="far").bring_up(multiplier=10)
        process.wait_for(peer, lambda status: status.state == "up")
        process.run("ip link del late")
        process.wait_for(peer, lambda status: status.state == "down" and status.error)


def test_port_in_use_is_reported_and_retried(new_process: Callable[..., BfdHelper]):
    """For example by a BIRD or FRR with BFD on this server."""
    other = replace(V4, address="127.0.0.3")
    process = new_process(V4, other, before=f"{ADDRESSES} && read start")
    assert process.process.stdin is not None
    own, pid = os.stat("/proc/self/ns/net").st_ino, process.process.pid
    while Path(f"/proc/{pid}/comm").read_text() != "sh\n" or os.stat(f"/proc/{pid}/ns/net").st_ino == own:
        time.sleep(0.01)
    with inside_net(pid):
        holder = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with holder:
        holder.bind(("", 3784))
        process.process.stdin.write(b"start\n")
        process.process.stdin.flush()
        for peer in (V4, other):
            status = process.wait_for(peer, lambda status: status.error)
            assert status.error == "cannot receive on 127.0.0.1: Address already in use"
    for peer in (V4, other):
        BfdNeighborModel(process, peer).bring_up()
