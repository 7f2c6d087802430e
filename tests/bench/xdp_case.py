# SPDX-License-Identifier: Apache-2.0
"""What is timed, as data: the packet, the tables it meets, the verdict and counter that every round must give.

This node is number 1 of 16. The services differ in where this node stands in their chains.
"""

from dataclasses import dataclass
from typing import Final

import packets
from bench import figures
from packets import ACK, HERE, ROUTER, SYN

from bpf.layout import Counter

VIP: Final = "10.99.0.1"
ELSEWHERE: Final = "10.98.0.1"
CLIENTS: Final = "10.64.0.0"
"""The first client's address; flow i comes from the i-th address on."""
MILLION: Final = 1_000_000
SOCKETS: Final = 10_000
PASS, TX = 2, 3
MARKED: Final = packets.marker(1, 11)[:4]

#: Slot of each service, and its port less 7000.
OUTSIDE, OWNER, SOLE, SECOND = 1, 2, 3, 4
PLACES: Final = {OUTSIDE: None, OWNER: 0, SOLE: 0, SECOND: 1}

SUBJECTS: Final = ("empty", "bare", "floor", "lb")
"""An empty program, the wrapper around nothing, the floor and the program."""
OPENED: Final = 10
"""16-byte words to write back where an outer header was taken off; 1 (the MACs) where not."""


@dataclass(frozen=True)
class Case:
    """`subject` is what runs: the program (`lb`) or one of SUBJECTS.

    Each round `counter` rises once, and the packet comes out `grows` bytes longer, its source MAC beginning with
    `source` (empty: the one it had).
    """

    name: str
    packet: bytes
    verdict: int
    counter: Counter | None
    slot: int = 0
    client_at: int = 26
    client: str = CLIENTS
    flows: tuple[int, ...] = (1, MILLION)
    subject: str = "lb"
    restore: int = 1
    grows: int = 0
    source: bytes = b""


def _tcp(slot: int, flags: int, hop: int = 0, dst: str = VIP, options: bytes = b"") -> bytes:
    segment = packets.tcp(bytes(64), src=CLIENTS, dst=dst, sport=40000, dport=7000 + slot, flags=flags)
    source = packets.marker(hop, 12) if hop else ROUTER
    ip = packets.ipv4(segment, src=CLIENTS, dst=dst, protocol=packets.TCP, options=options)
    return packets.ethernet(ip, dst=HERE, src=source)


def _udp(slot: int) -> bytes:
    datagram = packets.udp(bytes(64), src=CLIENTS, dst=VIP, sport=40000, dport=7000 + slot)
    return packets.ethernet(packets.ipv4(datagram, src=CLIENTS, dst=VIP, protocol=packets.UDP), dst=HERE, src=ROUTER)


def _too_big(slot: int) -> bytes:
    """A router on the way says that a packet from the VIP to the client was too big."""
    sent = packets.tcp(src=VIP, dst=CLIENTS, sport=7000 + slot, dport=40000, flags=ACK)
    quoted = packets.ipv4(sent, src=VIP, dst=CLIENTS, protocol=packets.TCP)[:28]
    error = packets.icmp(quoted, kind=3, code=4, rest=1400)
    return packets.ethernet(packets.ipv4(error, src="10.7.7.7", dst=VIP, protocol=packets.ICMP), dst=HERE, src=ROUTER)


FLOOR_CASE: Final = Case(figures.FLOOR, _tcp(OUTSIDE, ACK), TX, None, subject="floor", source=MARKED)
L2: Final = "l2 forward, ingress outside the chain"
AT_SOCKET: Final = "deliver at the owner, socket"

CASES: Final = (
    Case(figures.EMPTY, _tcp(OUTSIDE, ACK), PASS, None, flows=(1,), subject="empty"),
    Case("wrapper, subtracted", _tcp(OUTSIDE, ACK), TX, None, flows=(1,), subject="bare"),
    FLOOR_CASE,
    Case(L2, _tcp(OUTSIDE, ACK), TX, Counter.FORWARD_FIRST, OUTSIDE, source=MARKED),
    Case("l2 forward, SYN", _tcp(OUTSIDE, SYN), TX, Counter.FORWARD_FIRST, OUTSIDE, source=MARKED),
    Case("l2 forward, UDP", _udp(OUTSIDE), TX, Counter.FORWARD_FIRST, OUTSIDE, source=MARKED),
    Case("l2 forward, ICMP error", _too_big(OUTSIDE), TX, Counter.FORWARD_FIRST, OUTSIDE, source=MARKED, client_at=58),
    Case("l2 forward, second in the chain", _tcp(SECOND, ACK), TX, Counter.FORWARD_FIRST, SECOND, source=MARKED),
    Case("deliver at the owner, SYN (no socket lookup)", _tcp(OWNER, SYN), PASS, Counter.DELIVER_OWNER, OWNER),
    Case("deliver at the only member (no socket lookup)", _tcp(SOLE, ACK), PASS, Counter.DELIVER_SOLE, SOLE),
    Case(AT_SOCKET, _tcp(OWNER, ACK), PASS, Counter.DELIVER_SOCKET, OWNER, flows=(1, SOCKETS)),
    Case("deliver forwarded, socket", _tcp(OWNER, ACK, 1), PASS, Counter.DELIVER_SOCKET, OWNER, flows=(1, SOCKETS)),
    Case("pass, not a VIP", _tcp(OUTSIDE, ACK, dst=ELSEWHERE), PASS, Counter.PASS_OTHER),
    Case("pass, not a VIP, any address", _tcp(OUTSIDE, ACK), PASS, Counter.PASS_OTHER, client_at=30,
         client="172.16.0.0"),
)  # fmt: skip

#: Sums over the nodes that one packet visits: name, and (case, flows) of each.
SUMS: Final = {
    "cluster: l2 ingress + owner's socket": ((L2, 1), ("deliver forwarded, socket", 1)),
    "cluster: l2 ingress + owner's socket, many flows": ((L2, MILLION), ("deliver forwarded, socket", SOCKETS)),
}
