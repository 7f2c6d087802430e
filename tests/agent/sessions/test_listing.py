# SPDX-License-Identifier: Apache-2.0
"""Which sessions a selection finds, and how they look to lbctl."""

import json
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any, cast

import numpy as np
import pytest
from support.session_slots import CLIENT, NOW, VIP, Slots

from agent.model import Flow
from agent.sessions.listing import count_live_by_service, find, find_one, read_pages, slots_of_rows
from agent.sessions.page import Names, decode
from agent.sessions.selection import Selection
from agent.sessions.tag_array import LIVE
from bpf.layout.session import SessionState, TagFlag

CLIENT6 = IPv6Address("2001:db8::7")
NAMES = Names({3: "web", 4: "dns"})


@pytest.fixture
def slots() -> Slots:
    slots = Slots()
    slots.put(10, SessionState.SYN)
    slots.put(20, client=IPv4Address("192.0.3.1"), service_slot=4, protocol=17)
    slots.put(30, client=CLIENT6)
    slots.put(40, SessionState.CLOSED, backend_port=80)
    slots.put(50, SessionState.FIN, client=CLIENT6, service_slot=4, backend=IPv6Address("fd00:9::12"))
    slots.put(60, SessionState.BUSY)
    return slots


def found(slots: Slots, selection: Selection, **part: int) -> list[int]:
    return sorted(slot for one in find(slots.table, selection, **({"start": 0} | part)) for slot in one.slots.tolist())


def test_sessions_are_counted_by_service(slots: Slots) -> None:
    assert count_live_by_service(slots.table) == {3: 2, 4: 2}, "closed and unfinished ones are none"


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection(), [10, 20, 30, 40, 50]),
        (Selection(states=LIVE), [10, 20, 30, 50]),
        (Selection(states=(SessionState.EST,)), [20, 30]),
        (Selection(services=frozenset({4})), [20, 50]),
        (Selection(services=frozenset()), []),
        (Selection(client=ip_network("192.0.2.0/24")), [10, 40]),
        (Selection(client=ip_network("192.0.2.0/23")), [10, 20, 40]),
        (Selection(client=ip_network("0.0.0.0/0")), [10, 20, 40]),
        (Selection(client=ip_network("2001:db8::/32")), [30, 50]),
        (Selection(client=ip_network("2001:db8::7")), [30, 50]),
        (Selection(client=ip_network("2001:db8::8")), []),
        (Selection(pool=ip_network("10.255.0.0/31")), [10, 20, 40]),
        (Selection(pool=ip_network("10.254.0.0/31")), []),
        (Selection(pool=ip_network("fd00:ff::")), [30, 50]),
        (Selection(backend=IPv4Address("10.9.0.11")), [10, 20, 40]),
        (Selection(backend=IPv4Address("10.9.0.11"), backend_port=80), [40]),
        (Selection(backend=IPv6Address("fd00:9::12")), [50]),
        (Selection(flow=Flow("tcp", CLIENT, 41_000, VIP, 443)), [10, 40]),
        (Selection(flow=Flow("udp", CLIENT, 41_000, VIP, 443)), []),
        (Selection(flow=Flow("tcp", CLIENT, 41_001, VIP, 443)), []),
        (Selection(states=LIVE, services=frozenset({3}), client=ip_network("192.0.2.7")), [10]),
    ],
)
def test_selection(slots: Slots, selection: Selection, expected: list[int]) -> None:
    assert found(slots, selection) == expected


@pytest.mark.parametrize("now", [NOW, 150, 50, 0])
def test_sessions_older_than_the_clock(now: int) -> None:
    """A node that has just booted gets them from others."""
    slots = Slots()
    slots.put(10, now=now, idle=28, created=now - 280)
    slots.put(20, now=now, created=now - 56)
    slots.put(30, now=now, client=CLIENT6, created=now)
    assert found(slots, Selection(created_by=now - 56)) == [10, 20]
    pages, _ = read_pages(slots.table, Selection(), 0, None, now)
    listed = {one["slot"]: (one["age_s"], one["idle_s"]) for page in pages for one in decode(json.loads(page), NAMES)}
    assert listed == {10: (301, 30), 20: (60, 0), 30: (0, 0)}


def test_parts_of_the_slots_are_found_apart(slots: Slots) -> None:
    assert found(slots, Selection(), start=20, count=20) == [20, 30]


def test_a_record_that_another_session_writes_meanwhile_is_left_out(slots: Slots) -> None:
    """A tag is read before its record and after it; here the slot is freed, or another session's, in between."""
    before, after = slots.map.tags.copy(), slots.map.tags
    after[10] ^= np.uint64(2 << 48)
    after[20] = 0
    after[50] ^= np.uint64(1 << 40)  # another state of the same session

    class Table:
        records = slots.table.records
        readings: Iterator[Any] = iter([before, after, after])
        tags = property(lambda self: next(self.readings))

    assert sorted(slot for one in find(cast(Any, Table()), Selection(), 0) for slot in one.slots) == [30, 40, 50]


def test_flow_is_looked_for_in_its_rows_only(slots: Slots) -> None:
    flow = Selection(flow=Flow("tcp", CLIENT, 41_000, VIP, 443))
    one = find_one(slots.table, flow, slots_of_rows(slots.table, [7, 5]))
    assert one is not None
    assert one.slots.tolist() == [40], "slots 40 to 47 are row 5"
    assert find_one(slots.table, flow, slots_of_rows(slots.table, [7, 3])) is None


def test_what_lbctl_gets(slots: Slots) -> None:
    slots.put(20, SessionState.EST, 28, TagFlag.SYNACK_SEEN | TagFlag.COPIED, IPv4Address("192.0.3.1"), service_slot=9)
    pages, count = read_pages(slots.table, Selection(states=(SessionState.EST,)), 0, None, NOW)
    assert count == 2
    four, six = (one for page in pages for one in decode(json.loads(page), NAMES))
    assert four == {
        "slot": 20, "row": 2, "state": "established", "idle_s": 30, "flags": ["synack_seen", "copied"],
        "client": "192.0.3.1:41000", "vip": "10.99.0.1:443", "nat": "10.255.0.0:32788", "backend": "10.9.0.11:8443",
        "service": "slot 9", "protocol": "tcp", "age_s": 107,
    }  # fmt: skip
    assert six == {
        "slot": 30, "row": 3, "state": "established", "idle_s": 0, "flags": [],
        "client": "[2001:db8::7]:41000", "vip": "[2001:db8:99::1]:443", "nat": "[fd00:ff::]:32798",
        "backend": "[fd00:9::11]:8443", "service": "web", "protocol": "tcp", "age_s": 107,
    }  # fmt: skip


@pytest.mark.parametrize("limit", [1, 3, 4])
def test_limit(slots: Slots, limit: int) -> None:
    pages, count = read_pages(slots.table, Selection(), 0, limit, NOW)
    assert count == limit
    assert len([one for page in pages for one in decode(json.loads(page), NAMES)]) == limit
