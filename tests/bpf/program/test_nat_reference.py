# SPDX-License-Identifier: Apache-2.0
"""The NAT program against its reference (bpf/reference/nat.py): any packets of a few flows, in any order.

What leaves is compared to the byte, then tags and records of all slots that the reference knows. Nodes are silent, two
epochs are used, packets were forwarded up to too often, frames have a VLAN tag.
"""

from collections import Counter as Tally
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Any

import numpy as np
import pytest
from hypothesis import given, note
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6
from scapy.packet import Raw
from support import packets
from support.examples import examples
from support.nat_stage import (
    BACKENDS,
    BACKENDS_MAC,
    CLIENTS,
    CLIENTS_MAC,
    OTHER_KEY,
    VLAN,
    Flow,
    NatStage,
    row_in,
    slot_in,
)

from bpf.layout.conf import OtherEpoch
from bpf.layout.counter import Counter
from bpf.layout.service import Protocol
from bpf.layout.session import OWNER_WAYS, WAYS, SessionState, Tag, TagFlag
from bpf.maps.session_map import now_tick
from bpf.reference.nat import Known, Outcome, Packet, handle, to_backend
from bpf.reference.pick import NodeState, join_rows
from bpf.reference.session import Segment, opened
from bpf.reference.translation import Ends

MSS = {4: 1300, 6: 1280}
FLOWS = [
    Flow(family, protocol, CLIENTS[family] + number, 40000 + number)
    for family in (4, 6)
    for protocol in Protocol
    for number in range(2)
]
CHAINS = [(1,), (1, 2, 3), (2, 1, 3), (2, 1), (2, 3), ()]
OTHER_CHAINS = [(), (1, 2), (3, 1), (4, 5)]
NO_ROOM = Counter.DROP_NAT_FULL


@dataclass(frozen=True)
class Step:
    """A packet of a flow; `numbers` are its sequence and acknowledgment. `cut`: bytes that an error quotes. `tagged`:
    its frame has a VLAN tag."""

    flow: Flow
    reply: bool
    flags: str
    numbers: tuple[int, int]
    hop: int = 0
    ttl: int = 64
    mss: int | None = None
    payload: bytes = b""
    cut: int | None = None
    in_grace: bool = False
    tagged: bool = False


CLIENT_NUMBERS = st.tuples(st.sampled_from((999, 1000, 1100, 1 << 22)), st.sampled_from((4999, 5000, 5100, 1 << 17)))
BACKEND_NUMBERS = st.tuples(st.sampled_from((4999, 5000, 5100, 1 << 22)), st.sampled_from((999, 1000, 1100)))
CONNECTION = [
    (False, "S", (999, 0)), (True, "SA", (4999, 1000)), (False, "A", (1000, 5000)), (True, "PA", (5000, 1000)),
    (False, "FA", (1000, 5000)), (True, "FA", (5000, 1001)), (False, "A", (1001, 5001)), (False, "S", (999, 0)),
]  # fmt: skip
"""A whole connection and the next one of the same ports: from the backend or not, flags, numbers."""
FLAGS = st.sampled_from(["S", "SA", "A", "A", "PA", "FA", "R", "RA", "SF", ""])


@st.composite
def steps(draw: st.DrawFn) -> Step:
    reply = draw(st.booleans())
    return Step(
        draw(st.sampled_from(FLOWS)), reply, draw(FLAGS), draw(BACKEND_NUMBERS if reply else CLIENT_NUMBERS),
        draw(st.sampled_from((0, 0, 0, 0, 1, 2, 3, 7, 8, 9))), draw(st.sampled_from((64, 64, 2))),
        draw(st.sampled_from((None, 536, 1460))), draw(st.binary(max_size=3)),
        draw(st.sampled_from((None, None, None, 8, 18, 60))), draw(st.booleans()),
        draw(st.sampled_from((False, False, True))),
    )  # fmt: skip


@dataclass(frozen=True)
class Around:
    """What the node knows beside its sessions."""

    chain: tuple[int, ...]
    grace: bool
    up: bool
    other: tuple[int, ...] | None = None
    """The chain in a second epoch; None: one is used."""
    alternating: bool = False
    silent: frozenset[int] = frozenset()
    awaited: frozenset[int] = frozenset()

    @property
    def state(self) -> NodeState[int]:
        """Return it as the reference has it."""
        chain = join_rows(self.chain, self.other, self.alternating)
        unmetered = 2 if self.alternating else 1
        return NodeState(
            1, chain, up=self.up, grace=self.grace, silent=self.silent, awaited=self.awaited, unmetered=unmetered
        )

    def install(self, nat: NatStage) -> None:
        """Write it into the maps of the program."""
        nat.use_epochs(None if self.other is None else OtherEpoch(OTHER_KEY, alternating=self.alternating))
        nat.silence(self.silent, self.awaited)
        nat.set_chain(self.chain, self.grace)
        if self.other is not None:
            nat.set_chain(self.other, bank=1)
        nat.write_conf(up=self.up)


