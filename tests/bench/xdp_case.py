# SPDX-License-Identifier: Apache-2.0
"""The timed cases, as data: the packet, the tables, and the verdict and counter that every round must give.

This node is number 1 of 16. The services differ in this node's place in their chains, and in how they forward.
"""

import struct
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Final

from bench import figures, target
from support import packets
from support.packets import ACK, HERE, ROUTER, SYN

from bpf.layout.counter import Counter
from bpf.layout.echo import EchoKind, EchoMessage
from bpf.layout.service import Forward

VIP: Final = "10.99.0.1"
VIP6: Final = "2001:db8:99::1"
ELSEWHERE: Final = "10.98.0.1"
CLIENTS: Final = "10.64.0.0"
"""The first client's address; flow i comes from the i-th address on."""
CLIENTS6: Final = "2001:db8:64::a40:0"
"""The same for IPv6: the last word is that of CLIENTS."""
SELF, PREVIOUS = "10.0.0.11", "10.0.0.12"
"""The addresses of this node and of a node that forwards to it."""
SELF6, PREVIOUS6 = "2001:db8::b", "2001:db8::c"
CLUSTER, ECHO_PORT = 4242, 4742
SOCKETS: Final = 10_000
PASS, TX = 2, 3
MARKED: Final = packets.marker(1, 11)[:4]
HERE_: Final = HERE[:4]


@dataclass(frozen=True)
class Service:
    """TCP and UDP on a port of its own. `place`: this node's in all chains; `alone`: each chain is this node only."""

    slot: int
    place: int | None = None
    alone: bool = False
    vip: str = VIP
    forward: Forward = Forward.L2
    outer6: bool = False

    @property
    def port(self) -> int:
        """Its port."""
        return 7000 + self.slot


OUTSIDE: Final = Service(1)
OWNER: Final = Service(2, place=0)
SOLE: Final = Service(3, place=0, alone=True)
SECOND: Final = Service(4, place=1)
IPIP: Final = Service(5, forward=Forward.IPIP)
GUE: Final = Service(6, forward=Forward.GUE)
GUE_OVER_6: Final = Service(7, forward=Forward.GUE, outer6=True)
V6: Final = Service(8, vip=VIP6)
V6_GUE: Final = Service(9, vip=VIP6, forward=Forward.GUE)
SERVICES: Final = (OUTSIDE, OWNER, SOLE, SECOND, IPIP, GUE, GUE_OVER_6, V6, V6_GUE)

SUBJECTS: Final = ("empty", "bare", "shift", "floor", "loads", "lb", "general")
"""An empty program; the wrapper alone; the wrapper with a head that moves and moves back; the floor; the floor and
the loads of a forward; our program; its general part alone."""
OURS: Final = ("lb", "general")
MEASURED: Final = ("floor", "loads", *OURS)
"""The subjects inside the wrapper, whose cost is subtracted."""
HEAD: Final = 3
"""16-byte words that are restored where an outer header was removed; elsewhere 1 (the MACs)."""
WHOLE: Final = 8
"""The same for an echo, which is rewritten to its end."""


@dataclass(frozen=True)
class Case:
    """`subject` is what runs: the program (`lb`) or another of SUBJECTS.

    Each round `counter` rises once, and the packet comes out `grows` bytes longer, its source MAC beginning with
    `source` (empty: unmodified). `client_at` is the offset of the client address's last word. `lean`: the program is
    compiled without IPv6, as for a cluster that has none; `nat`: with NAT, as for one that has services of mode nat
    too. `mode` is for wrapper_nat.c.
    """

    name: str
    packet: bytes
    verdict: int
    counter: Counter | None = None
    service: Service | None = None
    client_at: int = 26
    client: str = CLIENTS
    flows: tuple[int, ...] = (1, target.MANY)
    subject: str = "lb"
    restore: int = 1
    grows: int = 0
    source: bytes = b""
    lean: bool = False
    nat: bool = False
    mode: int = 0


def _segment(service: Service, flags: int) -> bytes:
    """Return a TCP segment; its checksum is never read."""
    return packets.tcp(bytes(64), src=CLIENTS, dst=VIP, sport=40000, dport=service.port, flags=flags)


def _ip(payload: bytes, protocol: int, src: str = CLIENTS, dst: str = VIP) -> bytes:
    return packets.ipv4(payload, src=src, dst=dst, protocol=protocol)


def _frame(packet: bytes, source: bytes = ROUTER, ethertype: int = packets.IPV4) -> bytes:
    return packets.ethernet(packet, dst=HERE, src=source, ethertype=ethertype)


