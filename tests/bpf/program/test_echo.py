# SPDX-License-Identifier: Apache-2.0
"""Echo questions, which the program answers itself, and what is none, which passes to the kernel.

This node is 1 (10.0.0.11, 2001:db8::b); node 2 (10.0.0.12, 2001:db8::c) asks.
"""

import time
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest
from support import packets
from support.echo_packets import (
    ANSWER,
    ANSWERED,
    ASKER,
    ASKER_MAC,
    CLUSTER,
    CONF,
    FAMILIES,
    FOREIGN,
    MARKER,
    OTHER,
    OWN,
    PASSED,
    PORT,
    QUESTION,
    STATE,
    answer,
    be_node_1,
    be_node_2,
    datagram,
    frame,
    ip,
    question,
    tunnel,
)
from support.packets import HERE, ROUTER, UDP

from agent.liveness.frame import Endpoints, LinkHeader, question_frame
from agent.liveness.question import Via
from bpf.layout.conf import OtherEpoch
from bpf.layout.counter import Counter
from bpf.layout.echo import EchoFlag, EchoKind, EchoMessage, EchoState, Encap
from bpf.layout.uplink import UplinkEntry


@pytest.fixture(scope="module")
def world(program: Any) -> Any:
    program.maps.conf.write(CONF)
    program.maps.echo_state.write(STATE)
    return program


@pytest.fixture(autouse=True)
def restore(world: Any) -> Iterator[None]:
    yield
    be_node_1(world)
    world.maps.echo_state.write(STATE)


@FAMILIES
@pytest.mark.parametrize("tags", [0, 1, 2])
@pytest.mark.parametrize("mode", ["plain", "ipip", "gue", "marker"])
def test_question_is_answered(world: Any, family: int, tags: int, mode: str) -> None:
    match mode:
        case "plain":
            sent, wanted = frame(question(family), tags=tags), ANSWER
        case "marker":
            asked = replace(QUESTION, encap=Encap.MARKER, back=ASKER_MAC)
            sent, wanted = (
                frame(question(family, asked), src=MARKER, tags=tags),
                replace(ANSWER, encap=Encap.MARKER, back=ASKER_MAC),
            )
        case _:
            asked = replace(QUESTION, encap=Encap.TUNNEL)
            sent = frame(tunnel(family, question(family, asked), gue=mode == "gue"), tags=tags)
            wanted = replace(ANSWER, encap=Encap.TUNNEL)
    outcome = world.observe(sent)
    assert (outcome.verdict, outcome.events) == ("tx", ANSWERED)
    assert outcome.packet == frame(answer(family, wanted), dst=ASKER_MAC, src=HERE, tags=tags)


@FAMILIES
@pytest.mark.parametrize("via", [via for via in Via if via is not Via.PING])
def test_questions_of_the_agent_are_answered(world: Any, family: int, via: Via) -> None:
    """The agent writes its frames itself; both ends use the echo port."""
    ends = Endpoints(ip_address(ASKER[family]), ip_address(OWN[family]), PORT)
    asked = replace(QUESTION, encap=via.encap, back=ASKER_MAC if via is Via.MARKER else bytes(6))
    sent = question_frame(asked.pack(), via, ends, LinkHeader(HERE, ASKER_MAC, vlan=5), tag=12, entropy=9)
    outcome = world.observe(sent)
    assert (outcome.verdict, outcome.events) == ("tx", ANSWERED)
    assert outcome.packet[:12] == ASKER_MAC + HERE
    assert EchoMessage.unpack(outcome.packet[-64:]) == replace(ANSWER, encap=asked.encap, back=asked.back)


def test_answer_has_ttl_64_and_keeps_the_rest_of_the_header(world: Any) -> None:
    sent = question(4, ttl=3, ident=0x1234, fragment=0)
    ends = {"src": OWN[4], "dst": ASKER[4]}
    wanted = packets.ipv4(answer(4)[20:], protocol=UDP, ttl=64, ident=0x1234, fragment=0, **ends)
    assert world.observe(frame(sent)).packet == frame(wanted, dst=ASKER_MAC, src=HERE)
    sent = question(6, hops=3, traffic_class=0xB9, label=0x12345)
    ends = {"src": OWN[6], "dst": ASKER[6]}
    wanted = packets.ipv6(answer(6)[40:], protocol=UDP, traffic_class=0xB9, label=0x12345, **ends)
    assert world.observe(frame(sent)).packet == frame(wanted, dst=ASKER_MAC, src=HERE)


@FAMILIES
def test_checksums_are_right_for_any_content(world: Any, family: int) -> None:
    """`answer` computes them again; what came in their place does not matter: the kernel may leave them to a card."""
    for nonce in (0, 1, 2**64 - 1, 0xFFFF, 0x8000_0000_0000_0000, *range(2, 3000, 7)):
        sent = question(family, replace(QUESTION, nonce=nonce))
        at = 26 if family == 4 else 46
        sent = sent[:at] + b"\xab\xcd" + sent[at + 2 :]
        assert world.send(frame(sent))[1] == frame(
            answer(family, replace(ANSWER, nonce=nonce)), dst=ASKER_MAC, src=HERE
        )


