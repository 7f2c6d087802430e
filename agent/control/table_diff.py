# SPDX-License-Identifier: Apache-2.0
"""Which rows in the kernel are not what this node computes of its members now. Reads maps, and changes nothing.

GET /table/diff    ?service=NAME (without it, all)

They are equal but for the moment between a change of members and the swap of tables. What follows a chain, the places
of nodes that claim the row, is not compared.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agent.control.http_server import Response, json_response
from agent.control.simulation import Cluster
from agent.errors import AgentError
from agent.forwarding.map_writer import MapWriter
from agent.forwarding.row_array import RowArray, chains_of
from agent.node.candidates import candidates
from agent.table import algorithm
from agent.table.claims import FIRST, PLACES

MAX_SHOWN: Final = 8
"""Rows of a service that are shown with their nodes; all are counted."""
_UNKNOWN: Final = 0xFFFF
"""The index of a member that is not in the node table yet."""


@dataclass(frozen=True, slots=True)
class Chains:
    """The chains of a service's rows as nodes' indexes, in the kernel and as computed, each of shape (rows, chain)."""

    kernel: RowArray
    computed: RowArray
    full: NDArray[np.bool_]
    """Rows whose last places claimants may have taken: there only the places before `FIRST` are sure."""


async def diff(cluster: Cluster, writer: MapWriter | None, query: Mapping[str, str]) -> Response:
    """Return the rows that differ, by service. Raises AgentError."""
    if writer is None:
        raise AgentError("this node has no data path (xdp.mode is off): there are no rows in its kernel")
    name = query.get("service")
    chosen = [service for service in cluster.services if name in (None, service)]
    if not chosen:
        raise AgentError(f"{name} is not a service of this node with rows; it has {', '.join(cluster.services)}")
    found = [await asyncio.to_thread(_service, cluster, writer, service) for service in chosen]
    return json_response(
        {"equal": not any(one["differing"] for one in found), "epoch": cluster.epoch.number, "services": found}
    )


def _service(cluster: Cluster, writer: MapWriter, name: str) -> dict[str, Any]:
    chains = _chains(cluster, writer, name)
    if chains is None:
        raise AgentError(f"{name} has no rows of epoch {cluster.epoch.number:#x} in the kernel yet; see `lbctl status`")
    rows = differing(chains)
    addresses = {index: address for address, index in writer.nodes.indexes.items()}
    return {
        "name": name,
        "rows": cluster.epoch.rows,
        "differing": len(rows),
        "owners_differing": int((chains.kernel[rows, 0] != chains.computed[rows, 0]).sum()),
        "shown": [
            {
                "row": row,
                "kernel": _names(chains.kernel[row].tolist(), addresses),
                "computed": _names(chains.computed[row].tolist(), addresses),
            }
            for row in rows[:MAX_SHOWN].tolist()
        ],
    }


def _chains(cluster: Cluster, writer: MapWriter, name: str) -> Chains | None:
    """Return the chains of a service; None as long as the kernel has none. For a thread: it builds a table."""
    epoch, (key, hash_name) = cluster.epoch, cluster.services[name]
    kernel = writer.kernel_rows(name, epoch.number)
    if kernel is None:
        return None
    table = algorithm.build(epoch.version, hash_name, candidates(key, cluster.members), epoch.rows, epoch.chain)
    indexes = [writer.nodes.indexes.get(address, _UNKNOWN) for address in table.members]
    kernel = kernel[: epoch.rows]
    full = kernel[:, PLACES - 1] != 0
    return Chains(kernel[:, : epoch.chain], chains_of(table, indexes)[:, : epoch.chain], full)


def differing(chains: Chains) -> NDArray[np.intp]:
    """Return the numbers of the rows whose chains differ."""
    differs = chains.kernel != chains.computed
    differs[chains.full, FIRST:] = False
    return np.flatnonzero(differs.any(axis=1))


def _names(indexes: Sequence[int], addresses: Mapping[int, IPv4Address]) -> list[str]:
    return [str(addresses.get(index, "a member without an entry")) for index in indexes if index]
