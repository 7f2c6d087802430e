# SPDX-License-Identifier: Apache-2.0
"""What is rare in NAT mode, against what scapy builds: ICMP errors, MSS, RSTs, fragments, UDP without a checksum."""

from ipaddress import ip_address
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6, IPv6ExtHdrFragment
from scapy.packet import Raw
from support import packets
from support.nat_stage import BACKENDS_MAC, CLIENTS, CLIENTS_MAC, Flow, NatStage

from bpf.layout.counter import Counter
from bpf.layout.service import Forward, Protocol
from bpf.layout.session import WAYS, Session, SessionState, Tag, TagFlag
from bpf.maps.session_map import now_tick

ROUTERS = {4: "172.16.0.9", 6: "2001:db8:5::9"}
FAMILIES = pytest.mark.parametrize("family", [4, 6])
PROTOCOLS = pytest.mark.parametrize("protocol", [Protocol.TCP, Protocol.UDP])
END = {"vip": "client", "client": "vip", "nat": "backend", "backend": "nat"}
"""Of a packet from each of these, the destination."""


@pytest.fixture
def nat(nat_stage: NatStage) -> NatStage:
    """No sessions; this node is the only one."""
    nat_stage.clear()
    nat_stage.set_chain([1])
    nat_stage.write_conf()
    nat_stage.refill()
    return nat_stage


def known(
    nat: NatStage, family: int, protocol: Protocol = Protocol.TCP, state: SessionState = SessionState.EST
) -> Session:
    """Return a flow's session that this node has."""
    flow = Flow(family, protocol, CLIENTS[family], 40000)
    slot = flow.place.buckets[0] * WAYS
    flags = TagFlag.SYNACK_SEEN if protocol is Protocol.TCP else TagFlag.UDP
    flags |= TagFlag.IPV6 if family == 6 else flags
    session = flow.session(slot)
    nat.put(slot, session, Tag(flow.place.fingerprint, state, flags, now_tick()))
    return session


def ip(session: Session, source: str, ttl: int, **more: Any) -> Any:
    """Return the IP header of a packet of a session from one of its ends."""
    between = {"src": str(getattr(session, source)), "dst": str(getattr(session, END[source])), **more}
    return IP(id=7, ttl=ttl, **between) if session.client.version == 4 else IPv6(hlim=ttl, **between)


def ports(session: Session, source: str) -> dict[str, int]:
    return {"sport": getattr(session, f"{source}_port"), "dport": getattr(session, f"{END[source]}_port")}


def segment(session: Session, source: str, ttl: int, payload: bytes = b"", **tcp: Any) -> bytes:
    return bytes(ip(session, source, ttl) / TCP(**ports(session, source), **tcp) / Raw(payload))


def datagram(session: Session, source: str, ttl: int, payload: bytes = b"payload", **udp: Any) -> bytes:
    return bytes(ip(session, source, ttl) / UDP(**ports(session, source), **udp) / Raw(payload))


def frame(data: bytes, source: bytes = packets.ROUTER) -> bytes:
    kind = packets.IPV4 if data[0] >> 4 == 4 else packets.IPV6
    return packets.HERE + source + kind.to_bytes(2, "big") + data


def left(nat: NatStage, data: bytes, event: Counter, to: bytes) -> bytes:
    """Send a packet that is counted so; return the IP packet that leaves for that MAC."""
    verdict, after, events = nat.observe(frame(data))
    assert (verdict, events[event]) == ("tx", 1), events
    assert after[:12] == to + packets.HERE
    return after[14:]


def dropped(nat: NatStage, data: bytes, event: Counter) -> bool:
    verdict, _, events = nat.observe(frame(data))
    return verdict == "drop" and events[event] == 1


def error(session: Session, outer: Any, inner: str, ttl: int, cut: int | None) -> bytes:
    """Return a router's error that quotes a packet from one of the session's ends."""
    built = segment if session.protocol == Protocol.TCP else datagram
    quote = built(session, inner, 60)[:cut]
    kind = ICMP(type=3, code=4, nexthopmtu=1400) if session.client.version == 4 else ICMPv6PacketTooBig(mtu=1400)
    outer.ttl = outer.hlim = ttl
    return bytes(outer / kind / Raw(quote))