@st.composite
def surroundings(draw: st.DrawFn) -> Around:
    silent = draw(st.sampled_from((frozenset(), frozenset(), frozenset({2}), frozenset({2, 3, 5}))))
    return Around(
        draw(st.sampled_from(CHAINS)), draw(st.booleans()), draw(st.booleans()),
        draw(st.none() | st.sampled_from(OTHER_CHAINS)), draw(st.booleans()),
        silent, draw(st.sampled_from((frozenset(), silent))),
    )  # fmt: skip


@st.composite
def stories(draw: st.DrawFn) -> list[Step]:
    """Of few flows, and mostly in order: else hardly any connection is ever closed and opened again."""
    flows = draw(st.lists(st.sampled_from(FLOWS), min_size=1, max_size=3, unique=True))
    story = []
    for _ in range(draw(st.integers(0, 4))):
        flow = draw(st.sampled_from(flows))
        if draw(st.booleans()):
            kept = draw(st.integers(1, len(CONNECTION)))
            story += [Step(flow, reply, flags, numbers) for reply, flags, numbers in CONNECTION[:kept]]
        story += [replace(draw(steps()), flow=flow) for _ in range(draw(st.integers(0, 6)))]
    return story


def layers(ends: Ends, ttl: int) -> Any:
    between = {"src": str(ends.source), "dst": str(ends.target)}
    return IP(id=7, ttl=ttl, **between) if ends.source.version == 4 else IPv6(hlim=ttl, **between)


def transport(ends: Ends, step: Step) -> Any:
    ports = {"sport": ends.source_port, "dport": ends.target_port}
    if step.flow.protocol is Protocol.UDP:
        return UDP(**ports) / Raw(step.payload)
    options = [("MSS", step.mss)] if step.mss else []
    seq, ack = step.numbers
    return TCP(flags=step.flags, seq=seq, ack=ack, options=options, **ports) / Raw(step.payload)


def build(step: Step, ends: Ends) -> Packet[int]:
    """Return the packet of a step that comes with these ends."""
    data = bytes(layers(ends, step.ttl) / transport(ends, step))
    if step.cut is not None:
        size = (20 if step.flow.family == 4 else 40) + step.cut
        quote = Raw(bytes(layers(ends.reversed(), 60) / transport(ends.reversed(), step))[:size])
        error = ICMP(type=3, code=4, nexthopmtu=1400) if step.flow.family == 4 else ICMPv6PacketTooBig(mtu=1400)
        router = replace(ends, source=ip_address("172.16.0.9" if step.flow.family == 4 else "2001:db8:5::9"))
        data = bytes(layers(router, step.ttl) / error / quote)
    udp = step.flow.protocol is Protocol.UDP
    flags = "" if udp else step.flags
    numbers = (0, 0) if udp else step.numbers
    segment = Segment("S" in flags, "A" in flags, "F" in flags, "R" in flags, *numbers, udp=udp)
    prev = 2 if step.hop else None
    in_grace = step.in_grace and step.hop > 0
    return Packet(data, not step.reply, segment, step.cut is not None, hop=step.hop, prev=prev, in_grace=in_grace)


