# SPDX-License-Identifier: Apache-2.0
"""The encoding of each struct. Every compile asserts that it equals lb.h's (test_build.py)."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest

from bpf.layout import limits, map_spec
from bpf.layout.conf import ConfFlag, NodeConf, OtherEpoch, derived_fields, with_bank_of, with_derived_fields
from bpf.layout.join_order import join_order, last_places
from bpf.layout.node import NodeEntry
from bpf.layout.prefix import pack_prefix, unpack_prefix
from bpf.layout.service import Affinity, Forward, Protocol, ServiceEntry, ServiceFlag, ServiceKey
from bpf.layout.uplink import UplinkEntry


def test_node() -> None:
    known = NodeEntry(IPv4Address("10.0.0.11"), 0x0B, bytes.fromhex("020000000001"))
    rest = "00000000 000000000000 0000 dc05 0000" + "00" * 24
    assert known.pack() == bytes.fromhex("020000000001 0b00 0a00000b 03000000" + rest)
    assert NodeEntry.unpack(known.pack()) == known
    unknown = NodeEntry(IPv4Address("10.0.0.12"), 0x0C, None, on_link=False)
    assert unknown.pack() == bytes.fromhex("000000000000 0c00 0a00000c 00000000" + rest)
    assert NodeEntry.unpack(unknown.pack()) == unknown
    assert NodeEntry.unpack(bytes(56)) is None


def test_node_behind_a_router() -> None:
    far = NodeEntry(
        IPv4Address("10.0.0.12"), 0x0C, bytes.fromhex("020000000002"), on_link=False,
        address6=IPv6Address("2001:db8::c"), outer6=True, ifindex=7, source=bytes.fromhex("020000000003"), vlan=100,
        mtu=9000,
    )  # fmt: skip
    assert far.pack() == bytes.fromhex(
        "020000000002 0c00 0a00000c 05000000 07000000 020000000003 6400 2823 0000 20010db800000000000000000000000c"
        + "00" * 8
    )
    assert NodeEntry.unpack(far.pack()) == far
    silent = replace(far, silent=True, drop_until_ns=2**40)
    assert silent.pack() == far.pack()[:12] + bytes([13]) + far.pack()[13:48] + (2**40).to_bytes(8, "little")
    assert NodeEntry.unpack(silent.pack()) == silent
    doubted = replace(silent, silent=False)
    assert NodeEntry.unpack(doubted.pack()) == doubted


def test_service() -> None:
    key = ServiceKey(IPv4Address("10.99.0.1"), Protocol.TCP, 7000)
    assert key.pack() == bytes.fromhex("0a630001" + "00" * 12 + "1b58 06 04")
    assert ServiceKey.unpack(key.pack()) == key
    assert key.any_port().pack() == bytes.fromhex("0a630001" + "00" * 12 + "0000 06 04")
    assert key.of_vip().pack() == bytes.fromhex("0a630001" + "00" * 12 + "0000 00 04")
    assert ServiceKey.unpack(key.of_vip().pack()) == key.of_vip()
    six = ServiceKey(IPv6Address("2001:db8::1"), Protocol.UDP, 53)
    assert six.pack() == bytes.fromhex("20010db8000000000000000000000001 0035 11 06")
    assert ServiceKey.unpack(six.pack()) == six
    entry = ServiceEntry(slot=3, up=True)
    assert entry.pack() == bytes.fromhex("03000000 01 00 00 00")
    assert ServiceEntry.unpack(entry.pack()) == entry
    full = ServiceEntry(255, False, Affinity.TWO_TUPLE, Forward.GUE, drop_no_member=True)
    assert full.pack(ServiceFlag.FRAGMENTS) == bytes.fromhex("ff000000 00 02 02 06")
    assert ServiceEntry.unpack(full.pack(ServiceFlag.FRAGMENTS)) == full
    assert ServiceEntry.unpack(full.pack(ServiceFlag.PORTS_ONLY)) is None


@pytest.mark.parametrize(
    ("prefix", "data"),
    [
        ("0.0.0.0/0", "20000000 04000000" + "00" * 16),
        ("10.0.0.0/8", "28000000 04000000 0a000000" + "00" * 12),
        ("::/0", "20000000 06000000" + "00" * 16),
        ("2001:db8::1/128", "a0000000 06000000 20010db8000000000000000000000001"),
    ],
)
def test_prefix(prefix: str, data: str) -> None:
    assert pack_prefix(ip_network(prefix)) == bytes.fromhex(data)
    assert unpack_prefix(bytes.fromhex(data)) == ip_network(prefix)


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
    outer = (IPv4Address("10.0.0.11"), IPv6Address("2001:db8::b"))
    conf = NodeConf(5, 0x0B, bytes(range(16)), per_s, 4, *outer, cluster=4242, echo_port=4742)
    data = conf.pack(2**63, ConfFlag.SAMPLE)
    assert len(data) == 232
    back = NodeConf.unpack(data)
    assert back is not None
    assert (back.self_index, back.self_tag, back.hash_key) == (5, 0x0B, bytes(range(16)))
    assert (back.address, back.address6) == outer
    assert (back.cluster, back.echo_port) == (4242, 4742)
    assert back.again_per_s == pytest.approx(min(per_s, 1_000_000_000), rel=0.01)
    ends = ConfFlag.OUTER_4 | ConfFlag.OUTER_6
    assert derived_fields(data) == (2**63, ConfFlag.SAMPLE | ends)
    assert with_derived_fields(data, 1, ConfFlag.DENY | ends) == conf.pack(1, ConfFlag.DENY)
    assert NodeConf.unpack(bytes(232)) is None


def test_conf_of_two_epochs() -> None:
    """Keys and epochs are ordered by bank, whichever is first; a removed key stays for packets in flight."""
    one = NodeConf(5, 0x0B, bytes(range(16)), epoch=7)
    both = replace(one, other=OtherEpoch(bytes(16), 8, alternating=True))
    turned = NodeConf(5, 0x0B, bytes(16), bank=1, epoch=8, other=OtherEpoch(bytes(range(16)), 7))
    for conf in (one, both, turned, replace(turned, other=None, class_e=True), replace(one, drop_other_protocols=True)):
        assert NodeConf.unpack(conf.pack(0, 0)) == replace(conf, again_burst=4000)
    keys = slice(8, 8 + 2 * 80 + 8)
    assert both.pack(0, 0)[keys] == turned.pack(0, 0)[keys]
    alone = replace(turned, other=None).pack(0, 0)
    assert alone[8:88] == bytes(80)
    assert with_bank_of(alone, 0, both.pack(0, 0))[keys] == both.pack(0, 0)[keys]
    assert list(join_order(alternating=True)) == [0, 8, 1, 9, 2, 10, 3]
    assert list(join_order(alternating=False)) == [0, 1, 2, 3, 8, 9, 10]
    assert list(last_places()) == [4, 12, 5, 13, 6, 14, 7, 15]


def test_secret_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="hash_key: 8 bytes given, 16 wanted"):
        NodeConf(1, 1, bytes(8)).pack(0, ConfFlag(0))


def test_digest_differs_between_layouts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert map_spec.digest(4096) == map_spec.digest(4096)
    before = map_spec.digest(4096)
    assert before != map_spec.digest(8192)
    monkeypatch.setattr(limits, "SLOTS", 512)
    assert map_spec.digest(4096) != before
