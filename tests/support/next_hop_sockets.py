# SPDX-License-Identifier: Apache-2.0
"""Flows of a service, and a socket in each state for them, in a namespace of the test's own.

Owns the addresses, the sockets and the half-open handshakes; tests/bpf/program/test_next_hop.py owns what is compared.

    client 10.1.0.2 (lo) ──── VIP 10.99.0.1 (lo)          connections and TIME-WAIT, by ordinary sockets
    client 10.1.9.9 ── wire │ feed ── VIP                 half-open handshakes, by handmade segments
"""

import socket
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from support import packets
from support.packets import ACK, HERE, ROUTER, SYN

from bpf.reference.flow_hash import row_of
from bpf.reference.pick import Socket

VIP, CLIENT, FAR_CLIENT = "10.99.0.1", "10.1.0.2", "10.1.9.9"
ROWS, KEY = 4096, bytes(range(16))
ECHO, DNS = 1, 2
UNKNOWN_NODE = 9  # not in the node table


@dataclass(frozen=True)
class Flow:
    """A flow to the service, and the kernel's socket for it."""

    socket: Socket
    client: str
    port: int
    udp: bool = False
    ack: int = 0

    @property
    def slot(self) -> int:
        return DNS if self.udp else ECHO

    @property
    def row(self) -> int:
        return self.row_under(KEY)

    def row_under(self, key: bytes) -> int:
        return row_of(key, ROWS, IPv4Address(self.client), self.port, IPv4Address(VIP), 53 if self.udp else 7000)

    def frame(self, opens: bool, hop: int = 0, prev: int = UNKNOWN_NODE) -> bytes:
        return _frame(self.client, self.port, self.udp, self.ack, opens, hop, prev)


@cache
def _frame(client: str, port: int, udp: bool, ack: int, opens: bool, hop: int, prev: int) -> bytes:
    """Make each frame once: tests send hundreds of thousands of a few hundred."""
    ends = {"src": client, "dst": VIP}
    if udp:
        inner = packets.udp(b"?", sport=port, dport=53, **ends)
    else:
        inner = packets.tcp(sport=port, dport=7000, flags=SYN if opens else ACK, seq=2, ack=ack, **ends)
    source = packets.marker(hop, 10 + prev) if hop else ROUTER
    protocol = packets.UDP if udp else packets.TCP
    return packets.ethernet(packets.ipv4(inner, protocol=protocol, **ends), dst=HERE, src=source)


def sysctl(name: str, value: int) -> None:
    Path("/proc/sys/net/ipv4", name).write_text(str(value))


class Wire:
    """The far end of the namespace's veth: sends segments as a client, receives the kernel's answers."""

    def __init__(self, run: Any) -> None:
        run("ip", "link", "add", "feed", "address", "02:00:00:00:00:aa", "type", "veth", "peer", "name", "wire")
        run("ip", "link", "set", "feed", "arp", "off", "up")
        run("ip", "link", "set", "wire", "up")
        run("ip", "address", "add", "10.1.0.1/16", "dev", "feed")
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(packets.IPV4))
        self._socket.bind(("wire", packets.IPV4))
        self._socket.settimeout(5)

    def open_half(self, port: int) -> int:
        """Send a SYN without the final ACK; return the sequence number of the kernel's SYN-ACK."""
        ends = {"src": FAR_CLIENT, "dst": VIP}
        segment = packets.ipv4(packets.tcp(sport=port, dport=7000, **ends), protocol=packets.TCP, **ends)
        self._socket.send(packets.ethernet(segment, dst=packets.mac("02:00:00:00:00:aa"), src=ROUTER))
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            frame = self._socket.recv(2048)
            if frame[34:38] == (7000).to_bytes(2, "big") + port.to_bytes(2, "big") and frame[47] == SYN | ACK:
                return int.from_bytes(frame[38:42], "big")
        raise TimeoutError("no SYN-ACK")

    def close(self) -> None:
        self._socket.close()


class Sockets:
    """A socket in each state for flows to TCP port 7000 and UDP port 53 of the VIP.

    The kernel removes some of them after a minute; on a busy machine the tests of this file take longer.
    """

    KEPT_S = 20

    def __init__(self, run: Any, stack: ExitStack) -> None:
        self._stack = stack
        for address in (VIP, CLIENT):
            run("ip", "address", "add", f"{address}/32", "dev", "lo")
        sysctl("conf/all/rp_filter", 0)
        sysctl("tcp_synack_retries", 12)
        self._wire = Wire(run)
        stack.callback(self._wire.close)
        self._listener = stack.enter_context(socket.create_server((VIP, 7000)))
        self._connect(40001)
        sysctl("tcp_syncookies", 1)
        self._wire.open_half(40003)
        self._datagrams()
        self._renew()

    def flows(self) -> dict[str, Flow]:
        if time.monotonic() - self._since > self.KEPT_S:
            self._renew()
        return {
            "none": Flow(Socket.NONE, CLIENT, 40000),
            "established": Flow(Socket.CONNECTION, CLIENT, 40001),
            "time-wait": Flow(Socket.TIME_WAIT, CLIENT, 40002),
            "syn-recv": Flow(Socket.CONNECTION, FAR_CLIENT, 40003),
            "cookie": Flow(Socket.COOKIE, FAR_CLIENT, 40004, ack=self._cookie + 1),
            "bad cookie": Flow(Socket.NONE, FAR_CLIENT, 40004, ack=self._cookie + 4711),
            "udp": Flow(Socket.NONE, CLIENT, 40010, udp=True),
            "udp connected": Flow(Socket.CONNECTION, CLIENT, 40011, udp=True),
        }

    def _renew(self) -> None:
        self._since = time.monotonic()
        client, server = self._connect(40002)
        server.close()  # the end that closes first gets TIME-WAIT
        assert client.recv(1) == b""
        client.close()
        sysctl("tcp_syncookies", 2)
        self._cookie = self._wire.open_half(40004)

    def _connect(self, port: int) -> tuple[socket.socket, socket.socket]:
        client = self._stack.enter_context(socket.create_connection((VIP, 7000), 5, (CLIENT, port)))
        return client, self._stack.enter_context(self._listener.accept()[0])

    def _datagrams(self) -> None:
        """Open unconnected sockets at two ports, and one that is connected to a client's port."""
        for port, connected in ((54, False), (53, False), (53, True)):
            udp = self._stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            udp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            udp.bind((VIP, port))
            if connected:
                udp.connect((CLIENT, 40011))
