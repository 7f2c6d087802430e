# SPDX-License-Identifier: Apache-2.0
"""The sockets of the proofs' stage, in the namespace of the tests.

Owns the addresses, and one socket in each state that a flow can have:

    client 10.1.0.2 (lo) ──── VIPs (lo)        connections and TIME-WAIT, by ordinary sockets
    client 10.1.9.9 ── wire │ feed ── VIPs     half-open handshakes
"""

import socket
import subprocess
import time
from contextlib import ExitStack
from ipaddress import IPv4Address
from pathlib import Path
from typing import Self

from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether
from support.oracle.headers import Flow
from support.oracle.next_hop import CONNECTION, TIME_WAIT

VIP, CLIENT, FAR_CLIENT = IPv4Address("10.99.0.1"), IPv4Address("10.1.0.2"), IPv4Address("10.1.9.9")
FEED_MAC = "02:00:00:00:00:aa"


class Sockets:
    """A socket of each state that a flow can have, for flows to TCP port 7000 and UDP port 53 of the VIP."""

    ESTABLISHED, TIME_WAIT, SYN_RECV, CONNECTED = 40001, 40002, 40003, 40011
    MORE_ESTABLISHED = range(40032, 40064)

    def __init__(self) -> None:
        self._stack = ExitStack()
        for address in (VIP, CLIENT):
            _run("ip", "address", "add", f"{address}/32", "dev", "lo")
        # With 30 retries a half-open handshake lasts for three quarters of an hour: longer than the longest proof.
        for name, value in (("conf/all/rp_filter", 0), ("tcp_synack_retries", 30)):
            Path("/proc/sys/net/ipv4", name).write_text(str(value))
        self._listener = self._stack.enter_context(socket.create_server((str(VIP), 7000)))
        for port in (self.ESTABLISHED, *self.MORE_ESTABLISHED):
            self._connect(port)
        self._leave_time_wait()
        self._open_half()
        self._datagrams()

    @property
    def flows(self) -> dict[Flow, str]:
        return {
            **{Flow(6, CLIENT, port, VIP, 7000): CONNECTION for port in (self.ESTABLISHED, *self.MORE_ESTABLISHED)},
            Flow(6, CLIENT, self.TIME_WAIT, VIP, 7000): TIME_WAIT,
            Flow(6, FAR_CLIENT, self.SYN_RECV, VIP, 7000): CONNECTION,
            Flow(17, CLIENT, self.CONNECTED, VIP, 53): CONNECTION,
        }

    def refresh(self) -> None:
        """Renew the TIME-WAIT socket, which the kernel keeps for a minute; call this often."""
        if time.monotonic() - self._since > 30:
            self._leave_time_wait()

    def _leave_time_wait(self) -> None:
        """Make a TIME-WAIT socket here: the end that closes first gets it."""
        self._since = time.monotonic()
        client, server = self._connect(self.TIME_WAIT)
        server.close()
        assert client.recv(1) == b""
        client.close()

    def _connect(self, port: int) -> tuple[socket.socket, socket.socket]:
        ends = (str(VIP), 7000), 5, (str(CLIENT), port)
        client = self._stack.enter_context(socket.create_connection(*ends))
        return client, self._stack.enter_context(self._listener.accept()[0])

    def _open_half(self) -> None:
        """Send a SYN into the wire and wait for the SYN-ACK, which gets no answer."""
        _run("ip", "link", "add", "feed", "address", FEED_MAC, "type", "veth", "peer", "name", "wire")
        _run("ip", "link", "set", "feed", "arp", "off", "up")
        _run("ip", "link", "set", "wire", "up")
        _run("ip", "address", "add", "10.1.0.1/16", "dev", "feed")
        syn = Ether(dst=FEED_MAC, src="02:00:00:00:00:fe") / IP(src=str(FAR_CLIENT), dst=str(VIP))
        syn /= TCP(sport=self.SYN_RECV, dport=7000, flags="S")
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800)) as wire:
            wire.bind(("wire", 0x0800))
            wire.settimeout(5)
            wire.send(bytes(syn))
            deadline = time.monotonic() + 5
            while wire.recv(2048)[34:38] != bytes(syn)[36:38] + bytes(syn)[34:36]:
                assert time.monotonic() < deadline, "no SYN-ACK"

    def _datagrams(self) -> None:
        """Open an unconnected socket, which matches every client, and one that is connected to a client's port."""
        for connected in (False, True):
            udp = self._stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            udp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            udp.bind((str(VIP), 53))
            if connected:
                udp.connect((str(CLIENT), self.CONNECTED))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
