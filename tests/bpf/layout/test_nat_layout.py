# SPDX-License-Identifier: Apache-2.0
"""The encoding of what NAT's program and maps hold. Every compile with NAT asserts that it equals nat_layout.h's."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpf.layout import map_spec
from bpf.layout.map_spec import NatShape
from bpf.layout.nat import FIRST_PORT, SESSIONS_MIN, NatConf, endpoint, row_of_slot, slot_of, ticks, unpack_conf
from bpf.layout.nat_backend import CHOICES, BackendEntry, Balance, Choice, NatHop, NatServiceEntry
from bpf.layout.service import Affinity, Forward
from bpf.layout.session import SESSION4_STRUCT, SESSION6_STRUCT, WAYS, Session, SessionState, Tag, TagFlag
from bpf.maps.session_dtype import SESSION4_DTYPE, SESSION6_DTYPE

POOL, POOL6 = IPv4Network("10.255.0.0/27"), IPv6Network("fd00:ff::/123")
SESSION = Session(
    6, IPv4Address("10.1.0.2"), 40000, IPv4Address("10.99.0.1"), 443, IPv4Address("10.9.0.11"), 8443,
    IPv4Address("10.255.0.3"), 40001, backend_index=7, service_slot=3, created=99, client_ack=5, backend_ack=2**32 - 1,
)  # fmt: skip
SESSION6 = Session(
    17, IPv6Address("2001:db8:64::2"), 40000, IPv6Address("2001:db8:99::1"), 53, IPv6Address("2001:db8:9::11"), 5353,
    IPv6Address("fd00:ff::3"), 40001, backend_index=4095, service_slot=255,
)  # fmt: skip


def test_conf() -> None:
    conf = NatConf(1 << 20, 5, POOL, POOL6, Forward.L2, False, 4096, 4097, 1400, 1380, watched=True)
    data = conf.pack()
    assert data[:8] == IPv4Address("10.255.0.31").packed + bytes([0, 0, 0, 31])
    assert data[8:28] == IPv6Address("fd00:ff::1f").packed + bytes([0, 0, 0, 31])
    assert data[28:48] == data[:4] + data[8:24], "without a former pool it is the present one"
    assert data[48:52] == bytes([5, 5, 5, 0]), "buckets, the former ones, the table"
    assert unpack_conf(data) == conf
    both = replace(conf, former=IPv4Network("10.254.0.0/27"), former6=IPv6Network("fd00:fe::/123"))
    assert both.pack()[28:48] == IPv4Address("10.254.0.31").packed + IPv6Address("fd00:fe::1f").packed
    assert unpack_conf(both.pack()) == both
    fewer = replace(conf, sessions=1 << 18, former_sessions=1 << 20)
    assert fewer.pack()[48:50] == bytes([3, 5])
    assert (fewer.slots, fewer.pack()[:48]) == (1 << 20, data[:48]), "all addresses are served"
    assert unpack_conf(fewer.pack()) == fewer
    assert unpack_conf(bytes(len(data))) is None


def test_conf_of_one_family() -> None:
    only4, only6 = NatConf(SESSIONS_MIN, 1, IPv4Network("10.255.0.0/31")), NatConf(SESSIONS_MIN, 1, pool6=POOL6)
    assert unpack_conf(only4.pack()) == only4
    read = unpack_conf(only6.pack())
    assert read is not None
    assert (read.pool, read.pool6) == (None, IPv6Network("fd00:ff::/127")), "the addresses that are used"


@pytest.mark.parametrize(
    ("sessions", "pool", "error"),
    [(1 << 20, "10.255.0.0/28", "32 addresses are wanted"), (100_000, "10.255.0.0/16", "power of two")],
)
def test_conf_that_contradicts_itself(sessions: int, pool: str, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        NatConf(sessions, 1, IPv4Network(pool)).pack()


@given(bits=st.integers(16, 24), slot=st.integers(0, 2**24 - 1))
def test_slot_is_an_endpoint_and_in_a_row(bits: int, slot: int) -> None:
    slot %= 1 << bits
    for pool in (IPv4Network("10.128.0.0/9"), IPv6Network("fd00:ff::/64")):
        address, port = endpoint(pool, slot)
        assert FIRST_PORT <= port < 65536
        assert slot_of(pool, address, port) == slot
        assert row_of_slot(slot) == (port - FIRST_PORT) // WAYS, "whatever the number of slots is"


def test_timeouts_are_rounded_up() -> None:
    assert [ticks(seconds) for seconds in (0, 1, 30, 3600)] == [0, 1, 28, 3353]


def test_service_and_its_choices() -> None:
    entry = NatServiceEntry(Balance.WEIGHTED, Affinity.TWO_TUPLE, (Choice(1, 100), Choice(4095, 65535)))
    assert entry.pack(9) == bytes.fromhex("03 02 0200 00000000 0900000000000000")
    assert entry.pack_choices()[:8] == bytes.fromhex("0100 6400 ff0f ffff")
    assert NatServiceEntry.unpack(entry.pack(), entry.pack_choices()) == entry
    with pytest.raises(ValueError, match="257 choices"):
        NatServiceEntry(choices=[Choice(1)] * (CHOICES + 1)).pack_choices()


def test_backend_and_next_hop() -> None:
    for entry in (BackendEntry(SESSION.backend, 8443, 9), BackendEntry(SESSION6.backend, 1, 4097, 1)):
        assert BackendEntry.unpack(entry.pack()) == entry
    assert BackendEntry.unpack(bytes(28)) is None
    for hop in (NatHop(b"\2\0\0\0\0\1"), NatHop(None), NatHop(b"\2\0\0\0\0\1", 7, b"\2\0\0\0\0\2", 100, 9000)):
        assert NatHop.unpack(hop.pack()) == hop
    assert NatHop.unpack(bytes(24)) is None


def test_tag() -> None:
    tag = Tag(0x8001, SessionState.EST, TagFlag.SYNACK_SEEN | TagFlag.UDP, 0xFFFF_FFFF)
    assert tag.pack() == 0x8001_02_84_FFFFFFFF
    assert Tag.unpack(tag.pack()) == tag
    assert Tag.unpack(0).state is SessionState.FREE


@pytest.mark.parametrize(("session", "dtype"), [(SESSION, SESSION4_DTYPE), (SESSION6, SESSION6_DTYPE)])
def test_record(session: Session, dtype: "np.dtype[Any]") -> None:
    data = session.pack()
    assert len(data) == dtype.itemsize == (SESSION4_STRUCT if dtype is SESSION4_DTYPE else SESSION6_STRUCT).size
    assert Session.unpack(data) == session
    record = np.frombuffer(data, dtype)[0]
    names = ("client_port", "vip_port", "backend_port", "nat_port", "protocol", "backend_index", "service_slot")
    for name in (*names, "created", "client_ack", "backend_ack"):
        assert int(record[name]) == getattr(session, name), name
    assert record["family"] == session.client.version
    for name in ("client", "vip", "backend", "nat"):
        address = getattr(session, name)
        assert record[name] == (int(address) if address.version == 4 else np.void(address.packed)), name


def test_layout_of_the_maps_depends_on_nat() -> None:
    plain, nat = map_spec.map_specs(4096), map_spec.map_specs(4096, NatShape(SESSIONS_MIN))
    assert nat[: len(plain)] == plain, "without NAT, the same maps"
    only4 = map_spec.map_specs(4096, NatShape(SESSIONS_MIN, ipv6=False))
    assert {spec.name for spec in nat} - {spec.name for spec in only4} == {"sessions6"}
    shapes = (None, NatShape(SESSIONS_MIN), NatShape(SESSIONS_MIN, ipv6=False))
    assert len({map_spec.digest(4096, shape) for shape in shapes}) == len(shapes)
    more = NatShape(2 * SESSIONS_MIN)
    assert map_spec.digest(4096, more) == map_spec.digest(4096, shapes[1]), "most maps can be shared"
    sizes = zip(map_spec.map_specs(4096, more), nat, strict=True)
    assert {one.name for one, other in sizes if one != other} == set(map_spec.SESSION_MAPS)
