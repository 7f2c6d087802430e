# SPDX-License-Identifier: Apache-2.0
"""Who owns the rows of each service, and what the removal of nodes would change. Builds tables and changes nothing.

GET /table    ?service=NAME (without it, all)   &remove=ADDRESS,ADDRESS
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

import numpy as np

from agent.connections.held import NO_ROWS
from agent.connections.monitor import Held
from agent.control.http_server import Response, json_response
from agent.errors import AgentError
from agent.model import Candidate, Member
from agent.node.candidates import candidates
from agent.table import algorithm
from agent.table.epoch import Epoch
from agent.table.table import Table


@dataclass(frozen=True, slots=True)
class Cluster:
    """What decides rows, as this node sees it."""

    own: IPv4Address
    services: Mapping[str, tuple[str, str]]
    """Those that have rows, which services of mode nat have not, by name: the key in shares, and the hash."""
    members: Sequence[Member]
    epoch: Epoch
    """That of new flows."""
    held: Held | None
    """The last count of this node's connections."""


async def simulate(cluster: Cluster, query: Mapping[str, str]) -> Response:
    """Return the rows of each member now, and with `remove` after it. Raises AgentError."""
    chosen, removed = chosen_services(cluster, query.get("service")), _addresses(cluster, query.get("remove", ""))
    found = [await asyncio.to_thread(_service, cluster, service, removed) for service in chosen]
    return json_response({"removed": [str(address) for address in sorted(removed)], "services": found})


def chosen_services(cluster: Cluster, name: str | None) -> list[str]:
    """Return the service of a request, all without a name. Raises AgentError."""
    if not cluster.services:
        raise AgentError(
            "no service of this node has rows: all have mode nat; `lbctl session list` shows their sessions"
        )
    if name is None:
        return list(cluster.services)
    if name not in cluster.services:
        raise AgentError(f"{name} is not a service of this node with rows; it has {', '.join(cluster.services)}")
    return [name]


def _addresses(cluster: Cluster, text: str) -> frozenset[IPv4Address]:
    known = {str(member.address): member.address for member in cluster.members}
    names = [name for name in text.split(",") if name]
    for name in names:
        if name not in known:
            raise AgentError(f"{name} is no member; members are {', '.join(known)}")
    return frozenset(known[name] for name in names)


def _service(cluster: Cluster, name: str, removed: Collection[IPv4Address]) -> dict[str, Any]:
    key, hash_name = cluster.services[name]
    now = candidates(key, cluster.members)
    before = _table(cluster.epoch, hash_name, now)
    after = _table(cluster.epoch, hash_name, tuple(one for one in now if one.address not in removed))
    owned, owned_after = _owned(before), _owned(after)
    return {
        "name": name,
        "rows": cluster.epoch.rows,
        "digest": before.owners_digest,
        "members": [
            {"address": str(address), "rows": owned[address], "rows_after": owned_after.get(address, 0)}
            for address in before.members
        ],
        "moved": moved(before, after),
        "at_risk_here": None if cluster.held is None else at_risk(cluster.own, after, cluster.held, key, cluster.epoch),
    }


def _table(epoch: Epoch, hash_name: str, members: tuple[Candidate, ...]) -> Table:
    return algorithm.build(epoch.version, hash_name, members, epoch.rows, epoch.chain)


def _first(table: Table) -> Any:
    """Return the owner's address of each row as a number, 0 for none."""
    return np.array([*map(int, table.members), 0], np.uint32)[table.places[:, 0]]


def _owned(table: Table) -> dict[IPv4Address, int]:
    counts = np.bincount(table.places[:, 0] + 1, minlength=len(table.members) + 1)[1:]
    return dict(zip(table.members, counts.tolist(), strict=True))


def moved(before: Table, after: Table) -> int:
    """Return in how many rows new connections would have another owner."""
    return int((_first(before) != _first(after)).sum())


def at_risk(own: IPv4Address, after: Table, held: Held, key: str, epoch: Epoch) -> int:
    """Return how many connections of this node the others would not find by the chains: without claims they break."""
    rows = held.rows.get(key, {}).get(epoch.number, NO_ROWS)
    if own not in after.members:
        return int(rows.counts.sum())
    found = (after.places[rows.rows] == after.members.index(own)).any(axis=1)
    return int(rows.counts[~found].sum())