@FAMILIES
@PROTOCOLS
@pytest.mark.parametrize("payload", [None, 8])
def test_error_about_what_the_client_was_sent(
    family: int, protocol: Protocol, payload: int | None, nat: NatStage
) -> None:
    """From a router towards the client. The backend gets it as if it had sent the packet itself."""
    session = known(nat, family, protocol)
    cut = None if payload is None else (20 if family == 4 else 40) + payload
    came = error(session, ip(session, "client", 64, src=ROUTERS[family]), "vip", 64, cut)
    after = left(nat, came, Counter.FORWARD_BACKEND, BACKENDS_MAC)
    assert after == error(session, ip(session, "nat", 63), "backend", 63, cut)


@FAMILIES
@PROTOCOLS
@pytest.mark.parametrize("payload", [None, 8])
def test_error_about_what_the_backend_was_sent(
    family: int, protocol: Protocol, payload: int | None, nat: NatStage
) -> None:
    """From a router towards the backend, or the backend itself: "port unreachable"."""
    session = known(nat, family, protocol)
    cut = None if payload is None else (20 if family == 4 else 40) + payload
    for source in (ROUTERS[family], str(session.backend)):
        came = error(session, ip(session, "backend", 64, src=source), "nat", 64, cut)
        after = left(nat, came, Counter.FORWARD_CLIENT, CLIENTS_MAC)
        assert after == error(session, ip(session, "vip", 63), "client", 63, cut)


@FAMILIES
def test_error_does_not_change_its_session(family: int, nat: NatStage) -> None:
    session = known(nat, family, state=SessionState.SYN)
    before = nat.sessions.tags.copy()
    left(nat, error(session, ip(session, "backend", 64), "nat", 64, None), Counter.FORWARD_CLIENT, CLIENTS_MAC)
    assert (nat.sessions.tags == before).all()


@FAMILIES
def test_error_goes_to_the_node_of_its_session(family: int, nat: NatStage) -> None:
    session = known(nat, family)
    nat.set_chain([2, 3])
    for source, quoted in (("client", "vip"), ("backend", "nat")):
        came = frame(error(session, ip(session, source, 64, src=ROUTERS[family]), quoted, 64, None))
        verdict, after = nat.send(came)
        assert (verdict, after) == ("tx", packets.mac("02:00:00:00:00:02") + packets.marker(1, 11) + came[12:])


@FAMILIES
def test_error_about_no_session_is_dropped(family: int, nat: NatStage) -> None:
    session = known(nat, family)
    nat.clear()
    for source, quoted, event in (
        ("client", "vip", Counter.DROP_NAT_NO_SESSION), ("backend", "nat", Counter.DROP_NAT_FOREIGN),
    ):  # fmt: skip
        assert dropped(nat, error(session, ip(session, source, 64), quoted, 64, None), event)


@FAMILIES
def test_mss_is_lowered_in_both_directions(family: int, nat: NatStage) -> None:
    session = known(nat, family, state=SessionState.SYN)
    limit = 1300 if family == 4 else 1280
    for source, to, event, mac, flags in (
        ("client", "nat", Counter.FORWARD_BACKEND, BACKENDS_MAC, "S"),
        ("backend", "vip", Counter.FORWARD_CLIENT, CLIENTS_MAC, "SA"),
    ):
        for options, lowered in (
            ([("MSS", 1460)], [("MSS", limit)]),
            ([("NOP", None), ("MSS", 8960), ("WScale", 7)], [("NOP", None), ("MSS", limit), ("WScale", 7)]),
            ([("WScale", 7), ("MSS", 536)], [("WScale", 7), ("MSS", 536)]),
        ):
            after = left(nat, segment(session, source, 64, flags=flags, options=options), event, mac)
            assert after == segment(session, to, 63, flags=flags, options=lowered)
    later = segment(session, "client", 64, flags="A", options=[("MSS", 1460)])
    assert left(nat, later, Counter.FORWARD_BACKEND, BACKENDS_MAC)[-4:] == later[-4:]


