# SPDX-License-Identifier: Apache-2.0
"""The rows in the kernel, and which of them are not what this node computes of its members now. Changes nothing.

GET /table/rows    ?service=NAME (without it, the names of all that have rows)
GET /table/diff    ?service=NAME (without it, all)

What `diff` compares is equal but for the moment between a change of members and the swap of tables. What follows a
chain, the places of nodes that claim the row, is not compared.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address
from typing import Any, Final

import numpy as np

from agent.control.http_server import Response, json_response
from agent.control.simulation import Cluster, chosen_services
from agent.errors import AgentError
from agent.forwarding.map_writer import MapWriter
from agent.forwarding.row_array import RowArray, chains_of
from agent.node.candidates import candidates
from agent.table import algorithm
from agent.table.claims import PLACES
from agent.table.node_rows import MAX_SHOWN, NodeRows, differing

_UNKNOWN: Final = 0xFFFF
"""The index of a member that is not in the node table yet."""


async def diff(cluster: Cluster, writer: MapWriter | None, query: Mapping[str, str]) -> Response:
    """Return the rows that differ, by service. Raises AgentError."""
    writer = _required(writer)
    chosen = chosen_services(cluster, query.get("service"))
    found = [await asyncio.to_thread(_service, cluster, writer, service) for service in chosen]
    return json_response(
        {"equal": not any(one["differing"] for one in found), "epoch": cluster.epoch.number, "services": found}
    )


async def rows(cluster: Cluster, writer: MapWriter | None, query: Mapping[str, str]) -> Response:
    """Return the kernel's rows of a service; without a name, which services have rows. Raises AgentError."""
    writer = _required(writer)
    chosen = chosen_services(cluster, name := query.get("service"))
    if name is None:
        return json_response({"services": chosen})
    return await asyncio.to_thread(lambda: Response(200, b"".join(_node_rows(cluster, writer, name).encoded())))


def _required(writer: MapWriter | None) -> MapWriter:
    if writer is None:
        raise AgentError("this node has no data path (xdp.mode is off): there are no rows in its kernel")
    return writer


def _node_rows(cluster: Cluster, writer: MapWriter, name: str) -> NodeRows:
    """Return the kernel's rows. An index that no node has, which should not be, is the address 0.0.x.y of its bytes."""
    addresses = np.arange(1 << 16, dtype=np.uint32)
    for address, index in writer.nodes.indexes.items():
        addresses[index] = int(address)
    epoch, key = cluster.epoch, cluster.services[name][0]
    return NodeRows(cluster.own, epoch.number, name, key, epoch.chain, addresses[_kernel(cluster, writer, name)])


def _kernel(cluster: Cluster, writer: MapWriter, name: str) -> RowArray:
    """Return the rows in the kernel, shape (rows, PLACES). Raises AgentError as long as there are none."""
    found = writer.kernel_rows(name, cluster.epoch.number)
    if found is None:
        raise AgentError(f"{name} has no rows of epoch {cluster.epoch.number:#x} in the kernel yet; see `lbctl status`")
    return found[: cluster.epoch.rows]


def _computed(cluster: Cluster, writer: MapWriter, name: str) -> RowArray:
    """Return the rows without claimants as the members make them. For a thread: it builds a table."""
    epoch, (key, hash_name) = cluster.epoch, cluster.services[name]
    table = algorithm.build(epoch.version, hash_name, candidates(key, cluster.members), epoch.rows, epoch.chain)
    return chains_of(table, [writer.nodes.indexes.get(address, _UNKNOWN) for address in table.members])


def _service(cluster: Cluster, writer: MapWriter, name: str) -> dict[str, Any]:
    kernel, computed = _kernel(cluster, writer, name), _computed(cluster, writer, name)
    chain, full = cluster.epoch.chain, kernel[:, PLACES - 1] != 0
    found = differing(kernel, computed, chain, full)
    addresses = {index: address for address, index in writer.nodes.indexes.items()}
    return {
        "name": name,
        "rows": cluster.epoch.rows,
        "differing": len(found),
        "owners_differing": int((kernel[found, 0] != computed[found, 0]).sum()),
        "shown": [
            {
                "row": row,
                "kernel": _names(kernel[row, :chain].tolist(), addresses),
                "computed": _names(computed[row, :chain].tolist(), addresses),
            }
            for row in found[:MAX_SHOWN].tolist()
        ],
    }


def _names(indexes: Sequence[int], addresses: Mapping[int, IPv4Address]) -> list[str]:
    return [str(addresses.get(index, "a member without an entry")) for index in indexes if index]
