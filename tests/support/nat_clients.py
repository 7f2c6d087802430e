# SPDX-License-Identifier: Apache-2.0
"""Clients of the lab of NAT that hold connections while a test changes something, through NAT and through its control.

The control of each change of nodes is HAProxy on the same nodes with the same backends, behind plain ECMP: the same
change must break some of its connections.
"""

import socket
import time
from dataclasses import dataclass

from support.nat_lab import ECHO_PORT, UDP_PORT, VIP, VIP6, NatLab, Sessions
from support.packets import TCP, ipv4, tcp
from support.waiting import wait_for

from topology.traffic.controller import TrafficController

HELD, HELD_BY_CONTROL, OTHERS = 400, 200, 40
NOBODY = "10.1.77.1"
"""An address of the clients' network that nothing has: what is sent to it is lost."""
STREAM, DATAGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM
KINDS = [(STREAM, VIP, ECHO_PORT), (STREAM, VIP6, ECHO_PORT), (DATAGRAM, VIP, UDP_PORT), (DATAGRAM, VIP6, UDP_PORT)]


@dataclass
class Clients:
    """Those that hold connections all the time, to NAT and to its control, and those that ask when a test does."""

    lab: NatLab
    nat: TrafficController
    control: TrafficController
    others: Sessions

    def open(self, control: bool = False) -> None:
        """Hold HELD connections through NAT, others of each kind, and some through the control, if the test has one."""
        self.close()
        programs = [(self.nat, HELD), *([(self.control, HELD_BY_CONTROL)] if control else [])]
        for traffic, count in programs:
            traffic.begin()
            traffic.open(count)
        for kind, vip, port in KINDS[1:]:
            self.others.open(kind, vip, port, OTHERS)
        for traffic, count in programs:
            wait_for(lambda t=traffic, n=count: t.progress().open >= n, "connections to be open")  # type: ignore[misc]
        for traffic, _ in programs:
            settle(traffic)

    def close(self) -> None:
        """Close all: each connection that is held sends all the time, which a test that needs none would pay for."""
        self.nat.close_held()
        self.control.close_held()
        self.others.close()

    def broken(self, lost: frozenset[str] = frozenset(), backend: str = "") -> list[str]:
        """Return what broke through NAT, but for clients' ends in `lost` and connections of `backend`."""
        settle(self.nat, lost)
        held = [one for one in self.nat.report()[0] if one.state == "broken" and one.source not in lost]
        found = [f"{one.source} at {one.owner}: {one.reason}" for one in held if one.owner != backend]
        others = self.others.broken(may_break=lambda one: one.end in lost or one.backend == backend)
        return found + [f"{one.end} at {one.backend}: no answer" for one in others]

    def control_breaks(self) -> None:
        """Wait until more than a tenth of the control's connections are broken: the change was one that breaks some.

        Then close the others of the control.
        """
        broken = lambda: sum(one.state == "broken" for one in self.control.report()[0])  # noqa: E731
        wait_for(lambda: broken() > HELD_BY_CONTROL / 10, "connections of the control to break")
        self.control.close_held()


def settle(traffic: TrafficController, lost: frozenset[str] = frozenset()) -> None:
    """Wait until each connection but those in `lost` has answered what was sent from now on, or is broken."""
    now = time.monotonic()
    wait_for(lambda: not traffic.progress(now, lost).unsettled, "all to answer or to break")


def has_session(lab: NatLab, pool: str) -> bool:
    """Return whether a session that begins now gets an address of a pool."""
    sessions = lab.sessions()
    sessions.open(STREAM, VIP, ECHO_PORT, 1)
    (end,) = (one.end for one in sessions.held)
    found = end in lab.states(pool=pool)
    sessions.close()
    return found


def held_at(lab: NatLab, clients: Clients, node: str) -> set[str]:
    """Return the clients' ends of the connections whose sessions a node has, and which live on: other sessions may end
    before they are handed over."""
    return set(lab.states([node])) & {one.source for one in clients.nat.report()[0] if one.state == "open"}


def forged(source: tuple[str, int], flags: int, seq: int = 1, ack: int = 0) -> bytes:
    """Return a packet to the echo service, as if a client at `source` had sent it."""
    segment = tcp(src=source[0], dst=VIP, sport=source[1], dport=ECHO_PORT, flags=flags, seq=seq, ack=ack)
    return ipv4(segment, src=source[0], dst=VIP, protocol=TCP)
