# SPDX-License-Identifier: Apache-2.0
"""The service's frames on the router's segment interface: by which node a flow enters, and which node answers it.

The router sends a flow's packets to the MAC of its ingress. The owner's answers come from the owner's own MAC if they
return directly, and from another node's if they do not. The answer names its server (topology/traffic/server.py), so
each frame alone shows whether it came directly. Counting is pure; `capture` reads the packet socket.
"""

import re
import socket
import struct
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from topology.lab.netns import inside_net

#: Captures both directions, unlike a single protocol.
ETH_P_ALL = 0x0003
#: Enough for all headers and the first answer of a segment.
SNAP_LENGTH = 160
NAMED = re.compile(rb"([^ \n]+) \d")
SOL_PACKET, PACKET_STATISTICS = 263, 6


def node_of(mac: bytes, macs: Mapping[str, bytes]) -> str:
    """Return the node that has this MAC, or the MAC itself as text."""
    for node, node_mac in macs.items():
        if node_mac == mac:
            return node
    return mac.hex(":")


@dataclass
class FrameCounts:
    """Counts of captured frames. `macs`: each node's MAC on the segment."""

    vip: str
    port: int
    macs: Mapping[str, bytes]
    #: `address:port` of a flow's client → the node(s) that the router sent it to.
    ingress: dict[str, set[str]] = field(default_factory=dict)
    #: (the node that the frame came from, the server that it names) → segments.
    replies: Counter[tuple[str, str]] = field(default_factory=Counter)
    #: Frames that the socket lost; the counts are then too low.
    missed: int = 0

    def count(self, frame: bytes) -> None:
        """Count one Ethernet frame of either direction, truncated anywhere after its headers."""
        if len(frame) < 54 or frame[12:14] != b"\x08\x00" or frame[23] != socket.IPPROTO_TCP:
            return
        tcp = 14 + (frame[14] & 15) * 4
        total_length, source, destination = struct.unpack_from("!H8x4s4s", frame, 16)
        sport, dport = struct.unpack_from("!HH", frame, tcp)
        payload = frame[tcp + (frame[tcp + 12] >> 4) * 4 : 14 + total_length]
        vip = socket.inet_aton(self.vip)
        if (destination, dport) == (vip, self.port):
            flow = f"{socket.inet_ntoa(source)}:{sport}"
            self.ingress.setdefault(flow, set()).add(node_of(frame[0:6], self.macs))
        elif (source, sport) == (vip, self.port) and (named := NAMED.match(payload)):
            self.replies[node_of(frame[6:12], self.macs), named[1].decode(errors="replace")] += 1

    @property
    def direct(self) -> int:
        """Answers that came from the node that they name."""
        return sum(count for (sender, named), count in self.replies.items() if sender == named)

    @property
    def indirect(self) -> int:
        """Answers that came through another node."""
        return sum(self.replies.values()) - self.direct


def capture(pid: int, interface: str, counts: FrameCounts, duration_s: float) -> None:
    """Count every frame on an interface in the network namespace of process `pid` for `duration_s`."""
    with inside_net(pid):
        # Protocol 0: nothing arrives before the bind, so nothing of another interface does (packet(7)).
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    with sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        sock.bind((interface, ETH_P_ALL))
        deadline = time.monotonic() + duration_s
        while (remaining_s := deadline - time.monotonic()) > 0:
            sock.settimeout(remaining_s)
            try:
                counts.count(sock.recv(SNAP_LENGTH))
            except TimeoutError:
                break
        _packets, counts.missed = struct.unpack("II", sock.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
