# SPDX-License-Identifier: Apache-2.0
"""Encoding of what lies in the maps. That it is lb.h's is asserted by every compile (see test_compile.py)."""

from ipaddress import IPv4Address

import pytest

from bpf import layout
from bpf.layout import Counter, NodeConf, NodeEntry, Protocol, ServiceEntry, ServiceKey, UplinkEntry


def test_node() -> None:
    known = NodeEntry(IPv4Address("10.0.0.11"), 0x0B, bytes.fromhex("020000000001"))
    assert known.pack() == bytes.fromhex("020000000001 0b00 0a00000b 01000000")
    assert NodeEntry.unpack(known.pack()) == known
    unknown = NodeEntry(IPv4Address("10.0.0.12"), 0x0C, None)
    assert unknown.pack() == bytes.fromhex("000000000000 0c00 0a00000c 00000000")
    assert NodeEntry.unpack(unknown.pack()) == unknown
    assert NodeEntry.unpack(bytes(16)) is None


def test_service() -> None:
    key = ServiceKey(IPv4Address("10.99.0.1"), Protocol.TCP, 7000)
    assert key.pack() == bytes.fromhex("0a630001 1b58 06 00")
    assert ServiceKey.unpack(key.pack()) == key
    assert key.any_port().pack() == bytes.fromhex("0a630001 0000 06 00")
    entry = ServiceEntry(slot=3, up=True)
    assert entry.pack() == bytes.fromhex("03000000 01 00 00 00")
    assert ServiceEntry.unpack(entry.pack()) == entry


def test_uplink() -> None:
    uplink = UplinkEntry(bytes.fromhex("020000000001"), 7)
    assert uplink.pack() == bytes.fromhex("020000000001 0000 07000000")
    assert UplinkEntry.unpack(uplink.pack()) == uplink
    veth = UplinkEntry(bytes.fromhex("020000000001"), 7, redirect=True)
    assert veth.pack() == bytes.fromhex("020000000001 0100 07000000")
    assert UplinkEntry.unpack(veth.pack()) == veth
    assert UplinkEntry.unpack(bytes(12)) is None


@pytest.mark.parametrize("per_s", [1, 1_000, 200_000, 3_000_000, 2_000_000_000])
def test_conf(per_s: int) -> None:
    conf = NodeConf(5, 0x0B, (1, 2**32 - 1), again_per_s=per_s, again_burst=4)
    data = conf.pack(vip_filter=2**63)
    assert len(data) == 32
    back = NodeConf.unpack(data)
    assert back is not None
    assert (back.self_index, back.self_tag, back.hash_key) == (5, 0x0B, (1, 2**32 - 1))
    assert back.again_per_s == pytest.approx(min(per_s, 1_000_000_000), rel=0.01)
    assert NodeConf.with_vip_filter(data, 1) == conf.pack(vip_filter=1)
    assert NodeConf.unpack(bytes(32)) is None


def test_digest_tells_layouts_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    assert layout.digest(4096) == layout.digest(4096)
    before = layout.digest(4096)
    assert before != layout.digest(8192)
    monkeypatch.setattr(layout, "SLOTS", 512)
    assert layout.digest(4096) != before


def test_counters_are_numbered_without_gaps() -> None:
    assert [counter.value for counter in Counter] == list(range(len(Counter)))
