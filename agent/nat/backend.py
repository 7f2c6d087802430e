# SPDX-License-Identifier: Apache-2.0
"""The backends of the configuration, and the numbers that name them among nodes. Pure."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping
from typing import NamedTuple

from agent.address import Address, endpoint
from agent.channel.nat_state import ID_BITS
from agent.config.schema import Config


class BackendKey(NamedTuple):
    """A backend of one service, by the service's key: with two services it is checked, drained and counted for each."""

    service: str
    address: Address
    port: int

    def __str__(self) -> str:
        return endpoint(self.address, self.port)

    @property
    def name(self) -> bytes:
        """The bytes that name it in a choice table, the same on every node."""
        return f"{self.service} {self}".encode()

    @property
    def number(self) -> int:
        """Its number in what nodes publish. Two backends may have the same (`ambiguous`)."""
        return int.from_bytes(hashlib.sha256(b"anylb backend " + self.name).digest()[:4]) >> (32 - ID_BITS)


def backends_of(config: Config) -> dict[BackendKey, int]:
    """Return the weights of all backends, in the order of the file."""
    return {
        BackendKey(service.key, one.address, one.port): one.weight
        for _, service in config.nat_services
        for one in service.backends
    }


def ambiguous(numbers: Mapping[BackendKey, int]) -> Collection[int]:
    """Return the numbers that several of these backends have: what another node publishes of one names none."""
    return {number for number, count in Counter(numbers.values()).items() if count > 1}