def test_checksum_that_is_zero_is_written_as_ones(world: Any) -> None:
    """RFC 8200 section 8.1."""
    bare = answer(6, replace(ANSWER, nonce=0))
    check = int.from_bytes(bare[46:48], "big")
    wanted = answer(6, replace(ANSWER, nonce=check))  # its sum is now ~0
    assert wanted[46:48] == b"\0\0"
    after = world.send(frame(question(6, replace(QUESTION, nonce=check))))[1]
    assert after[14:] == wanted[:46] + b"\xff\xff" + wanted[48:]


@FAMILIES
def test_padding_is_returned_as_it_came(world: Any, family: int) -> None:
    sent = frame(question(family)) + b"trailer"
    assert world.observe(sent).packet == frame(answer(family), dst=ASKER_MAC, src=HERE) + b"trailer"


@FAMILIES
def test_veth_gets_the_answer_by_redirection(world: Any, family: int) -> None:
    world.maps.uplinks.write(0, UplinkEntry(HERE, 1, redirect=True))
    outcome = world.observe(frame(question(family)))
    assert (outcome.verdict, outcome.events) == ("redirect", ANSWERED)


def read(world: Any) -> EchoMessage:
    """Ask, and return the answer."""
    after = world.send(frame(question(4)))[1]
    found = EchoMessage.unpack(after[42:])
    assert found is not None
    return found


def test_age_of_the_heartbeat(world: Any) -> None:
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    for heartbeat_ns in (now - 5_000_000_000, 1):
        world.maps.echo_state.write(replace(STATE, heartbeat_ns=heartbeat_ns))
        age = read(world).heartbeat_age_ms
        after = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        assert age is not None
        assert now - heartbeat_ns - 20_000_000 <= age * 1_000_000 <= after - heartbeat_ns, "the coarse clock's tick"
    world.maps.echo_state.write(replace(STATE, heartbeat_ns=now + 3_600_000_000_000))
    assert read(world).heartbeat_age_ms == 0
    world.maps.echo_state.write(replace(STATE, heartbeat_ns=0))
    assert read(world).heartbeat_age_ms is None


def test_state_of_the_agent(world: Any) -> None:
    world.maps.echo_state.write(EchoState())
    assert read(world) == replace(ANSWER, flags=EchoFlag.DATA_PATH, boot=0, view_digest=0, tables_digest=0)


def test_epochs_in_use(world: Any) -> None:
    """That of new flows first. One that is no longer used stays in the map, and is in no answer."""
    other = OtherEpoch(bytes(16), 9)
    for conf, epochs in (
        (replace(CONF, other=other), (7, 9)),
        (replace(CONF, bank=1, other=other), (7, 9)),
        (replace(CONF, bank=1), (7,)),
        (replace(CONF, epoch=0), ()),
    ):
        world.maps.conf.write(conf)
        assert read(world).epochs == epochs


def spoilt(at: int, data: bytes) -> bytes:
    return QUESTION.pack()[:at] + data + QUESTION.pack()[at + len(data) :]


NO_QUESTIONS = {
    "another magic": spoilt(3, b"D"),
    "an answer": replace(QUESTION, kind=EchoKind.ANSWER).pack(),
    "kind 0": spoilt(4, b"\0"),
    "kind 3": spoilt(4, b"\3"),
    "another version": spoilt(6, b"\0\2"),
    "version in the other byte order": spoilt(6, b"\1\0"),
    "another cluster": replace(QUESTION, cluster=CLUSTER + 1).pack(),
    "by tunnel, by its own field": replace(QUESTION, encap=Encap.TUNNEL).pack(),
    "by marker, by its own field": replace(QUESTION, encap=Encap.MARKER, back=ASKER_MAC).pack(),
    "an unknown encapsulation": spoilt(54, b"\3"),
    "a byte less": QUESTION.pack()[:-1],
    "a byte more": QUESTION.pack() + b"\0",
    "nothing": b"",
}


def assert_passes(world: Any, sent: bytes, events: dict[tuple[int, Counter], int] = PASSED) -> None:
    outcome = world.observe(sent)
    assert (outcome.verdict, outcome.packet, outcome.events) == ("pass", sent, events)


@FAMILIES
@pytest.mark.parametrize("what", NO_QUESTIONS)
def test_datagram_that_is_no_question_passes(world: Any, family: int, what: str) -> None:
    assert_passes(world, frame(datagram(family, NO_QUESTIONS[what])))


