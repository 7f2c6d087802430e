# SPDX-License-Identifier: Apache-2.0
"""The flow hash: its Python twin against the real program, its spread, its key."""

import random
from collections import Counter
from ipaddress import IPv4Address
from typing import Any

import numpy as np
import packets
import pytest

from bpf.flow import flow_hash, mix, row_of, vip_filter
from bpf.layout import CHAIN, Protocol, ServiceEntry, ServiceKey

VIP = "10.99.0.1"
KEY = (0x1234_5678, 0x9ABC_DEF0)
ROWS = 4096


def test_twin_finds_the_row_that_the_program_reads(program: Any) -> None:
    """Each row names another next hop, by its low and then its high digit: together they tell the row."""
    choose = random.Random(1)
    flows = [(choose.randrange(1 << 32), choose.randrange(1 << 16), choose.randrange(1, 1 << 16)) for _ in range(300)]
    program.tables.set_service(ServiceKey(IPv4Address(VIP), Protocol.TCP, 0), ServiceEntry(1, up=True))
    for divisor in (1, 7, 49, 343):  # 7 next hops: nodes 2 to 8; 7 ** 4 < 4096 leaves a few rows alike
        rows = np.zeros((ROWS, CHAIN), np.uint16)
        rows[:, 0] = 2 + np.arange(ROWS) // divisor % 7
        program.tables.swap_rows(1, rows, np.zeros(ROWS, np.uint64))
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


@pytest.mark.parametrize(
    ("words", "mixed"),
    [
        ((0, 0, 0), 0),
        ((1, 2, 3), 0x36FF91DB),
        ((0xDEADBEEF, 0xCAFEF00D, 0x12345678), 0xEE2E774C),
        ((0xFFFFFFFF, 0x80000000, 0x7FFFFFFF), 0x9313CB2C),
    ],
)
def test_mix_is_lookup3s(words: tuple[int, int, int], mixed: int) -> None:
    """Vectors from Jenkins' lookup3.c, final(), compiled."""
    assert mix(*words) == mixed


def test_flows_spread_and_the_key_moves_them() -> None:
    """One client with many ports, the worst that is common: no row gets much more than its share."""
    client, vip = IPv4Address("10.1.0.2"), IPv4Address(VIP)
    rows = [row_of(KEY, 256, client, port, vip, 7000) for port in range(1024, 1024 + 51200)]
    load = Counter(rows)
    assert len(load) == 256
    assert max(load.values()) < 200 * 1.35  # 200 each; 5 standard deviations are 1.35
    other = [row_of((KEY[0] ^ 1, KEY[1]), 256, client, port, vip, 7000) for port in range(1024, 1024 + 51200)]
    same = sum(a == b for a, b in zip(rows, other, strict=True))
    assert same < 51200 / 256 * 1.5


def test_hash_is_frozen() -> None:
    """All nodes of a cluster must agree, whatever version they run: a change here is a new epoch."""
    assert flow_hash((1, 2), IPv4Address("192.0.2.1"), 12345, IPv4Address("198.51.100.7"), 443) == 0x8E89E6FA


def test_vip_filter_has_the_bit_the_program_asks_for(program: Any) -> None:
    """A VIP alone in the filter is found, one bit off it is not: the packet passes before any lookup."""
    for address in ("10.99.0.1", "10.99.0.77", "192.0.2.200"):
        key = ServiceKey(IPv4Address(address), Protocol.UDP, 53)
        program.tables.set_service(key, ServiceEntry(2, up=True))
        program.set_chain(2, (2,))
        ends = {"src": "10.1.0.2", "dst": address}
        datagram = packets.ipv4(packets.udp(sport=1, dport=53, **ends), protocol=packets.UDP, **ends)
        frame = packets.ethernet(datagram, dst=packets.HERE, src=packets.ROUTER)
        assert program.send(frame)[0] == "tx"
        program.tables.del_service(key)
        assert program.send(frame)[0] == "pass"
    assert vip_filter([]) == 0
    assert vip_filter([IPv4Address("10.99.0.1")]).bit_count() == 1
