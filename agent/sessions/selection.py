# SPDX-License-Identifier: Apache-2.0
"""Which sessions a request is about. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import ip_network
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from agent.address import Address, Network
from agent.model import Flow
from agent.sessions.tag_array import Mask
from bpf.layout.nat import bucket_bits
from bpf.layout.service import Protocol
from bpf.layout.session import SessionState

Records = npt.NDArray[Any]
"""Structured, of one IP version: SESSION4_DTYPE or SESSION6_DTYPE (bpf/maps/session_dtype.py)."""

USED: Final = (SessionState.SYN, SessionState.EST, SessionState.FIN, SessionState.CLOSED)


@dataclass(frozen=True, slots=True)
class Selection:
    """The sessions that match all fields; None matches any."""

    states: tuple[SessionState, ...] = USED
    services: frozenset[int] | None = None
    """Slots of services."""
    client: Network | None = None
    backend: Address | None = None
    backend_port: int | None = None
    pool: Network | None = None
    """The prefix of their NAT addresses."""
    began_among: frozenset[int] | None = None
    """What `nat.sessions` was when they began."""
    flow: Flow | None = None
    """From a client to a VIP: one session at most."""
    created_by: int | None = None
    """A tick: those that began until then."""

    @property
    def is_of_any_record(self) -> bool:
        """Return whether only states matter."""
        return replace(self, states=USED) == Selection()

    def matches(self, records: Records, version: int) -> Mask:
        """Return which of these records of an IP version are meant, whatever their states."""
        mask = np.ones(len(records), np.bool_)
        if self.services is not None:
            mask &= np.isin(records["service_slot"], list(self.services))
        if self.client is not None:
            mask &= in_network(records["client"], self.client, version)
        if self.pool is not None:
            mask &= in_network(records["nat"], self.pool, version)
        if self.began_among is not None:
            mask &= np.isin(records["bucket_bits"], [bucket_bits(number) for number in self.began_among])
        if self.backend is not None:
            mask &= _equal(records["backend"], self.backend, version)
        if self.backend_port is not None:
            mask &= records["backend_port"] == self.backend_port
        if self.created_by is not None:
            # Ticks wrap: a session that another node gave this one may be older than this one's clock.
            since = (np.uint32(self.created_by & 0xFFFF_FFFF) - records["created"]).astype(np.int32)
            mask &= since >= 0
        if self.flow is not None:
            mask &= _equal(records["client"], self.flow.client, version) & _equal(
                records["vip"], self.flow.vip, version
            )
            mask &= records["client_port"] == self.flow.client_port
            mask &= records["vip_port"] == self.flow.vip_port
            mask &= records["protocol"] == Protocol[self.flow.protocol.upper()]
        return mask


def in_network(addresses: Records, network: Network, version: int) -> Mask:
    """Return which addresses, as records of an IP version have them, are in a network."""
    if network.version != version:
        return np.zeros(len(addresses), np.bool_)
    wanted, mask = (np.frombuffer(one.packed, ">u4") for one in (network.network_address, network.netmask))
    words = np.ascontiguousarray(addresses).view(">u4").reshape(-1, len(mask))
    equal: Mask = np.equal(words & mask, wanted).all(axis=1)
    return equal


def _equal(addresses: Records, address: Address, version: int) -> Mask:
    return in_network(addresses, ip_network(address), version)
