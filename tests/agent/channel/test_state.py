# SPDX-License-Identifier: Apache-2.0
"""A node's state as bytes: equal after a round, its bounds, and whatever bytes arrive."""

import struct
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.channel.message import MAX_PARTS, MAX_PAYLOAD
from agent.channel.nat_state import MAX_BACKENDS, MAX_DRAINS, BackendOrder, NatState
from agent.channel.state import (
    MAX_EPOCHS,
    MAX_SERVICES,
    MAX_UNREACHABLE,
    NodeState,
    ServiceEndpoint,
    StateShare,
    decode,
    encode,
)
from agent.model import MAX_WEIGHT, State

HTTPS = ServiceEndpoint(IPv4Address("192.0.2.10"), "tcp", 443)
DNS = ServiceEndpoint(IPv6Address("2001:db8::53"), "udp", 0)
UP = StateShare(100, 50, State.UP, True)
ORDER = BackendOrder(1, True)
STATE = NodeState(
    boot=7,
    version=1,
    release="0.1.0",
    ready=True,
    epochs=(0xAABBCCDD, 2),
    shares={HTTPS: UP, DNS: StateShare(10_000, 0, State.DRAINING, False)},
    unreachable=(IPv4Address("10.0.0.12"),),
)

weights = st.integers(0, MAX_WEIGHT).flatmap(lambda weight: st.tuples(st.just(weight), st.integers(0, weight)))
shares = st.builds(
    lambda pair, state, announced: StateShare(*pair, state, announced),
    weights,
    st.sampled_from([State.UP, State.DRAINING, State.LEFT]),
    st.booleans(),
)
endpoints = st.builds(ServiceEndpoint, st.ip_addresses(), st.sampled_from(["tcp", "udp"]), st.integers(0, 65_535))
backends = st.integers(0, 2**31 - 1)
orders = st.builds(BackendOrder, st.integers(0, 2**32 - 1), st.booleans(), st.integers(0, 2**32 - 1))
nats = st.builds(
    lambda pair, *rest: NatState(*pair, *rest),
    weights,
    st.sampled_from([State.UP, State.DRAINING, State.LEFT]),
    st.dictionaries(backends, st.booleans(), max_size=9),
    st.dictionaries(backends, orders, max_size=9),
    st.booleans(),
)
epochs = st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=MAX_EPOCHS, unique=True).map(tuple)
states = st.builds(
    NodeState,
    boot=st.integers(0, 2**64 - 1),
    version=st.integers(0, 2**64 - 1),
    release=st.text(st.characters(categories=["L", "N", "P"]), max_size=16),
    ready=st.booleans(),
    epochs=epochs,
    shares=st.dictionaries(endpoints, shares, max_size=20),
    unreachable=st.lists(st.ip_addresses(v=4), max_size=MAX_UNREACHABLE, unique=True).map(tuple),
    nat=st.none() | nats,
)


@given(states)
def test_a_state_comes_back_as_it_was(state: NodeState) -> None:
    assert decode(encode(state)) == state


def test_the_bytes_are_those_of_the_description() -> None:
    state = replace(STATE, shares={HTTPS: UP}, epochs=(2,))
    assert encode(state).hex(" ", 1) == (
        "01 00 11" + " 00" * 7 + " 07" + " 00" * 7 + " 01" + " 01"
        " 02 00 05 30 2e 31 2e 30"
        " 03 00 04 00 00 00 02"
        " 04 00 0c c0 00 02 0a 01 bb 06 81 00 64 00 32"
        " 06 00 04 0a 00 00 0c"
    )


def test_the_bytes_of_nat_are_those_of_the_description() -> None:
    nat = NatState(100, 50, State.UP, {5: True, 4: False}, {5: BackendOrder(3, True, 9)}, former=True)
    assert encode(replace(STATE, nat=nat)).removeprefix(encode(STATE)).hex(" ", 1) == (
        "07 00 05 81 00 64 00 32 08 00 08 00 00 00 04 80 00 00 05 09 00 0c 80 00 00 05 00 00 00 03 00 00 00 09"
    )


