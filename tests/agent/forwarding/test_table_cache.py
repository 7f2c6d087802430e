# SPDX-License-Identifier: Apache-2.0
"""The tables that services share: kept as long as their members are used, with the nodes' present indexes."""

from ipaddress import IPv4Address

import numpy as np

from agent.forwarding.table_cache import TableCache
from agent.model import Candidate, State
from agent.table.epoch import Epoch

EPOCH = Epoch(7, 1, 4096, 4, b"")
MEMBERS = tuple(Candidate(IPv4Address("10.0.0.11") + i, 100, 100, State.UP) for i in range(5))
INDEXES = {one.address: 1 + i for i, one in enumerate(MEMBERS)}


def test_a_table_is_kept_with_the_present_indexes() -> None:
    cache = TableCache()
    cache.retain([MEMBERS], INDEXES)
    first = cache.table(EPOCH, "rendezvous", MEMBERS, None)
    cache.retain([MEMBERS], INDEXES)
    assert cache.table(EPOCH, "rendezvous", MEMBERS, None) is first
    cache.retain([MEMBERS], {address: 10 + index for address, index in INDEXES.items()})
    again = cache.table(EPOCH, "rendezvous", MEMBERS, None)
    assert again.table is first.table
    assert np.array_equal(again.chains[:, :4], first.chains[:, :4] + 10)


def test_the_table_of_members_that_no_service_has_is_forgotten() -> None:
    cache = TableCache()
    cache.retain([MEMBERS], INDEXES)
    first = cache.table(EPOCH, "rendezvous", MEMBERS, None)
    cache.retain([MEMBERS[:4]], INDEXES)
    assert cache.table(EPOCH, "rendezvous", MEMBERS, None).table is not first.table
