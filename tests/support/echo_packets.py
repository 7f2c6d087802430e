# SPDX-License-Identifier: Apache-2.0
"""Echo questions and answers as packets and frames, and the node that is asked.

This node is 1 (10.0.0.11, 2001:db8::b); node 2 (10.0.0.12, 2001:db8::c) asks.
"""

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from support import packets
from support.packets import HERE, IPIP, SIX, UDP

from bpf.layout.conf import NodeConf
from bpf.layout.counter import Counter
from bpf.layout.echo import EchoFlag, EchoKind, EchoMessage, EchoState
from bpf.layout.uplink import UplinkEntry

CLUSTER, PORT, ASKER_PORT = 4242, 4742, 50123
OWN, ASKER, OTHER = (
    {4: "10.0.0.11", 6: "2001:db8::b"},
    {4: "10.0.0.12", 6: "2001:db8::c"},
    {4: "10.0.0.13", 6: "2001:db8::d"},
)
ASKER_MAC = packets.mac("02:00:00:00:00:02")
MARKER = packets.marker(1, 12)
STATE = EchoState(0, boot=0x1122334455667788, view_digest=0xDEADBEEF, tables_digest=0x12345678, ready=True)
CONF = NodeConf(
    1, 11, bytes(range(16)), address=IPv4Address(OWN[4]), address6=IPv6Address(OWN[6]), epoch=7, cluster=CLUSTER,
    echo_port=PORT,
)  # fmt: skip
QUESTION = EchoMessage(EchoKind.QUESTION, CLUSTER, nonce=0x0102030405060708)
ANSWER = EchoMessage(
    EchoKind.ANSWER, CLUSTER, QUESTION.nonce, EchoFlag.READY | EchoFlag.DATA_PATH, None, STATE.boot, (7,),
    STATE.view_digest, STATE.tables_digest,
)  # fmt: skip
ANSWERED = {(0, Counter.REPLY_ECHO): 1}
PASSED = {(0, Counter.PASS_NO_SERVICE): 1}
FOREIGN = {(0, Counter.PASS_FOREIGN_TUNNEL): 1}
FAMILIES = pytest.mark.parametrize("family", [4, 6])


def be_node_1(world: Any) -> None:
    world.maps.conf.write(CONF)
    world.maps.uplinks.write(0, UplinkEntry(HERE, 1))


def be_node_2(world: Any) -> None:
    """Make it the program of the node that asks."""
    ends = {"address": IPv4Address(ASKER[4]), "address6": IPv6Address(ASKER[6])}
    world.maps.conf.write(replace(CONF, self_index=2, self_tag=12, **ends))
    world.maps.uplinks.write(0, UplinkEntry(ASKER_MAC, 1))


def ip(family: int, payload: bytes, src: str, dst: str, protocol: int = UDP, **more: Any) -> bytes:
    make = packets.ipv4 if family == 4 else packets.ipv6
    return make(payload, src=src, dst=dst, protocol=protocol, **more)


def datagram(
    family: int, payload: bytes, src: str = "", dst: str = "", dport: int = PORT, length: int | None = None, **more: Any
) -> bytes:
    """An IP packet from the asker to this node."""
    src, dst = src or ASKER[family], dst or OWN[family]
    return ip(
        family, packets.udp(payload, src=src, dst=dst, sport=ASKER_PORT, dport=dport, length=length), src, dst, **more
    )


def question(family: int, message: EchoMessage = QUESTION, **more: Any) -> bytes:
    return datagram(family, message.pack(), **more)


def tunnel(family: int, inner: bytes, gue: bool = False) -> bytes:
    """An IP packet as the asker forwards another by a tunnel."""
    protocol = IPIP if inner[0] >> 4 == 4 else SIX
    if gue:
        protocol, inner = UDP, packets.gue(inner, source=50000)
    marker = {"ident": 1} if family == 4 else {"label": 0x1231}
    return ip(family, inner, ASKER[family], OWN[family], protocol, **marker)


def frame(packet: bytes, dst: bytes = HERE, src: bytes = ASKER_MAC, tags: int = 0) -> bytes:
    """A frame without padding, which the program leaves as it is."""
    ethertype = packets.IPV4 if packet[0] >> 4 == 4 else packets.IPV6
    for number in range(tags):
        packet, ethertype = packets.vlan(packet, 5 + number, ethertype), (packets.VLAN, packets.QINQ)[number]
    return packets.ethernet(packet, dst=dst, src=src, ethertype=ethertype)


def answer(family: int, message: EchoMessage = ANSWER) -> bytes:
    """The IP packet of the answer."""
    ends = {"src": OWN[family], "dst": ASKER[family]}
    segment = packets.udp(message.pack(), sport=PORT, dport=ASKER_PORT, **ends)
    if family == 4:  # without a checksum
        segment = segment[:6] + bytes(2) + segment[8:]
    return ip(family, segment, **ends)