def test_what_nat_publishes_fits_into_the_parts_of_a_state() -> None:
    full = NatState(1, 1, State.UP, dict.fromkeys(range(MAX_BACKENDS), True), dict.fromkeys(range(MAX_DRAINS), ORDER))
    services = {HTTPS._replace(port=port): UP for port in range(1, 251)}
    assert len(encode(replace(STATE, shares=services, nat=full))) <= MAX_PARTS * MAX_PAYLOAD


@pytest.mark.parametrize(
    ("nat", "text"),
    [
        (NatState(1, 2, State.UP), "NAT: effective weight 2 is not in 0-1"),
        (NatState(10_001, 0, State.UP), "NAT: weight 10001 is not in 0-10000"),
        (NatState(1, 1, State.LOST), "NAT: no node is lost by its own account"),
        (NatState(1, 1, State.UP, {2**31: True}), "backend 2147483648 is not a number of 31 bits"),
        (NatState(1, 1, State.UP, {}, {-1: BackendOrder(1, True)}), "backend -1 is not a number of 31 bits"),
        (NatState(1, 1, State.UP, dict.fromkeys(range(4097), True)), "BACKENDS: 4097 entries, more than 4096"),
        (NatState(1, 1, State.UP, {}, dict.fromkeys(range(513), BackendOrder(1, True))), "DRAINS: 513 entries"),
    ],
)
def test_nat_out_of_its_bounds_is_not_encoded(nat: NatState, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        encode(replace(STATE, nat=nat))


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("07 0004 01000100", "NAT has 4 bytes, not 5"),
        ("07 0005 0400010001", "NAT: state 4 is not in 1-3"),
        ("07 0005 0100010001 08 0003 000001", "BACKENDS: 3 bytes are no multiple of 4"),
        ("07 0005 0100010001 08 0008 00000001 80000001", "a backend is there twice"),
    ],
)
def test_nat_that_is_no_nat_is_refused(field: str, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        decode(encode(STATE) + bytes.fromhex(field))


def test_the_order_of_services_does_not_matter() -> None:
    assert encode(STATE) == encode(replace(STATE, shares=dict(reversed(STATE.shares.items()))))


def test_150_services_are_two_datagrams() -> None:
    services = {HTTPS._replace(port=port): UP for port in range(1, 151)}
    assert len(encode(replace(STATE, shares=services))) <= 2 * MAX_PAYLOAD


def test_equal_services_of_two_nodes_are_one_object() -> None:
    other = replace(STATE, boot=8, shares={HTTPS: UP})
    assert decode(encode(other)).shares is decode(encode(replace(other, boot=9))).shares


def test_unknown_fields_are_skipped() -> None:
    unknown = b"\xc8\x00\x03abc"
    assert decode(unknown + encode(STATE) + unknown + unknown) == STATE


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"boot": 2**64}, "boot 18446744073709551616 is not a number of 64 bits"),
        ({"version": -1}, "version -1 is not"),
        ({"release": "1.0\x1b[2J"}, "the release is not printable"),
        ({"release": "x" * 65}, "the release has 65 bytes, more than 64"),
        ({"epochs": ()}, "EPOCHS is empty or missing"),
        ({"epochs": (1, 1)}, "an epoch is there twice"),
        ({"epochs": (2**32,)}, "epoch 4294967296 is not"),
        ({"epochs": tuple(range(9))}, "EPOCHS: 9 entries, more than 8"),
        ({"unreachable": (IPv4Address(1), IPv4Address(1))}, "an address is there twice"),
        ({"unreachable": tuple(map(IPv4Address, range(65)))}, "the list of addresses: 65 entries, more than 64"),
        ({"shares": {HTTPS: StateShare(10_001, 0, State.UP, True)}}, "192.0.2.10:443/tcp: weight 10001 is not in 0"),
        ({"shares": {HTTPS: StateShare(-1, 0, State.UP, True)}}, "192.0.2.10:443/tcp: weight -1 is not in 0"),
        ({"shares": {HTTPS: StateShare(9, 10, State.UP, True)}}, "192.0.2.10:443/tcp: effective weight 10 is not in"),
        ({"shares": {HTTPS: StateShare(9, 9, State.LOST, True)}}, "192.0.2.10:443/tcp: no node is lost by its own"),
        ({"shares": {HTTPS._replace(protocol="sctp"): UP}}, "protocol sctp is not tcp or udp"),
        ({"shares": {DNS._replace(port=65_536): UP}}, r"\[2001:db8::53\]:65536/udp: the port is not in 0-65535"),
        ({"shares": {HTTPS._replace(port=port): UP for port in range(MAX_SERVICES + 1)}}, "SERVICES_4: 1025 entries"),
    ],
)
def test_a_value_out_of_its_bounds_is_not_encoded(change: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        encode(replace(STATE, **change))  # type: ignore[arg-type]


SERVICE_AT = encode(replace(STATE, shares={HTTPS: UP})).index(HTTPS.vip.packed)


@pytest.mark.parametrize(
    ("offset", "value", "text"),
    [
        (6, b"\x84", "192.0.2.10:443: protocol 132 is not 6 or 17"),
        (7, b"\x84", "192.0.2.10:443/tcp: state 4 is not in 1-3"),
        (7, b"\x00", "192.0.2.10:443/tcp: state 0 is not in 1-3"),
        (8, b"\xff\xff", "192.0.2.10:443/tcp: weight 65535 is not in 0-10000"),
        (10, b"\x00\x65", "192.0.2.10:443/tcp: effective weight 101 is not in 0-100"),
        (-1, b"\x0d", "the field of type 4 is cut: 12 of 13 bytes"),
    ],
)
def test_a_value_out_of_its_bounds_is_not_decoded(offset: int, value: bytes, text: str) -> None:
    data = bytearray(encode(replace(STATE, shares={HTTPS: UP}, unreachable=())))
    data[SERVICE_AT + offset : SERVICE_AT + offset + len(value)] = value
    with pytest.raises(ValueError, match=text):
        decode(bytes(data))


def test_a_service_or_field_that_is_there_twice_is_not_decoded() -> None:
    data = encode(replace(STATE, shares={HTTPS: UP}, unreachable=()))
    service = data[-12:]
    with pytest.raises(ValueError, match=r"192\.0\.2\.10:443/tcp is there twice"):
        decode(data[:-15] + b"\x04" + struct.pack("!H", 24) + service * 2)
    with pytest.raises(ValueError, match="SERVICES_4: 13 bytes are no multiple of 12"):
        decode(data[:-15] + b"\x04" + struct.pack("!H", 13) + service + b"x")
    with pytest.raises(ValueError, match="SERVICES_4 is there twice"):
        decode(data + data[-15:])


def test_a_cut_state_lacks_a_whole_field_or_is_an_error() -> None:
    data = encode(STATE)
    whole = 0
    for length in range(len(data)):
        try:
            cut = decode(data[:length])
        except ValueError:
            continue
        whole += 1
        assert cut in (
            replace(STATE, shares={}, unreachable=()),
            replace(STATE, unreachable=()),
            replace(STATE, unreachable=(), shares={HTTPS: UP}),
        )
    assert whole == 3


@given(st.binary(max_size=200))
def test_any_bytes_are_decoded_or_a_value_error(data: bytes) -> None:
    try:
        found = decode(data)
    except ValueError:
        return
    assert decode(encode(found)) == found


@given(states, st.data())
def test_changed_bytes_are_decoded_or_a_value_error(state: NodeState, draw: st.DataObject) -> None:
    data = bytearray(encode(state))
    for _ in range(draw.draw(st.integers(1, 4))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    try:
        found = decode(bytes(data))
    except ValueError:
        return
    assert decode(encode(found)) == found


def test_an_endpoint_reads_as_an_operator_writes_it() -> None:
    assert str(HTTPS) == "192.0.2.10:443/tcp"
    assert str(DNS) == "[2001:db8::53]:any/udp"
    assert (ip_address("192.0.2.10"), "tcp", 443) == HTTPS
