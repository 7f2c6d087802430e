# SPDX-License-Identifier: Apache-2.0
"""The service of each of many sockets: by VIP and port, else by VIP for any port, as the program finds it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agent.address import Address
from agent.config.service import AFFINITIES, ServiceConfig
from agent.connections.diag_message import MAPPED_WORD, TIME_WAIT, Sockets
from agent.connections.flow_hash_array import HASHED_PORTS
from bpf.layout.address import address_words

NO_SERVICE: Final = -1


class ServiceIndex:
    """Services of one protocol, found by the local ends of sockets. A service's index is its place in the sequence."""

    def __init__(self, services: Sequence[ServiceConfig]) -> None:
        self.port_masks = np.array([HASHED_PORTS[AFFINITIES[s.affinity]] for s in services], np.uint32)
        """Which bits of the two ports each service's flow hash covers."""
        vips = {service.vip: _one_number(_words(service.vip)[None])[0] for service in services}
        order = sorted(vips, key=lambda vip: vips[vip])
        self._vips = np.array([vips[vip] for vip in order], np.uint64)
        self._words = np.array([_words(vip) for vip in order], np.uint32)
        ends = [order.index(service.vip) << 16 | _as_loaded(service.port_number) for service in services]
        self._places = np.argsort(np.array(ends, np.int64))
        self._ends = np.array(ends, np.int64)[self._places]

    def find(self, sockets: Sockets) -> NDArray[np.int64]:
        """Return the index of the service that each connection belongs to, NO_SERVICE for the others.

        What has both ends on this node (a health check) never passes the program, and TIME-WAIT is no connection.
        """
        if not len(self._vips):
            return np.full(len(sockets), NO_SERVICE)
        local, remote = sockets["local"], sockets["remote"]
        vip = np.minimum(np.searchsorted(self._vips, _one_number(local)), len(self._vips) - 1)
        known = _same(self._words[vip], local) & ~_same(local, remote) & (sockets["state"] != TIME_WAIT)
        by_port = self._find_ends(vip << 16 | sockets["local_port"])
        found = np.where(by_port != NO_SERVICE, by_port, self._find_ends(vip << 16))
        return np.where(known, found, NO_SERVICE)

    def _find_ends(self, ends: NDArray[np.int64]) -> NDArray[np.int64]:
        at = np.minimum(np.searchsorted(self._ends, ends), len(self._ends) - 1)
        return np.where(self._ends[at] == ends, self._places[at], NO_SERVICE)


def _as_loaded(port: int) -> int:
    """Return a port as the little-endian program loads it."""
    return int.from_bytes(port.to_bytes(2, "big"), "little")


def _words(vip: Address) -> NDArray[np.uint32]:
    words = address_words(vip) if vip.version == 6 else (0, 0, MAPPED_WORD, *address_words(vip))
    return np.array(words, np.uint32)


def _one_number(addresses: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """Return one number for each address, to search by. VIPs that share one would have to be chosen for it."""
    high, low = (addresses[:, i].astype(np.uint64) << np.uint64(32) | addresses[:, i + 1] for i in (0, 2))
    return high * np.uint64(0x9E37_79B9_7F4A_7C15) + low


def _same(some: NDArray[np.uint32], others: NDArray[np.uint32]) -> NDArray[np.bool_]:
    same: NDArray[np.bool_] = some[:, 3] == others[:, 3]
    for word in range(3):
        same &= some[:, word] == others[:, word]
    return same
