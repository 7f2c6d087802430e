# SPDX-License-Identifier: Apache-2.0
"""The rows that the kernel of one node has of one service: as JSON, and beside those of another node. Pure.

A row is compared by its chain. Whoever comes after it only claims the row, and changes all the time: such differences
are counted, and are none. Where claimants fill the row they may have taken the chain's last places too, so only its
first `FIRST` are compared.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agent.table.claims import FIRST, PLACES
from bpf.layout.limits import ROWS_MAX

MAX_SHOWN: Final = 8
"""Rows of a service that are shown with their nodes, and pairs of owners; all are counted."""
_PART: Final = 1024
"""Rows that are encoded at once."""


@dataclass(frozen=True, slots=True, eq=False)
class NodeRows:
    """The rows of a service on a node, by the nodes' addresses as numbers."""

    node: IPv4Address
    epoch: int
    """That of new connections. It has the number of rows, and what decides a flow's row."""
    name: str
    key: str
    """As 192.0.2.10:443/tcp: two nodes may have another name for it."""
    chain: int
    places: NDArray[np.uint32]
    """Shape (rows, PLACES): owner first, 0 after the last."""

    def encoded(self) -> Iterator[bytes]:
        """Yield it as JSON, in parts, each made in about 1 ms: a thread that makes them leaves time for others.

        Each row is indexes into `nodes`, owner first, -1 for a place without a node.
        """
        parts = [self.places[first : first + _PART] for first in range(0, len(self.places), _PART)]
        nodes = np.unique(np.concatenate([np.unique(part[part != 0]) for part in parts]))
        head = {
            "node": str(self.node),
            "epoch": self.epoch,
            "name": self.name,
            "key": self.key,
            "chain": self.chain,
            "nodes": [str(IPv4Address(node)) for node in nodes.tolist()],
        }
        yield json.dumps(head).removesuffix("}").encode() + b', "rows": ['
        for number, part in enumerate(parts):
            yield (b", " if number else b"") + json.dumps(_lists(part, nodes))[1:-1].encode()
        yield b"]}"


def _lists(places: NDArray[np.uint32], nodes: NDArray[np.uint32]) -> list[list[int]]:
    """Return each of these rows as indexes into the sorted `nodes`, up to its last node."""
    indexes = np.searchsorted(nodes, places).astype(np.int64)
    indexes[places == 0] = -1
    lengths = PLACES - (places[:, ::-1] != 0).argmax(axis=1)
    lengths[~places.any(axis=1)] = 0
    return [row[:length] for row, length in zip(indexes.tolist(), lengths.tolist(), strict=True)]


def from_json(value: Any) -> NodeRows:
    """Return the rows of such a JSON value. Raises ValueError with what is wrong."""
    if not isinstance(value, dict):
        raise ValueError("is not an object")
    try:
        node, name, key = texts = [value[field] for field in ("node", "name", "key")]
        epoch, chain = numbers = [value[field] for field in ("epoch", "chain")]
        nodes, rows = value["nodes"], value["rows"]
    except KeyError as error:
        raise ValueError(f"lacks {error}") from None
    if not all(isinstance(text, str) for text in texts) or not all(type(number) is int for number in numbers):
        raise ValueError("node, name and key are texts, epoch and chain whole numbers")
    if not 1 <= chain <= PLACES:
        raise ValueError(f"chain: {chain} is not in 1-{PLACES}")
    if not 0 <= epoch < 1 << 32:
        raise ValueError("epoch: is not a number of 32 bits")
    if not isinstance(nodes, list) or not all(isinstance(node, str) for node in nodes):
        raise ValueError("nodes are not a list of addresses")
    addresses = np.array([*(int(IPv4Address(node)) for node in nodes), 0], np.uint32)
    return NodeRows(IPv4Address(node), epoch, name, key, chain, addresses[_indexes(rows, len(nodes))])


def _indexes(rows: Any, nodes: int) -> NDArray[np.int64]:
    """Return rows as an array of PLACES indexes each, filled up with -1. Raises ValueError."""
    if not isinstance(rows, list) or not 0 < len(rows) <= ROWS_MAX:
        raise ValueError(f"rows are not a list of 1 to {ROWS_MAX:,}")
    if not all(isinstance(row, list) and len(row) <= PLACES for row in rows):
        raise ValueError(f"a row is not a list of at most {PLACES} nodes")
    try:
        indexes = np.array([row + [-1] * (PLACES - len(row)) for row in rows])
    except ValueError:  # there are lists in a row
        indexes = np.array([""])
    if indexes.dtype.kind != "i" or indexes.min() < -1 or indexes.max() >= nodes:
        raise ValueError(f"a place is neither -1 nor the index of one of the {nodes} nodes")
    return indexes.astype(np.int64)


def differing(one: NDArray[Any], other: NDArray[Any], chain: int, full: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Return the numbers of the rows whose chains differ. `full`: those that claimants fill."""
    differs = one[:, :chain] != other[:, :chain]
    differs[full, FIRST:] = False
    return np.flatnonzero(differs.any(axis=1))


def compare(here: NodeRows, there: NodeRows) -> dict[str, Any]:
    """Return how the rows of two nodes differ, for JSON. Raises ValueError if they cannot be compared."""
    if here.epoch != there.epoch:
        raise ValueError(f"{here.node} uses epoch {here.epoch:#x}, {there.node} {there.epoch:#x}")
    if (len(here.places), here.chain) != (len(there.places), there.chain):
        shapes = [f"{one.node} has {len(one.places):,} rows with chains of {one.chain}" for one in (here, there)]
        raise ValueError(" and ".join(shapes))
    full = (here.places[:, -1] != 0) | (there.places[:, -1] != 0)
    rows = differing(here.places, there.places, here.chain, full)
    owners = Counter(zip(here.places[rows, 0].tolist(), there.places[rows, 0].tolist(), strict=True))
    moved = {pair: count for pair, count in owners.items() if pair[0] != pair[1]}
    claimed = (here.places != there.places).any(axis=1)
    claimed[rows] = False
    return {
        "rows": len(here.places),
        "differing": len(rows),
        "owners_differing": sum(moved.values()),
        "claimants_differing": int(claimed.sum()),
        "only_here": _only(here, there),
        "only_there": _only(there, here),
        "owners": _owners(moved),
        "shown": [
            {"row": row, "here": _names(here.places[row]), "there": _names(there.places[row])}
            for row in rows[:MAX_SHOWN].tolist()
        ],
    }


def _owners(moved: Mapping[tuple[int, int], int]) -> list[dict[str, Any]]:
    """Return the commonest pairs of owners first."""
    most = sorted(moved.items(), key=lambda one: (-one[1], one[0]))[:MAX_SHOWN]
    return [{"here": _name(here), "there": _name(there), "rows": count} for (here, there), count in most]


def _only(one: NodeRows, other: NodeRows) -> list[str]:
    """Return the nodes that have places in chains of the one, and in none of the other."""
    found = np.setdiff1d(one.places[:, : one.chain], other.places[:, : other.chain])
    return [str(IPv4Address(node)) for node in found.tolist() if node]


def _name(node: int) -> str | None:
    return str(IPv4Address(node)) if node else None


def _names(places: NDArray[np.uint32]) -> list[str]:
    return [str(IPv4Address(node)) for node in places.tolist() if node]
