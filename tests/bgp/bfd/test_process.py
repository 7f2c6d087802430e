# SPDX-License-Identifier: Apache-2.0
"""The BFD process with real sockets, in a network namespace of its own; this test is the neighbors, and ExaBGP."""

from __future__ import annotations

import itertools
import os
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.waiting import wait_for

from bgp.bfd.config import BfdPeer, encode_peers
from bgp.bfd.packet import Packet, SessionState, decode
from bgp.bfd.status import BfdStatus, decode_statuses
from bgp.exabgp.helper_archive import bfd_archive
from topology.lab.netns import inside_net

pytestmark = pytest.mark.lab  # needs root for the namespace

V4 = BfdPeer("127.0.0.2", "127.0.0.1")
V6 = BfdPeer("2001:db8::2", "2001:db8::1")
LINK_LOCAL = BfdPeer("fe80::2%lo", "fe80::1%lo")
FAR = BfdPeer("127.0.0.3", "127.0.0.1", multihop=True)
ADDRESSES = "ip link set lo up && for a in 2001:db8::1 2001:db8::2 fe80::1 fe80::2; do ip addr add $a/128 dev lo; done"
OURS = 99
IP_RECVTTL = 12  # linux/in.h
TEARDOWN = "neighbor {} teardown 10"


class Process:
    """A BFD process, and this end of its pipes."""

    def __init__(self, directory: Path, *peers: BfdPeer, before: str = ADDRESSES) -> None:
        self.directory = directory
        (directory / "bfd.pyz").write_bytes(bfd_archive())
        self.configure(*peers)
        run = f"{before} && exec /usr/bin/python3 -I -S {directory}/bfd.pyz --run-dir {directory}"
        argv = ["unshare", "--net", "sh", "-c", run]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def configure(self, *peers: BfdPeer) -> None:
        aside = self.directory / "aside"
        aside.write_bytes(encode_peers(peers))
        aside.rename(self.directory / "bfd.json")

    def state(self, peer: BfdPeer) -> BfdStatus | None:
        path = self.directory / "bfd.status.json"
        return decode_statuses(path.read_bytes() if path.exists() else b"").get(peer.name)

    def wait_for(self, peer: BfdPeer, condition: Callable[[BfdStatus], object]) -> BfdStatus:
        deadline = time.monotonic() + 15
        while not (state := self.state(peer)) or not condition(state):
            assert time.monotonic() < deadline, state
            time.sleep(0.01)
        return state

    def run(self, command: str) -> None:
        """Run a shell command in its namespace."""
        subprocess.run(["nsenter", "-t", str(self.process.pid), "-n", "sh", "-c", command], check=True)

    def said(self, timeout_s: float = 15) -> str:
        """The next line to ExaBGP, "" when there is none in time."""
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            return self.process.stdout.readline().decode().strip() if selector.select(timeout_s) else ""

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


class Router:
    """One neighbor of the process, played by hand."""

    def __init__(self, process: Process, peer: BfdPeer, on: str = "lo") -> None:
        self.process, self.peer = process, peer
        self.port = 4784 if peer.multihop else 3784
        process.wait_for(peer, lambda state: state.error is None)  # it is in its namespace, with its sockets open
        with inside_net(process.process.pid):
            self.scope = socket.if_nametoindex(on)
            self.socket = socket.socket(socket.AF_INET6 if ":" in peer.address else socket.AF_INET, socket.SOCK_DGRAM)
            self.socket.bind(self._at(peer.address))
        self.socket.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
        if ":" in peer.address:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
        self.socket.settimeout(5)
        self.ttl = 255
        self.heard: list[Packet] = []
        self.source = self.hops = 0

    def _at(self, address: str) -> tuple[str, int] | tuple[str, int, int, int]:
        host, _, interface = address.partition("%")
        return (host, self.port, 0, self.scope if interface else 0) if ":" in host else (host, self.port)

    def say(self, packet: Packet) -> None:
        if self.socket.family == socket.AF_INET:
            self.socket.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, self.ttl)
        else:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, self.ttl)
        self.socket.sendto(packet.encode(), self._at(self.peer.local_address))

    def hear(self) -> Packet:
        data, extra, _flags, address = self.socket.recvmsg(100, 100)
        packet = decode(data)
        assert packet is not None
        self.source, self.hops = address[1], int.from_bytes(extra[0][2], "little")
        self.heard.append(packet)
        return packet

    def bring_up(self) -> None:
        while (heard := self.hear()).state is not SessionState.UP:
            state = SessionState.INIT if heard.state is SessionState.DOWN else SessionState.UP
            self.say(Packet(state, 3, OURS, heard.my_discriminator, 1_000_000, 300_000))
        self.say(Packet(SessionState.UP, 3, OURS, heard.my_discriminator, 300_000, 300_000, final=True))

    def close(self) -> None:
        self.socket.close()


