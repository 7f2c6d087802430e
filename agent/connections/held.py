# SPDX-License-Identifier: Apache-2.0
"""How many connections this node holds, in each row of each service and epoch. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agent.config.service import ServiceConfig
from agent.connections.age import Ages
from agent.connections.diag_message import MAPPED_WORD, Sockets
from agent.connections.flow_hash_array import flow_hashes
from agent.connections.service_index import NO_SERVICE, ServiceIndex
from agent.table.epoch import Epoch


@dataclass(frozen=True, slots=True, eq=False)
class HeldRows:
    """The rows of one service, in one epoch, in which this node holds connections."""

    rows: NDArray[np.uint32]
    """Sorted, each once."""
    counts: NDArray[np.uint32]
    """The connections in each of them."""

    @property
    def total(self) -> int:
        """The connections in all of them."""
        return int(self.counts.sum())


NO_ROWS: Final = HeldRows(np.empty(0, np.uint32), np.empty(0, np.uint32))


class HeldCounter:
    """Counts the connections of services of one protocol. It keeps four bytes of each and epoch, and ten more."""

    def __init__(self, services: Sequence[ServiceConfig], epochs: Sequence[Epoch]) -> None:
        self._services, self._epochs = services, epochs
        self._index = ServiceIndex(services)
        self._places: dict[int, list[NDArray[np.uint32]]] = {epoch.number: [] for epoch in epochs}
        self._sockets: list[tuple[NDArray[np.uint16], NDArray[np.uint64]]] = []

    def add(self, sockets: Sockets) -> None:
        """Count these sockets."""
        found = self._index.find(sockets)
        for chosen, words in _by_family(sockets, found):
            flows, of_flow = sockets[chosen], found[chosen]
            ports = flows["remote_port"] | flows["local_port"].astype(np.uint32) << np.uint32(16)
            ends = flows["remote"][:, words], flows["local"][:, words], ports & self._index.port_masks[of_flow]
            for epoch in self._epochs:
                rows = flow_hashes(epoch.key, *ends) & np.uint32(epoch.rows - 1)
                self._places[epoch.number].append(of_flow.astype(np.uint32) * np.uint32(epoch.rows) + rows)
            self._sockets.append((of_flow.astype(np.uint16), flows["cookie"].copy()))  # no view: that keeps all

    def rows(self) -> dict[str, dict[int, HeldRows]]:
        """Return the rows with connections by service (`service_key`) and epoch number, services without one absent."""
        held: dict[str, dict[int, HeldRows]] = {}
        for epoch in self._epochs:
            for service, of_service in _split(self._places[epoch.number], epoch.rows).items():
                held.setdefault(self._services[service].key, {})[epoch.number] = of_service
        return held

    def oldest(self, ages: Ages, now: int) -> dict[str, int]:
        """Return since when the oldest connection of each service is known (seconds, as `now`), by `service_key`."""
        services = np.concatenate([np.empty(0, np.uint16), *(services for services, _ in self._sockets)])
        cookies = np.concatenate([np.empty(0, np.uint64), *(cookies for _, cookies in self._sockets)])
        self._sockets.clear()
        order = np.argsort(cookies)
        cookies, services = cookies[order], services[order]
        del order
        since = ages.update(cookies, now)
        return {self._services[one].key: int(since[services == one].min()) for one in np.unique(services).tolist()}


def _by_family(sockets: Sockets, services: NDArray[np.int64]) -> list[tuple[NDArray[np.bool_], slice]]:
    """Return which sockets of services are of IPv4 and of IPv6, and which words of their addresses packets have."""
    local, known = sockets["local"], services != NO_SERVICE
    ipv4 = (local[:, 2] == MAPPED_WORD) & (local[:, 0] == 0) & (local[:, 1] == 0)
    return [(known & ipv4, slice(3, 4)), (known & ~ipv4, slice(0, 4))]


def _split(places: list[NDArray[np.uint32]], row_count: int) -> dict[int, HeldRows]:
    """Return the rows of each service. A place is `service * row_count + row`, once for each connection."""
    distinct, counts = np.unique(np.concatenate(places or [np.empty(0, np.uint32)]), return_counts=True)
    services, first = np.unique(distinct // np.uint32(row_count), return_index=True)
    bounds = pairwise([*first.tolist(), len(distinct)])
    return {
        service: HeldRows(distinct[start:end] % np.uint32(row_count), counts[start:end].astype(np.uint32))
        for service, (start, end) in zip(services.tolist(), bounds, strict=True)
    }