def _tcp(service: Service, flags: int, hop: int = 0, dst: str = VIP) -> bytes:
    source = packets.marker(hop, 12) if hop else ROUTER
    return _frame(_ip(_segment(service, flags), packets.TCP, dst=dst), source)


def _tcp6(service: Service) -> bytes:
    segment = _segment(service, ACK)
    head = struct.pack("!IHBB", 6 << 28, len(segment), packets.TCP, 64)
    return _frame(head + IPv6Address(CLIENTS6).packed + IPv6Address(VIP6).packed + segment, ethertype=0x86DD)


def _udp(service: Service) -> bytes:
    datagram = packets.udp(bytes(64), src=CLIENTS, dst=VIP, sport=40000, dport=service.port)
    return _frame(_ip(datagram, packets.UDP))


def _too_big(service: Service) -> bytes:
    """Return a router's ICMP error: a packet from the VIP to the client was too big."""
    sent = packets.tcp(src=VIP, dst=CLIENTS, sport=service.port, dport=40000, flags=ACK)
    quoted = packets.ipv4(sent, src=VIP, dst=CLIENTS, protocol=packets.TCP)[:28]
    return _frame(_ip(packets.icmp(quoted, kind=3, code=4, rest=1400), packets.ICMP, src="10.7.7.7"))


def _tunnelled(service: Service, gue: bool) -> bytes:
    """Return a packet for the owner as the previous node sends it: the hop is the outer ID."""
    inner, protocol = _ip(_segment(service, ACK), packets.TCP), 4
    if gue:
        inner, protocol = struct.pack("!HHHH", 50000, 6080, 8 + len(inner), 0) + inner, packets.UDP
    return _frame(packets.ipv4(inner, src=PREVIOUS, dst=SELF, protocol=protocol, ident=1))


def _own(payload: bytes, protocol: int) -> bytes:
    """Return a packet to the node itself, from another node."""
    return _frame(_ip(payload, protocol, PREVIOUS, SELF))


def _own_udp(payload: bytes, port: int) -> bytes:
    return _own(packets.udp(payload, src=PREVIOUS, dst=SELF, sport=40000, dport=port), packets.UDP)


def _echo6() -> bytes:
    ends = {"src": PREVIOUS6, "dst": SELF6}
    datagram = packets.udp(QUESTION, sport=40000, dport=ECHO_PORT, **ends)
    return _frame(packets.ipv6(datagram, protocol=packets.UDP, **ends), ethertype=packets.IPV6)


QUESTION: Final = EchoMessage(EchoKind.QUESTION, CLUSTER, nonce=1).pack()

FORWARDS: Final = (TX, Counter.FORWARD_FIRST)
DELIVERIES: Final = (PASS, Counter.DELIVER_SOCKET, OWNER)

GUE_FORWARD: Final = "gue forward, ingress outside the chain"
BARE: Final = "wrapper, subtracted"
BARE_HEAD: Final = "wrapper that writes 48 bytes back"
BARE_WHOLE: Final = "wrapper that writes 128 bytes back"
SHIFT: Final = "wrapper with two moves of the head"