class Reference:
    """The node as the reference has it: its row's chain, and its slots."""

    def __init__(self, nat: NatStage, around: Around) -> None:
        self.nat = nat
        self.around, self.here = around, around.state
        self.known: dict[int, Known] = {}
        self.last: dict[Flow, int] = {}
        self.retired: set[int] = set()
        """The slots of sessions whose clients opened another one with the same ports."""
        if around.other is not None:
            for flow in FLOWS[::3]:
                self._begin_in_the_other_epoch(flow)

    def _begin_in_the_other_epoch(self, flow: Flow) -> None:
        """Give the flow a session that was made by the other key."""
        place = flow.place_by(OTHER_KEY)
        slot = place.buckets[1] * WAYS + 2
        progress = opened(Segment(syn=True, sequence=999, udp=flow.protocol is Protocol.UDP))
        flags = progress.flags | (TagFlag.IPV6 if flow.family == 6 else TagFlag(0))
        session = flow.session(slot)
        self.nat.put(
            slot, replace(session, backend_ack=1000), Tag(place.fingerprint, progress.state, flags, now_tick())
        )
        self.known[slot] = session, progress
        self.last[flow] = slot

    def slot_of(self, flow: Flow) -> int | None:
        slot = self.last.get(flow)
        return slot if slot in self.known else None

    def take(self, step: Step) -> None:
        """Send the packet through both and compare."""
        slot = self.slot_of(step.flow)
        if step.reply:
            session = step.flow.session(self._any_slot(step.flow)) if slot is None else self.known[slot][0]
            ends = to_backend(session).reversed()
        else:
            ends = Ends(step.flow.client, step.flow.client_port, step.flow.vip, step.flow.vip_port)
        packet = build(step, ends)
        found = None if slot is None else self.known[slot]
        owner = self.around.other[0] if self.around.other else None
        outcome = handle(self.here, packet, found, NO_ROOM, MSS[step.flow.family], owner)
        kind = packets.IPV4 if step.flow.family == 4 else packets.IPV6
        source = packets.marker(step.hop | packet.in_grace << 4, 12) if step.hop else packets.ROUTER
        data, kind = (packets.vlan(packet.data, VLAN, kind), packets.VLAN) if step.tagged else (packet.data, kind)
        frame = packets.ethernet(data, dst=packets.HERE, src=source, ethertype=kind)
        self.nat.refill()
        verdict, after, events = self.nat.observe(frame)
        note(f"{step} {outcome.event.name} -> {verdict} {[event.name for event in events]}")
        made = None
        if outcome.event is NO_ROOM and verdict == "drop":
            self._refused(step.flow, slot, events)
            return
        if outcome.event is NO_ROOM:
            slot, made = self._made(step.flow, packet, slot, after)
            outcome = handle(self.here, packet, None, made, MSS[step.flow.family], owner)
        assert outcome.event in events
        assert verdict == ("drop" if outcome.event.name.startswith("DROP_") else "tx")
        if verdict == "tx":
            assert after.hex() == self._expected(outcome, packet, frame, 18 if step.tagged else 14).hex()
        if outcome.retires and slot is not None:
            del self.known[slot]
            self.retired.add(slot)
        if outcome.progress and slot is not None:
            self.known[slot] = (made or self.known[slot])[0], outcome.progress
            self.last[step.flow] = slot
        self.compare()

    def _any_slot(self, flow: Flow) -> int:
        return flow.place.buckets[0] * WAYS

    def _refused(self, flow: Flow, old: int | None, events: Tally[Counter]) -> None:
        """Take note that a SYN found no room: endpoints of connections that are over rest, so all ways may be used."""
        if old is not None:
            del self.known[old]
            self.retired.add(old)
        ways = range(WAYS) if self.here.chain[:1] == (1,) else range(OWNER_WAYS, WAYS)
        used = self.known.keys() | self.retired
        assert all(bucket * WAYS + way in used for bucket in flow.place.buckets for way in ways)
        assert Counter.DROP_NAT_FULL in events
        self.compare()

    def _made(self, flow: Flow, packet: Packet[int], old: int | None, after: bytes) -> tuple[int, Known]:
        """Return the slot and the session that the program made: where the flow's may be, of this node's ways."""
        ip = 14
        at = (ip + 12, 4, ip + 20) if flow.family == 4 else (ip + 8, 16, ip + 40)
        nat, port = ip_address(after[at[0] : at[0] + at[1]]), int.from_bytes(after[at[2] : at[2] + 2], "big")
        backend = ip_address(after[at[0] + at[1] : at[0] + 2 * at[1]])
        slot = slot_in(flow.family, nat, port)
        ways = range(OWNER_WAYS) if self.here.chain[:1] == (1,) else range(OWNER_WAYS, WAYS)
        assert row_in(slot) == flow.row
        assert slot == old or (slot // WAYS in flow.place.buckets and slot % WAYS in ways and slot not in self.known)
        if old is not None:
            del self.known[old]
            self.retired.add(old)
        self.retired.discard(slot)
        session = flow.session(slot, BACKENDS[flow.family].index(backend))
        return slot, (session, opened(packet.segment))

    def _expected(self, outcome: Outcome[int], packet: Packet[int], frame: bytes, link: int) -> bytes:
        """Return the frame that leaves. What goes to another node keeps its tag."""
        if outcome.to is not None:
            to = packets.mac(f"02:00:00:00:00:{outcome.to:02x}")
            return to + packets.marker(outcome.hop | (outcome.in_grace and 0x10), 11) + frame[12:]
        mac = BACKENDS_MAC if outcome.event is Counter.FORWARD_BACKEND else CLIENTS_MAC
        padding = b"" if outcome.event is Counter.REPLY_RESET else frame[link + len(packet.data) :]
        return mac + packets.HERE + frame[link - 2 : link] + outcome.data + padding

    def compare(self) -> None:
        """Compare the slots: tags, and the records but for what is written once a tick."""
        tags = self.nat.sessions.tags
        assert set((tags >> np.uint64(40)).nonzero()[0].tolist()) == self.known.keys() | self.retired
        for slot in self.retired:
            assert (self.nat.tag(slot).state, self.nat.tag(slot).fingerprint & 1) == (SessionState.CLOSED, 0)
        for slot, (session, progress) in self.known.items():
            flags = progress.flags | (TagFlag.IPV6 if session.client.version == 6 else TagFlag(0))
            tag = self.nat.tag(slot)
            assert (tag.state, tag.flags) == (progress.state, flags)
            assert 0 <= now_tick() - tag.stamp <= 30
            record = self.nat.sessions.read(slot, session.client.version == 6)
            assert replace(record, created=0, client_ack=0, backend_ack=0) == session


@pytest.mark.slow
@examples(300)
@given(story=stories(), around=surroundings())
def test_program_equals_reference(story: list[Step], around: Around, nat_stage: NatStage) -> None:
    nat_stage.clear()
    around.install(nat_stage)
    reference = Reference(nat_stage, around)
    for step in story:
        reference.take(step)
