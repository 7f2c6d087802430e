# SPDX-License-Identifier: Apache-2.0
"""Session slots in ordinary memory: as the program fills them, without a program."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_network
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from agent.address import Address
from agent.sessions.session_table import SessionTable
from bpf.layout.nat import NatConf, endpoint
from bpf.layout.nat_backend import BACKENDS
from bpf.layout.session import Session, SessionState, Tag, TagFlag
from bpf.maps.nat_maps import NatMaps
from bpf.maps.session_dtype import SESSION4_DTYPE, SESSION6_DTYPE
from bpf.maps.session_map import SessionMap

SLOTS = 1 << 16
NOW = 1_000_000
NO_FLAGS = TagFlag(0)
POOLS = {4: ip_network("10.255.0.0/31"), 6: ip_network("fd00:ff::/127")}
CLIENT, VIP, BACKEND = IPv4Address("192.0.2.7"), IPv4Address("10.99.0.1"), IPv4Address("10.9.0.11")
VIP6, BACKEND6 = IPv6Address("2001:db8:99::1"), IPv6Address("fd00:9::11")


class Slots:
    """`SLOTS` free slots in `table`, and the backends' `loads`."""

    def __init__(self, slots: int = SLOTS) -> None:
        self.loads = np.zeros((BACKENDS, 2), np.uint64)
        self.map = SessionMap(
            np.zeros(slots, np.uint64), np.zeros(slots, SESSION4_DTYPE), np.zeros(slots, SESSION6_DTYPE), []
        )
        self.conf = NatConf(slots, 1, POOLS[4])
        """What the program is given; new sessions may be given fewer slots."""
        nat = SimpleNamespace(loads=self.loads, conf=lambda: self.conf)
        self.table = SessionTable(self.map, cast(NatMaps, nat))

    def put(
        self, slot: int, state: SessionState = SessionState.EST, idle: int = 0, flags: TagFlag = NO_FLAGS,
        client: Address = CLIENT, now: int = NOW, **fields: Any,
    ) -> int:  # fmt: skip
        """Put a session in a slot, as the program does; return its tag."""
        four = client.version == 4
        nat, nat_port = endpoint(POOLS[client.version], slot)
        session = Session(
            6, client, 41_000, VIP if four else VIP6, 443, BACKEND if four else BACKEND6, 8443, nat, nat_port,
            backend_index=1, service_slot=3, created=now - 100,
        )  # fmt: skip
        session = replace(session, **fields)
        session = replace(session, created=session.created & 0xFFFF_FFFF)
        self.map.write(slot, session)
        flags |= (NO_FLAGS if four else TagFlag.IPV6) | (TagFlag.UDP if session.protocol == 17 else NO_FLAGS)
        tag = Tag((slot * 7919 & 0xFFFF) | 1, state, flags, now - idle & 0xFFFF_FFFF).pack()
        self.map.tags[slot] = tag
        if state in (SessionState.SYN, SessionState.EST, SessionState.FIN):
            self.loads[session.backend_index] += np.array([1, 1], np.uint64)
        return tag