CASES: Final = (
    Case(figures.EMPTY, _tcp(OUTSIDE, ACK), PASS, flows=(1,), subject="empty"),
    Case(BARE, _tcp(OUTSIDE, ACK), TX, flows=(1,), subject="bare"),
    Case(BARE_HEAD, _tcp(OUTSIDE, ACK), TX, flows=(1,), subject="bare", restore=HEAD),
    Case(BARE_WHOLE, _tcp(OUTSIDE, ACK), TX, flows=(1,), subject="bare", restore=WHOLE),
    Case(SHIFT, _tcp(OUTSIDE, ACK), TX, flows=(1,), subject="shift", grows=20),
    Case(figures.FLOOR, _tcp(OUTSIDE, ACK), TX, subject="floor", source=MARKED),
    Case(figures.LOADS, _tcp(OUTSIDE, ACK), TX, subject="loads", source=MARKED),
    Case(target.L2, _tcp(OUTSIDE, ACK), *FORWARDS, OUTSIDE, source=MARKED),
    Case("l2 forward, SYN", _tcp(OUTSIDE, SYN), *FORWARDS, OUTSIDE, source=MARKED),
    Case("l2 forward, UDP", _udp(OUTSIDE), *FORWARDS, OUTSIDE, source=MARKED),
    Case("l2 forward, ICMP error", _too_big(OUTSIDE), *FORWARDS, OUTSIDE, source=MARKED, client_at=58),
    Case("l2 forward, second in the chain", _tcp(SECOND, ACK), *FORWARDS, SECOND, source=MARKED),
    Case("l2 forward, general program", _tcp(OUTSIDE, ACK), *FORWARDS, OUTSIDE, source=MARKED, subject="general"),
    Case("l2 forward, without IPv6", _tcp(OUTSIDE, ACK), *FORWARDS, OUTSIDE, source=MARKED, lean=True),
    Case("l2 forward, NAT on the node too", _tcp(OUTSIDE, ACK), *FORWARDS, OUTSIDE, source=MARKED, nat=True),
    Case(target.IPIP, _tcp(IPIP, ACK), *FORWARDS, IPIP, grows=20, source=HERE_),
    Case(GUE_FORWARD, _tcp(GUE, ACK), *FORWARDS, GUE, grows=28, source=HERE_),
    Case("gue forward over IPv6", _tcp(GUE_OVER_6, ACK), *FORWARDS, GUE_OVER_6, grows=48, source=HERE_),
    Case(target.L2_IPV6, _tcp6(V6), *FORWARDS, V6, client_at=34, source=MARKED),
    Case("IPv6, gue forward", _tcp6(V6_GUE), *FORWARDS, V6_GUE, client_at=34, grows=28, source=HERE_),
    Case("deliver at the owner, SYN (no socket lookup)", _tcp(OWNER, SYN), PASS, Counter.DELIVER_OWNER, OWNER),
    Case("deliver at the only member (no socket lookup)", _tcp(SOLE, ACK), PASS, Counter.DELIVER_ONLY_NODE, SOLE),
    Case("deliver at the owner, socket", _tcp(OWNER, ACK), *DELIVERIES, flows=(1, SOCKETS)),
    Case("deliver at the owner, socket, NAT on the node too", _tcp(OWNER, ACK), *DELIVERIES, flows=(1, SOCKETS),
         nat=True),
    Case("deliver from l2, socket", _tcp(OWNER, ACK, 1), *DELIVERIES, flows=(1, SOCKETS)),
    Case(target.FROM_IPIP, _tunnelled(OWNER, False), *DELIVERIES, client_at=46, restore=HEAD, grows=-20,
         flows=(1, SOCKETS)),
    Case(target.FROM_GUE, _tunnelled(OWNER, True), *DELIVERIES, client_at=54, restore=HEAD, grows=-28,
         flows=(1, SOCKETS)),
    Case(target.NOT_A_VIP, _tcp(OUTSIDE, ACK, dst=ELSEWHERE), PASS, Counter.PASS_NO_SERVICE),
    Case("pass, not a VIP, NAT on the node too", _tcp(OUTSIDE, ACK, dst=ELSEWHERE), PASS, Counter.PASS_NO_SERVICE,
         nat=True),
    Case("pass, not a VIP, any address", _tcp(OUTSIDE, ACK), PASS, Counter.PASS_NO_SERVICE, client_at=30,
         client="172.16.0.0"),
    Case("pass, ICMP to the node", _own(packets.icmp(bytes(56), kind=8), packets.ICMP), PASS, Counter.PASS_NO_SERVICE,
         client=PREVIOUS, flows=(1,)),
    Case("pass, UDP to the node", _own_udp(bytes(64), 53), PASS, Counter.PASS_NO_SERVICE, client=PREVIOUS, flows=(1,)),
    Case("reply, echo", _own_udp(QUESTION, ECHO_PORT), TX, Counter.REPLY_ECHO, client=PREVIOUS, flows=(1,),
         restore=WHOLE, source=HERE_),
    Case("reply, echo over IPv6", _echo6(), TX, Counter.REPLY_ECHO, client_at=34, client="0.0.0.12", flows=(1,),
         restore=WHOLE, source=HERE_),
)  # fmt: skip


def wrapper_of(case: Case) -> dict[str, float]:
    """Return the wrapper runs that a case contains, by weight: to move the head back is half of SHIFT."""
    if not case.grows:
        return {BARE_WHOLE if case.restore == WHOLE else BARE: 1.0}
    return {BARE: 0.5, SHIFT: 0.5} if case.restore == 1 else {BARE: -0.5, SHIFT: 0.5, BARE_HEAD: 1.0}


#: What one packet costs the cluster, over the nodes that it visits: name, and (case, flows) of each.
SUMS: Final = {
    f"cluster: {how} ingress + owner{end}": ((forward, flows), (f"deliver from {how}, socket", sockets))
    for how, forward in (("l2", target.L2), ("ipip", target.IPIP), ("gue", GUE_FORWARD))
    for end, flows, sockets in (("", 1, 1), (", many flows", target.MANY, SOCKETS))
}