HEADERS: dict[str, dict[str, Any]] = {
    "another port": {"dport": PORT + 1},
    "UDP's length is too small": {"length": 71},
    "UDP's length is too large": {"length": 73},
    "to another node": {"dst": OTHER},
    "from outside the node prefixes": {"src": {4: "10.0.1.12", 6: "2001:db8:0:1::c"}},
    "from itself": {"src": OWN},
}


@FAMILIES
@pytest.mark.parametrize("what", HEADERS)
def test_question_with_other_headers_passes(world: Any, family: int, what: str) -> None:
    fields = {name: value[family] if isinstance(value, dict) else value for name, value in HEADERS[what].items()}
    assert_passes(world, frame(question(family, **fields)))


@pytest.mark.parametrize(
    "more",
    [
        {"fragment": packets.MORE_FRAGMENTS}, {"fragment": 1}, {"options": b"\1\1\1\1"}, {"version": 5}, {"ihl": 4},
        {"total": 91}, {"total": 93},
    ],
    ids=str,
)  # fmt: skip
def test_ipv4_packet_that_is_not_whole_or_has_options_passes(world: Any, more: dict[str, Any]) -> None:
    assert_passes(world, frame(question(4, **more) + bytes(8)))


@pytest.mark.parametrize("more", [{"version": 5}, {"length": 71}, {"length": 73}, {"length": 0}], ids=str)
def test_ipv6_packet_with_another_length_passes(world: Any, more: dict[str, Any]) -> None:
    assert_passes(world, frame(question(6, **more) + bytes(8)))


def test_ipv6_extension_headers_pass(world: Any) -> None:
    segment, ends = question(6)[40:], {"src": ASKER[6], "dst": OWN[6]}
    for kind, payload in ((60, packets.extension(segment, UDP)), (44, packets.fragment6(segment, UDP))):
        assert_passes(world, frame(packets.ipv6(payload, protocol=kind, **ends)))


@FAMILIES
def test_truncated_question_passes(world: Any, family: int) -> None:
    whole = frame(question(family))
    for size in range(14, len(whole)):
        assert_passes(world, whole[:size])
    assert world.observe(whole).events == ANSWERED


@FAMILIES
def test_other_mac_passes(world: Any, family: int) -> None:
    assert_passes(world, frame(question(family), dst=ROUTER), {(0, Counter.PASS_OTHER_MAC): 1})


@FAMILIES
def test_question_by_marker_says_so(world: Any, family: int) -> None:
    by_marker = question(family, replace(QUESTION, encap=Encap.MARKER, back=ASKER_MAC))
    assert_passes(world, frame(question(family), src=MARKER))
    assert_passes(world, frame(by_marker, src=packets.marker(0, 12)))


@FAMILIES
def test_no_group_of_macs_is_answered(world: Any, family: int) -> None:
    """A broadcast would be more than the question was."""
    for group in (b"\xff" * 6, packets.mac("01:00:5e:00:00:01")):
        assert_passes(world, frame(question(family), src=group))
        by_marker = replace(QUESTION, encap=Encap.MARKER, back=group)
        assert_passes(world, frame(question(family, by_marker), src=MARKER))


@FAMILIES
@pytest.mark.parametrize("gue", [False, True], ids=["ipip", "gue"])
def test_tunnel_around_another_packet_passes(world: Any, family: int, gue: bool) -> None:
    asked = replace(QUESTION, encap=Encap.TUNNEL)
    six = 10 - family
    for inner in (
        question(family),
        question(family, asked, src=OTHER[family]),
        question(family, asked, dst=OTHER[family]),
        question(family, asked) + b"\0",
        question(family, asked, dport=PORT + 1),
        question(six, asked),
        datagram(family, asked.pack()[:-1]),
        tunnel(family, question(family, asked)),
    ):
        assert_passes(world, frame(tunnel(family, inner, gue)), FOREIGN)


@FAMILIES
def test_truncated_tunnel_passes(world: Any, family: int) -> None:
    whole = frame(tunnel(family, question(family, replace(QUESTION, encap=Encap.TUNNEL)), gue=True))
    for size in range(60, len(whole)):
        assert world.observe(whole[:size]).verdict == "pass"
    assert world.observe(whole).events == ANSWERED


@FAMILIES
def test_two_programs_do_not_echo_each_other(world: Any, family: int) -> None:
    """The answer passes at the node that asked, and so does what comes back if that is sent once more."""
    reply = world.observe(frame(question(family))).packet
    be_node_2(world)
    assert_passes(world, reply)
    assert world.observe(
        frame(question(family, src=OWN[family], dst=ASKER[family]), dst=ASKER_MAC, src=HERE)
    ).events == (ANSWERED), "it would answer a question"
    be_node_1(world)
    turned = ip(family, reply[-72:], ASKER[family], OWN[family])
    assert_passes(world, frame(turned))


@FAMILIES
def test_node_without_an_address_answers_nothing(world: Any, family: int) -> None:
    world.maps.conf.write(replace(CONF, **{"address" if family == 4 else "address6": None}))
    assert_passes(world, frame(question(family)))
