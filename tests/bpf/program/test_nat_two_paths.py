# SPDX-License-Identifier: Apache-2.0
"""Packets around an established session: the first program's shortcut and the whole path give the same result.

While packets are sampled, each goes the whole path, from the general program on; here no sample is wanted.
"""

from collections import Counter as Tally
from dataclasses import dataclass, replace
from ipaddress import IPv4Network
from typing import Any, Final

import numpy as np
import pytest
from hypothesis import given, note
from hypothesis import strategies as st
from support import packets
from support.examples import examples
from support.nat_node import FLOWS, GATEWAY, IDS, TABLE, Flow, Here, establish, reply
from support.nat_stage import LIMIT_REPLY_RESET, LIMIT_REPLY_TOO_BIG
from support.packets import ACK, FIN, HERE, PSH, ROUTER, RST, SYN

from bpf.kernel import bpf_map
from bpf.layout.conf import ConfFlag
from bpf.layout.counter import Counter
from bpf.layout.nat_backend import NatHop
from bpf.layout.session import Session, SessionState, TagFlag

IP_FIELDS: Final = {
    "version and length": (0, "46 44 55 65"),
    "traffic class": (1, "02 03 b9"),
    "total length": (2, "0000 0013 0014 0028 0029 001c 001d 05dc ffff"),
    "fragment": (6, "2000 0001 4001 8000 c000 0000"),
    "TTL": (8, "00 01 02 ff"),
    "protocol": (9, "00 01 06 11 84"),
    "header checksum": (10, "0000 ffff 1234 fffe 0001"),
    "source": (12, "7f000001 e0000001 00000000 0a010003 0a630001 f0000001"),
    "destination": (16, "0aff0000 0aff0001 0a630001 0a620000 0a00000b"),
}
"""By name: the place in the packet, and what is written there."""
TCP_FIELDS: Final = {
    "source port": (20, "0000 9c41"),
    "destination port": (22, "0000 01ba 8000 ffff"),
    "data offset": (32, "00 40 5f 60 f0"),
    "flags": (33, "00 01 02 04 12 05 d0 ff"),
    "checksum": (36, "0000 ffff 1234"),
    "urgent": (38, "1234"),
}
UDP_FIELDS: Final = {
    "source port": (20, "0000 9c41"),
    "destination port": (22, "0000 01ba 8000 ffff"),
    "length": (24, "0000 0007 0008 0009 000a ffff"),
    "checksum": (26, "0000 ffff 1234"),
}
HOP: Final = NatHop(GATEWAY)


@dataclass(frozen=True)
class Around:
    """What this node knows: the row's chain, the next hops, the session's state, and settings."""

    chain: tuple[int, ...] = (1,)
    hop: NatHop = HOP
    state: SessionState = SessionState.EST
    flags: int = 0
    age: int = 0
    moving: bool = False
    watched: bool = False
    former_pool: bool = False
    denied: bool = False


@dataclass(frozen=True)
class Result:
    verdict: str
    packet: bytes
    events: Tally[tuple[int, Counter]]
    tags: tuple[tuple[int, int], ...]
    """Slots and their tags without the stamp."""
    stamp: int
    records: tuple[Session, ...]
    active: tuple[int, ...]


OTHER: Final = {
    "a second node": {"chain": (1, 2)},
    "another owner": {"chain": (2, 1)},
    "not in the chain": {"chain": (2, 3)},
    "no member": {"chain": ()},
    "no MAC": {"hop": NatHop(None)},
    "a VLAN": {"hop": NatHop(GATEWAY, vlan=5)},
    "this interface": {"hop": NatHop(GATEWAY, ifindex=1)},
    "another interface": {"hop": NatHop(GATEWAY, ifindex=2, source=packets.mac("02:00:00:00:00:aa"))},
    "MTU 1300": {"hop": NatHop(GATEWAY, mtu=1300)},
    "MTU 41": {"hop": NatHop(GATEWAY, mtu=41)},
    "MTU 28": {"hop": NatHop(GATEWAY, mtu=28)},
    **{state.name: {"state": state} for state in SessionState if state is not SessionState.EST},
    **{repr(flag): {"flags": flag} for flag in TagFlag if flag not in (TagFlag.IPV6, TagFlag.UDP)},
    "a tick ago": {"age": 1},
    "long ago": {"age": 4000},
    "moving": {"moving": True},
    "watched": {"watched": True},
    "a former pool": {"former_pool": True},
    "denied": {"denied": True},
}
"""What may differ from the usual."""


