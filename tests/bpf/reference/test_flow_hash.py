# SPDX-License-Identifier: Apache-2.0
"""The flow hash: the reference implementation against the real program, its spread, its key."""

import random
from collections import Counter
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import numpy as np
import pytest
from support import packets

from bpf.layout.conf import vip_filter
from bpf.layout.limits import CHAIN
from bpf.layout.service import Protocol, ServiceEntry, ServiceKey
from bpf.reference.flow_hash import flow_hash, mix, row_of

VIP = "10.99.0.1"
KEY = bytes(range(16))
ROWS = 4096


def test_reference_finds_the_row_that_the_program_reads(program: Any) -> None:
    """Each row names a next hop by one of its digits in base 7; all digits together identify the row."""
    choose = random.Random(1)
    flows = [
        (choose.randrange(1 << 24, 100 << 24), choose.randrange(1 << 16), choose.randrange(1, 1 << 16))
        for _ in range(300)
    ]
    program.maps.services.write(ServiceKey(IPv4Address(VIP), Protocol.TCP, 0), ServiceEntry(1, up=True))
    for divisor in (1, 7, 49, 343):  # 7 next hops: nodes 2 to 8; 7 ** 4 < 4096 leaves a few rows alike
        rows = np.zeros((ROWS, CHAIN), np.uint16)
        rows[:, 0] = 2 + np.arange(ROWS) // divisor % 7
        program.maps.tables.swap(1, rows, np.zeros(ROWS, np.uint64))
        for client, client_port, vip_port in flows:
            address = IPv4Address(client)
            row = row_of(KEY, ROWS, address, client_port, IPv4Address(VIP), vip_port)
            ends = {"src": str(address), "dst": VIP}
            segment = packets.tcp(sport=client_port, dport=vip_port, **ends)
            frame = packets.ethernet(
                packets.ipv4(segment, protocol=packets.TCP, **ends), dst=packets.HERE, src=packets.ROUTER
            )
            verdict, after = program.send(frame)
            assert (verdict, after[5]) == ("tx", 2 + row // divisor % 7), (address, client_port, vip_port)


def test_mix_is_one_to_one() -> None:
    """Each of its steps can be undone: multiplying by an odd number, and xor with one's own upper bits."""
    choose = random.Random(3)
    inverse_1, inverse_2 = pow(0x7FEB352D, -1, 2**32), pow(0x846CA68B, -1, 2**32)
    for word in (0, 1, 2**32 - 1, *(choose.randrange(2**32) for _ in range(1000))):
        mixed = mix(word)
        back = mixed ^ mixed >> 16
        back = back * inverse_2 % 2**32
        back = (back ^ back >> 15 ^ back >> 30) * inverse_1 % 2**32
        assert back ^ back >> 16 == word


def hashes(client: int, vip: int, ports: int, key: np.ndarray) -> np.ndarray:
    """flow_hash() of an IPv4 flow for many keys at once: `key` holds (10, n) words."""
    total = key[0] + (np.uint64(client) + key[1]) * (np.uint64(vip) + key[2]) + np.uint64(ports) * key[9]
    word = (total >> np.uint64(32)).astype(np.uint32)
    word = (word ^ word >> np.uint32(16)) * np.uint32(0x7FEB352D)
    word = (word ^ word >> np.uint32(15)) * np.uint32(0x846CA68B)
    return word ^ word >> np.uint32(16)


@pytest.mark.parametrize("word", ["client", pytest.param("vip", marks=pytest.mark.slow), "ports"])
def test_no_difference_of_two_flows_collides_for_more_keys_than_the_minimum(word: str) -> None:
    """All differences of one or two bits, signs both ways: in 256 rows, over random keys, 1 in 256 collides.

    With 40,000 keys that is 156 +- 12.5; a difference that holds for every key would show 40,000.
    """
    generator = np.random.default_rng(5)
    key = np.ascontiguousarray(generator.integers(0, 2**64, (40_000, 10), dtype=np.uint64).T)
    base = {"client": 0x0200010A, "vip": 0x0100630A, "ports": 0x581B409C}
    rows = hashes(key=key, **base) & np.uint32(255)
    for low in range(32):
        for high in range(low, 32):
            flipped = base | {word: base[word] ^ (1 << low | 1 << high)}
            same = int((rows == hashes(key=key, **flipped) & np.uint32(255)).sum())
            assert 80 < same < 250, (low, high)


@pytest.mark.slow
def test_flows_spread_and_another_key_moves_them() -> None:
    """One client with many ports, the worst common case: no row gets much more than its share."""
    client, vip = IPv4Address("10.1.0.2"), IPv4Address(VIP)
    rows = [row_of(KEY, 256, client, port, vip, 7000) for port in range(1024, 1024 + 51200)]
    load = Counter(rows)
    assert len(load) == 256
    assert max(load.values()) < 200 * 1.35  # 200 each; 5 standard deviations are 1.35
    other = [row_of(bytes([1, *KEY[1:]]), 256, client, port, vip, 7000) for port in range(1024, 1024 + 51200)]
    same = sum(a == b for a, b in zip(rows, other, strict=True))
    assert same < 51200 / 256 * 1.5


def test_hash_is_frozen() -> None:
    """All nodes of a cluster must agree, whatever version they run: a change here is a new epoch."""
    ends = (IPv4Address("192.0.2.1"), 12345, IPv4Address("198.51.100.7"), 443)
    assert flow_hash(KEY, *ends) == 0x3D54D29D
    assert flow_hash(KEY, IPv6Address("2001:db8::1"), 12345, IPv6Address("2001:db8::2"), 443) == 0x60F94922


def test_vip_filter_has_the_bit_that_the_program_tests(program: Any) -> None:
    """A VIP in the filter is found; with its bit cleared the packet passes before any lookup."""
    for address in ("10.99.0.1", "10.99.0.77", "192.0.2.200"):
        key = ServiceKey(IPv4Address(address), Protocol.UDP, 53)
        program.maps.services.write(key, ServiceEntry(2, up=True))
        program.set_chain(2, (2,))
        ends = {"src": "10.1.0.2", "dst": address}
        datagram = packets.ipv4(packets.udp(sport=1, dport=53, **ends), protocol=packets.UDP, **ends)
        frame = packets.ethernet(datagram, dst=packets.HERE, src=packets.ROUTER)
        assert program.send(frame)[0] == "tx"
        program.maps.services.remove(key)
        assert program.send(frame)[0] == "pass"
    assert vip_filter([]) == 0
    assert vip_filter([IPv4Address("10.99.0.1")]).bit_count() == 1
