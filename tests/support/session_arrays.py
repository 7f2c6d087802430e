# SPDX-License-Identifier: Apache-2.0
"""The maps of NAT sessions as plain arrays, and the store over them, for tests without a kernel."""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

import numpy as np

from agent.handover.item import Origin
from agent.handover.record import backend_key, service_key
from agent.handover.session_store import SessionStore
from bpf.layout.nat import bucket_bits, endpoint
from bpf.layout.nat_backend import BACKENDS
from bpf.layout.session import Session, SessionState, Tag, TagFlag
from bpf.maps.session_dtype import SESSION4_DTYPE, SESSION6_DTYPE
from bpf.maps.session_map import SessionMap

SESSIONS: Final = 1 << 16
POOLS: Final = {4: IPv4Network("10.255.0.0/28"), 6: IPv6Network("fd00:ff::/124")}
SERVICE, BACKEND = 3, 9
"""The slot and the index that the records of session_records.py get here."""
VIP, BACKEND_ADDRESS = IPv4Address("10.1.0.200"), IPv4Address("10.1.0.100")


class Arrays:
    """The sessions of one node; `backend` is the index of the only backend that it knows."""

    def __init__(self, backend: int = BACKEND, sessions: int = SESSIONS) -> None:
        self._backend = backend
        self.tags = np.zeros(sessions, np.uint64)
        self.map = SessionMap(self.tags, np.zeros(sessions, SESSION4_DTYPE), np.zeros(sessions, SESSION6_DTYPE), [])
        self.loads = np.zeros((BACKENDS, 2), np.uint64)
        self.serve([sessions])

    def serve(self, numbers: Sequence[int]) -> None:
        """Have the next agent over these maps, which serves these numbers of sessions."""
        origins = {version: [Origin(pool, number) for number in numbers] for version, pool in POOLS.items()}
        self.store = SessionStore(self.map, origins, self.loads)
        nets = ("10.1.0.", "fd01::")
        self.store.backends = {backend_key(ip_address(f"{net}100"), 8443): self._backend for net in nets}
        self.store.services = {service_key(ip_address(f"{net}200"), 443, 6): SERVICE for net in nets}

    def open(self, slot: int, fingerprint: int, client: IPv4Address, sessions: int, tick: int) -> None:
        """Make an established session of a client in a free slot, as the program does while it serves this number of
        sessions. Through the store, which takes thousands at once, one takes 20 times as long."""
        nat, nat_port = endpoint(POOLS[4], slot)
        session = Session(
            6, client, 40_001, VIP, 443, BACKEND_ADDRESS, 8443, nat, nat_port,
            backend_index=self._backend, service_slot=SERVICE, created=tick, bucket_bits=bucket_bits(sessions),
        )  # fmt: skip
        self.map.write(slot, session)
        self.loads[self._backend, 0] += np.uint64(1)
        self.tags[slot] = Tag(fingerprint, SessionState.EST, TagFlag(0), tick).pack()

    def state(self, slot: int) -> SessionState:
        return SessionState(int(self.tags[slot]) >> 40 & 0xFF)

    def client(self, slot: int, version: int = 4) -> IPv4Address | IPv6Address:
        return self.map.read(slot, version == 6).client

    @property
    def active(self) -> dict[int, int]:
        """The live sessions by backend, without zeros."""
        return {int(index): int(self.loads[index, 0]) for index in np.flatnonzero(self.loads[:, 0])}
