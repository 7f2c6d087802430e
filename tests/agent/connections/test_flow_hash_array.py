# SPDX-License-Identifier: Apache-2.0
"""The hashes of many flows against the reference of one, which is tested against the program."""

import random
from ipaddress import IPv4Address, IPv6Address

import numpy as np
import pytest

from agent.connections.flow_hash_array import HASHED_PORTS, flow_hashes
from bpf.layout.address import Address, address_words
from bpf.layout.service import Affinity
from bpf.reference.flow_hash import flow_hash

FLOWS = 2000


def address(choose: random.Random, version: int) -> Address:
    return IPv4Address(choose.randrange(2**32)) if version == 4 else IPv6Address(choose.randrange(2**128))


def loaded(port: int) -> int:
    return int.from_bytes(port.to_bytes(2, "big"), "little")


@pytest.mark.parametrize("affinity", Affinity)
@pytest.mark.parametrize("version", [4, 6])
def test_hashes_are_those_of_the_reference(version: int, affinity: Affinity) -> None:
    choose = random.Random(version * 10 + affinity)
    key = choose.randbytes(16)
    flows = [
        (address(choose, version), choose.randrange(1 << 16), address(choose, version), choose.randrange(1 << 16))
        for _ in range(FLOWS)
    ]
    clients, vips = (np.array([address_words(flow[i]) for flow in flows], np.uint32) for i in (0, 2))
    ports = np.array([loaded(flow[1]) | loaded(flow[3]) << 16 for flow in flows], np.uint32)
    hashes = flow_hashes(key, clients, vips, ports & np.uint32(HASHED_PORTS[affinity]))
    assert hashes.dtype == np.uint32
    assert hashes.tolist() == [flow_hash(key, *flow, affinity) for flow in flows]
