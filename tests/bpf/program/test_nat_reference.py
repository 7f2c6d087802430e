# SPDX-License-Identifier: Apache-2.0
"""The NAT program against its reference (bpf/reference/nat.py): any packets of a few flows, in any order.

What leaves is compared to the byte, then tags and records of all slots that the reference knows.
"""

from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Any

import numpy as np
from hypothesis import given, note
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6
from scapy.packet import Raw
from support import packets
from support.examples import examples
from support.nat_stage import BACKENDS, BACKENDS_MAC, CLIENTS, CLIENTS_MAC, Flow, NatStage, row_in, slot_in

from bpf.layout.counter import Counter
from bpf.layout.service import Protocol
from bpf.layout.session import OWNER_WAYS, WAYS, TagFlag
from bpf.maps.session_map import now_tick
from bpf.reference.nat import Known, Outcome, Packet, handle, to_backend
from bpf.reference.pick import NodeState
from bpf.reference.session import Segment, opened
from bpf.reference.translation import Ends

MSS = {4: 1300, 6: 1280}
FLOWS = [
    Flow(family, protocol, CLIENTS[family] + number, 40000 + number)
    for family in (4, 6)
    for protocol in Protocol
    for number in range(2)
]
CHAINS = [(1,), (1, 2, 3), (2, 1, 3), (2, 1), (2, 3)]
NO_ROOM = Counter.DROP_NAT_FULL


@dataclass(frozen=True)
class Step:
    """A packet of a flow; `numbers` are its sequence and acknowledgment. `cut`: bytes that an error quotes."""

    flow: Flow
    reply: bool
    flags: str
    numbers: tuple[int, int]
    hop: int = 0
    ttl: int = 64
    mss: int | None = None
    payload: bytes = b""
    cut: int | None = None


CLIENT_NUMBERS = st.tuples(st.sampled_from((999, 1000, 1100, 1 << 22)), st.sampled_from((4999, 5000, 5100, 1 << 17)))
BACKEND_NUMBERS = st.tuples(st.sampled_from((4999, 5000, 5100, 1 << 22)), st.sampled_from((999, 1000, 1100)))
FLAGS = st.sampled_from(["S", "SA", "A", "A", "PA", "FA", "R", "RA", "SF", ""])


@st.composite
def steps(draw: st.DrawFn) -> Step:
    reply = draw(st.booleans())
    return Step(
        draw(st.sampled_from(FLOWS)), reply, draw(FLAGS), draw(BACKEND_NUMBERS if reply else CLIENT_NUMBERS),
        draw(st.sampled_from((0, 0, 0, 1, 2))), draw(st.sampled_from((64, 64, 2))),
        draw(st.sampled_from((None, 536, 1460))), draw(st.binary(max_size=3)),
        draw(st.sampled_from((None, None, None, 8, 18, 60))),
    )  # fmt: skip


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
    return Packet(data, not step.reply, segment, step.cut is not None, hop=step.hop, prev=prev)


class Reference:
    """The node as the reference has it: its row's chain, and its slots."""

    def __init__(self, nat: NatStage, here: NodeState[int]) -> None:
        self.nat = nat
        self.here = here
        self.known: dict[int, Known] = {}
        self.last: dict[Flow, int] = {}

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
        outcome = handle(self.here, packet, found, NO_ROOM, MSS[step.flow.family])
        kind = packets.IPV4 if step.flow.family == 4 else packets.IPV6
        source = packets.marker(step.hop, 12) if step.hop else packets.ROUTER
        frame = packets.ethernet(packet.data, dst=packets.HERE, src=source, ethertype=kind)
        self.nat.refill()
        verdict, after, events = self.nat.observe(frame)
        note(f"{step} {outcome.event.name} -> {verdict} {[event.name for event in events]}")
        made = None
        if outcome.event is NO_ROOM:
            slot, made = self._made(step.flow, packet, slot, after)
            outcome = handle(self.here, packet, None, made, MSS[step.flow.family])
        assert outcome.event in events
        assert verdict == ("drop" if outcome.event.name.startswith("DROP_") else "tx")
        if verdict == "tx":
            assert after.hex() == self._expected(outcome, packet, frame).hex()
        if outcome.progress and slot is not None:
            self.known[slot] = (made or self.known[slot])[0], outcome.progress
            self.last[step.flow] = slot
        self.compare()

    def _any_slot(self, flow: Flow) -> int:
        return flow.place.buckets[0] * WAYS

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
        if old is not None and old != slot:
            del self.known[old]
        session = flow.session(slot, BACKENDS[flow.family].index(backend))
        return slot, (session, opened(packet.segment))

    def _expected(self, outcome: Outcome[int], packet: Packet[int], frame: bytes) -> bytes:
        if outcome.to is not None:
            to = packets.mac(f"02:00:00:00:00:{outcome.to:02x}")
            return to + packets.marker(outcome.hop | (outcome.in_grace and 0x10), 11) + frame[12:]
        mac = BACKENDS_MAC if outcome.event is Counter.FORWARD_BACKEND else CLIENTS_MAC
        padding = b"" if outcome.event is Counter.REPLY_RESET else frame[14 + len(packet.data) :]
        return mac + packets.HERE + frame[12:14] + outcome.data + padding

    def compare(self) -> None:
        """Compare the slots: tags, and the records but for what is written once a tick."""
        tags = self.nat.sessions.tags
        assert set((tags >> np.uint64(40)).nonzero()[0].tolist()) == self.known.keys()
        for slot, (session, progress) in self.known.items():
            flags = progress.flags | (TagFlag.IPV6 if session.client.version == 6 else TagFlag(0))
            tag = self.nat.tag(slot)
            assert (tag.state, tag.flags) == (progress.state, flags)
            assert 0 <= now_tick() - tag.stamp <= 30
            record = self.nat.sessions.read(slot, session.client.version == 6)
            assert replace(record, created=0, client_ack=0, backend_ack=0) == session


@examples(300)
@given(story=st.lists(steps(), max_size=25), chain=st.sampled_from(CHAINS), grace=st.booleans(), up=st.booleans())
def test_program_equals_reference(
    story: list[Step], chain: tuple[int, ...], grace: bool, up: bool, nat_stage: NatStage
) -> None:
    nat_stage.clear()
    nat_stage.set_chain(chain, grace)
    nat_stage.write_conf(up=up)
    reference = Reference(nat_stage, NodeState(1, chain, up=up, grace=grace))
    for step in story:
        reference.take(step)