@FAMILIES
@pytest.mark.parametrize(
    ("flags", "answer"),
    [
        ("A", {"flags": "R", "seq": 7000}),
        ("PA", {"flags": "R", "seq": 7000}),
        ("F", {"flags": "RA", "seq": 0, "ack": 5004}),
    ],
)
def test_segment_of_no_session_is_reset(family: int, flags: str, answer: dict[str, Any], nat: NatStage) -> None:
    session = known(nat, family)
    nat.clear()
    came = segment(session, "client", 64, b"abc", flags=flags, seq=5000, ack=7000)
    after = left(nat, came, Counter.REPLY_RESET, CLIENTS_MAC)
    tcp = TCP(**ports(session, "vip"), window=0, **answer)
    between = {"src": str(session.vip), "dst": str(session.client)}
    assert after == bytes((IP(id=0, flags="DF", **between) if family == 4 else IPv6(**between)) / tcp)
    assert dropped(nat, segment(session, "client", 64, flags="R"), Counter.DROP_NAT_NO_SESSION)
    assert dropped(nat, segment(session, "backend", 64, flags="A"), Counter.DROP_NAT_FOREIGN)


def test_segment_of_no_session_is_dropped_in_grace(nat: NatStage) -> None:
    session = known(nat, 4)
    nat.clear()
    nat.set_chain([1], grace=True)
    assert dropped(nat, segment(session, "client", 64, flags="A"), Counter.DROP_GRACE)


def test_resets_are_rate_limited(nat: NatStage) -> None:
    session = known(nat, 4)
    nat.clear()
    came = frame(segment(session, "client", 64, flags="A"))
    verdicts = [nat.send(came)[0] for _ in range(3000)]
    assert verdicts[0] == "tx"
    assert "drop" in verdicts
    nat.refill()
    assert nat.send(came)[0] == "tx"


@FAMILIES
def test_fragments_are_dropped(family: int, nat: NatStage) -> None:
    session = known(nat, family, Protocol.UDP)
    for source in ("client", "backend"):
        for offset, more in ((0, 1), (1, 1), (2, 0)):
            head = ip(session, source, 64)
            if family == 4:
                head.flags, head.frag = more, offset
            else:
                head = head / IPv6ExtHdrFragment(offset=offset, m=more, id=9)
            data = bytes(head / UDP(**ports(session, source), len=100, chksum=1) / Raw(bytes(16)))
            assert dropped(nat, data, Counter.DROP_NAT_FRAGMENT), (source, offset)


def test_udp_without_checksum_stays_without(nat: NatStage) -> None:
    session = known(nat, 4, Protocol.UDP)
    for source, to, event, mac in (
        ("client", "nat", Counter.FORWARD_BACKEND, BACKENDS_MAC),
        ("backend", "vip", Counter.FORWARD_CLIENT, CLIENTS_MAC),
    ):
        assert left(nat, datagram(session, source, 64, chksum=0), event, mac) == datagram(session, to, 63, chksum=0)


@FAMILIES
def test_udp_checksum_that_becomes_0_is_all_ones(family: int, nat: NatStage) -> None:
    """RFC 768: 0 would mean that there is none. The payload makes the sum so."""
    session = known(nat, family, Protocol.UDP)
    at = (20 if family == 4 else 40) + 6
    payload = datagram(session, "nat", 63, bytes(2))[at : at + 2]
    after = left(nat, datagram(session, "client", 64, payload), Counter.FORWARD_BACKEND, BACKENDS_MAC)
    assert after[at : at + 2] == b"\xff\xff"


@pytest.mark.parametrize("source", ["client", "backend"])
def test_too_big_for_a_tunnel_is_reported_to_the_sender(source: str, nat: NatStage) -> None:
    """Whoever sent it: with the address that it sent to as the source."""
    session = known(nat, 4)
    nat.set_chain([2, 3])
    nat.write_conf(forward=Forward.GUE)
    came = segment(session, source, 64, bytes(1460), flags="A")
    verdict, after, events = nat.observe(frame(came))
    assert (verdict, events[Counter.REPLY_TOO_BIG]) == ("tx", 1)
    answer = IP(after[14:])
    assert (answer.src, answer.dst) == (str(getattr(session, END[source])), str(getattr(session, source)))
    assert (answer[ICMP].type, answer[ICMP].code, answer[ICMP].nexthopmtu) == (3, 4, 1500 - 28)
    assert ip_address(answer.dst) == getattr(session, source)