@pytest.fixture
def numbered(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Makes processes, each with a directory of its own, and ends them."""
    made: list[Process] = []
    count = itertools.count()

    def make(*peers: BfdPeer, before: str = ADDRESSES) -> Process:
        directory = tmp_path / str(next(count))
        directory.mkdir()
        made.append(Process(directory, *peers, before=before))
        return made[-1]

    yield make
    for process in made:
        process.__exit__()


@pytest.mark.parametrize("peer", [V4, V6, LINK_LOCAL, FAR], ids=["v4", "v6", "link-local", "multihop"])
def test_comes_up_and_tells_exabgp_when_the_neighbor_falls_silent(numbered: Callable[..., Process], peer: BfdPeer):
    process = numbered(peer)
    router = Router(process, peer)
    router.bring_up()
    assert router.source in range(49152, 65536)
    assert router.hops == 255
    state = process.wait_for(peer, lambda state: state.state == "up" and state.detection_ms == 900)
    assert (state.diagnostic, state.interval_ms) == ("", 300)
    assert process.said() == TEARDOWN.format(peer.name)
    assert "silent for too long" in process.wait_for(peer, lambda state: state.state == "down").diagnostic


@pytest.mark.parametrize("peer", [V4, V6], ids=["v4", "v6"])
def test_packets_from_afar_do_not_count(numbered: Callable[..., Process], peer: BfdPeer):
    router = Router(numbered(peer), peer)
    router.ttl = 254
    for _ in range(3):
        heard = router.hear()
        router.say(Packet(SessionState.DOWN, 3, OURS, 0, 1_000_000, 300_000))
        assert (heard.state, heard.your_discriminator) == (SessionState.DOWN, 0)
    router.ttl = 255
    router.bring_up()


def test_a_flood_from_afar_does_not_push_the_neighbor_s_packets_out(numbered: Callable[..., Process]):
    process = numbered(V4)
    router = Router(process, V4)
    router.bring_up()
    number = router.heard[-1].my_discriminator
    router.socket.settimeout(0.2)
    until = time.monotonic() + 2.5
    while time.monotonic() < until:
        router.ttl = 64
        os.kill(process.process.pid, signal.SIGSTOP)  # so that only the socket's queue takes them
        for _ in range(3000):
            router.say(Packet(SessionState.DOWN, 3, OURS, 0, 1, 1))
        router.ttl = 255
        router.say(Packet(SessionState.UP, 3, OURS, number, 300_000, 300_000))
        os.kill(process.process.pid, signal.SIGCONT)
        time.sleep(0.2)
    assert process.state(V4).state == "up"  # type: ignore[union-attr]
    assert process.said(0) == ""


def test_stranger_s_packets_do_not_count(numbered: Callable[..., Process]):
    process = numbered(V4, replace(V4, address="127.0.0.3"))
    router, stranger = Router(process, V4), Router(process, replace(V4, address="127.0.0.3"))
    router.bring_up()
    stranger.peer = replace(V4, address="127.0.0.9")
    ours = router.heard[-1].my_discriminator
    for yours in (0, ours):  # of a neighbor, but not of this session
        stranger.say(Packet(SessionState.DOWN, 3, OURS, yours, 1_000_000, 300_000))
    router.say(Packet(SessionState.UP, 3, OURS, ours, 300_000, 300_000))
    for heard in (router.hear(), router.hear()):
        assert heard.state is SessionState.UP


def test_neighbor_taken_down_on_purpose_is_not_torn_down(numbered: Callable[..., Process]):
    process = numbered(V4)
    router = Router(process, V4)
    router.bring_up()
    router.say(Packet(SessionState.ADMIN_DOWN, 3, OURS, router.heard[-1].my_discriminator, 1_000_000, 300_000))
    process.wait_for(V4, lambda state: state.state == "down")
    assert process.said(0.5) == ""
    router.bring_up()
    router.say(Packet(SessionState.DOWN, 3, OURS, router.heard[-1].my_discriminator, 1_000_000, 300_000))
    assert process.said() == TEARDOWN.format("127.0.0.2"), "the control: Down is a failure"


@pytest.mark.parametrize("end", ["eof", "sigterm"])
def test_says_at_its_end_that_this_is_no_failure(numbered: Callable[..., Process], end: str):
    process = numbered(V4)
    router = Router(process, V4)
    router.bring_up()
    if end == "eof":
        process.process.stdin.close()  # type: ignore[union-attr]
    else:
        process.process.send_signal(signal.SIGTERM)
    assert process.process.wait(5) == 0
    while router.hear().state is SessionState.UP:
        pass
    assert router.heard[-1].state is SessionState.ADMIN_DOWN
    assert process.state(V4) is None, "and nothing stale is shown"


def test_reads_whatever_exabgp_says(numbered: Callable[..., Process]):
    process = numbered(V4)
    router = Router(process, V4)
    stdin = process.process.stdin
    assert stdin is not None
    for _ in range(64):
        stdin.write(b"done\n" * 4096)  # far more than a pipe holds: it would block this test as it would ExaBGP
    stdin.flush()
    router.bring_up()


def test_configuration_that_is_replaced_counts_without_a_flap(numbered: Callable[..., Process]):
    process = numbered(V4)
    router = Router(process, V4)
    router.bring_up()
    number = router.heard[-1].my_discriminator
    process.configure(replace(V4, interval_ms=500, multiplier=4), V6)
    while (heard := router.hear()).desired_min_tx_us != 500_000 or not heard.poll:
        router.say(Packet(SessionState.UP, 3, OURS, number, 300_000, 300_000))
    assert (heard.state, heard.multiplier, heard.my_discriminator) == (SessionState.UP, 4, number)
    router.say(Packet(SessionState.UP, 3, OURS, number, 300_000, 300_000, final=True))
    process.wait_for(V4, lambda state: (state.state, state.interval_ms, state.detection_ms) == ("up", 500, 1500))
    other = Router(process, V6)
    other.bring_up()
    process.configure(V6)
    while router.hear().state is not SessionState.ADMIN_DOWN:
        pass
    wait_for(lambda: process.state(V4) is None)
    assert process.state(V6).state == "up"  # type: ignore[union-attr]


def test_address_that_comes_later(numbered: Callable[..., Process]):
    process = numbered(V4, before="true")
    process.wait_for(V4, lambda state: state.error is None)
    time.sleep(1.5)  # it has begun to send, in vain
    process.run("ip link set lo up")
    Router(process, V4).bring_up()


def test_interface_that_comes_later_and_is_another_in_the_end(numbered: Callable[..., Process]):
    """A link-local address has the interface's index in it, and a VLAN device that is made anew another one."""
    peer = BfdPeer("fe80::2%late", "fe80::1%late")
    process = numbered(peer, before="ip link set lo up")
    assert "fe80::1%late" in (process.wait_for(peer, lambda state: state.error).error or "")
    for _ in range(2):
        process.run("ip link add late type veth peer name far && ip link set late up && ip link set far up")
        process.run("ip addr add fe80::1/64 dev late nodad && ip addr add fe80::2/64 dev far nodad")
        Router(process, peer, on="far").bring_up()
        process.wait_for(peer, lambda state: state.state == "up")
        process.run("ip link del late")
        process.wait_for(peer, lambda state: state.state == "down" and state.error)


def test_port_that_another_holds_is_told_and_waited_for(numbered: Callable[..., Process]):
    """Such as a BIRD or FRR with BFD of its own on this server."""
    other = replace(V4, address="127.0.0.3")
    process = numbered(V4, other, before=f"{ADDRESSES} && read go")
    assert process.process.stdin is not None
    own, pid = os.stat("/proc/self/ns/net").st_ino, process.process.pid
    while Path(f"/proc/{pid}/comm").read_text() != "sh\n" or os.stat(f"/proc/{pid}/ns/net").st_ino == own:
        time.sleep(0.01)
    with inside_net(pid):
        holder = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with holder:
        holder.bind(("", 3784))
        process.process.stdin.write(b"go\n")
        process.process.stdin.flush()
        for peer in (V4, other):
            state = process.wait_for(peer, lambda state: state.error)
            assert state.error == "cannot receive on 127.0.0.1: Address already in use"
    for peer in (V4, other):
        Router(process, peer).bring_up()