@st.composite
def frames(draw: st.DrawFn, flow: Flow, session: Session) -> bytes:
    """Return a packet of the session, from either end, of which a few things are changed."""
    payload = bytes(draw(st.sampled_from([0, 0, 1, 2, 3, 40, 1300, 1460])))
    flags = draw(st.sampled_from([ACK, ACK, ACK, ACK | PSH, ACK | FIN, SYN, RST, ACK | RST]))
    far = draw(st.sampled_from([0, 0, 1 << 17, 1 << 19, 1 << 30]))
    ip = {"ttl": draw(st.sampled_from([64, 64, 64, 2, 1, 0])), "ident": draw(st.integers(0, 0xFFFF))}
    if draw(st.booleans()):
        packet = flow.request(flags, payload, ip=ip, seq=101 + far, ack=5001 + far)
    else:
        packet = reply(session, flags, payload, ip=ip, seq=5001 + far, ack=101 + far)
    changed = bytearray(packet)
    fields = IP_FIELDS | (TCP_FIELDS if flow.protocol == packets.TCP else UDP_FIELDS)
    for name in draw(st.lists(st.sampled_from(sorted(fields)), max_size=2)):
        at, values = fields[name]
        value = bytes.fromhex(draw(st.sampled_from(values.split())))
        changed[at : at + len(value)] = value
    for at in draw(st.lists(st.integers(0, len(packet) - 1), max_size=1)):
        changed[at] ^= 1 << draw(st.integers(0, 7))
    data = bytes(changed[: draw(st.sampled_from([2000, 2000, 2000, len(packet) - 1, 39, 28, 27, 20]))])
    hop = draw(st.sampled_from([0, 0, 0, 1, 2, 10, 11, 15, 16 + 1, 255]))
    source = packets.marker(hop, draw(st.sampled_from([12, 11, 99]))) if hop else ROUTER
    destination = draw(st.sampled_from([HERE] * 8 + [b"\xff" * 6, packets.mac("02:00:00:00:00:77")]))
    if draw(st.sampled_from([False] * 7 + [True])):
        data, kind = packets.vlan(data, draw(st.sampled_from([5, 0, 0x2000 | 5, 7])), packets.IPV4), packets.VLAN
    else:
        kind = packets.IPV4
    whole = destination + source + kind.to_bytes(2, "big") + data
    return whole.ljust(draw(st.sampled_from([0, 60, 60, 64, 100])), draw(st.sampled_from([b"\0", b"\xee"])))


def install(here: Here, around: Around, slot: int) -> None:
    here.program.set_chain(TABLE, around.chain)
    for number in (1, 2):
        here.nat.write_hop(number, around.hop)
    tag = here.tag(slot)
    here.sessions.tags[slot] = replace(
        tag, state=around.state, flags=tag.flags | TagFlag(around.flags), stamp=tag.stamp - around.age
    ).pack()
    former = IPv4Network("10.98.0.0/31") if around.former_pool else None
    here.nat.write_conf(replace(here.conf, former=former))
    here.nat.set_moving(around.moving)
    here.nat.set_watched(around.watched)
    here.program.maps.deny_list.write([IPv4Network("10.1.0.2/32")] if around.denied else [])


def observe(here: Here, packet: bytes, slot: int) -> Result:
    for limit in (LIMIT_REPLY_TOO_BIG, LIMIT_REPLY_RESET):
        key = limit.to_bytes(4, "little")
        bpf_map.update(here.program.maps.pinned["spent"].fd, key, bytes(8 * bpf_map.possible_cpus()))
    outcome = here.program.observe(packet)
    tags = here.sessions.tags
    used = np.flatnonzero(tags >> np.uint64(40)).tolist()
    return Result(
        outcome.verdict, outcome.packet, outcome.events, tuple((one, int(tags[one]) >> 32) for one in used),
        int(tags[slot]) & 0xFFFFFFFF, tuple(replace(here.sessions.read(one), created=0) for one in used),
        tuple(here.nat.load(index).active for index in (1, 2)),
    )  # fmt: skip


def compare(here: Here, flow: Flow, around: Around, data: st.DataObject) -> None:
    """Send packets of a session, each on both paths from the same state."""
    here.reset()
    slot, session = establish(here, flow)
    install(here, around, slot)
    tag, record, loads = here.sessions.tags[slot], here.sessions.read(slot), here.nat.loads.copy()
    try:
        for packet in data.draw(st.lists(frames(flow, session), min_size=1, max_size=10)):
            results = []
            for whole in (False, True):
                here.sessions.tags[:] = 0
                here.sessions.tags[slot] = tag
                here.sessions.write(slot, record)
                here.nat.loads[:] = loads
                here.program.maps.conf.set_flag(ConfFlag.SAMPLE, whole)
                results.append(observe(here, packet, slot))
            first, second = results
            note(f"{packet.hex()}\n{first}\n{second}")
            assert abs(first.stamp - second.stamp) <= 1
            assert replace(first, stamp=0) == replace(second, stamp=0)
    finally:
        here.nat.set_moving(False)
        here.nat.set_watched(False)
        here.program.maps.conf.set_flag(ConfFlag.SAMPLE, False)
        here.program.maps.deny_list.write([])


@pytest.mark.parametrize("flow", FLOWS[:2], ids=IDS[:2])
@examples(50)
@given(data=st.data())
def test_usual_surroundings(node_of_nat: Here, flow: Flow, data: st.DataObject) -> None:
    compare(node_of_nat, flow, Around(), data)


@pytest.mark.parametrize("flow", FLOWS[:2], ids=IDS[:2])
@pytest.mark.parametrize("differs", OTHER.values(), ids=OTHER)
@examples(5)
@given(data=st.data())
def test_other_surroundings(node_of_nat: Here, flow: Flow, differs: dict[str, Any], data: st.DataObject) -> None:
    compare(node_of_nat, flow, Around(**differs), data)
