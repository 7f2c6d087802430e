# SPDX-License-Identifier: Apache-2.0
"""Which NAT rows move between which nodes when chains change. Pure; numpy over all rows.

A row moves to a node that becomes its owner, and to one that is new in its first two places: the second node is the one
that flows reach while the owner is silent. That node pulls the row; whoever holds sessions of the row pushes it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Chains = NDArray[np.uint32]
"""By row, the numbers of its nodes' addresses, owner first, 0 after the last; shape (rows, places)."""
Rows = NDArray[np.bool_]
"""Whether a row is meant, for each row."""

_FIRST_PLACES = 2


def pulled_rows(old: Chains | None, new: Chains, own: int) -> Rows:
    """Return the rows that this node must pull; without old chains those in whose first two places it is."""
    if old is None:
        return _named(_first(new), own)
    return _named(_receivers(old, new), own)


def asked_nodes(old: Chains | None, new: Chains, rows: Rows, own: int) -> set[int]:
    """Return the nodes of the old and the new chains of these rows, without this one."""
    named: set[int] = set()
    for chains in (new,) if old is None else (old, new):
        named |= set(np.unique(chains[rows]).tolist())
    return named - {0, own}


def pushed_rows(old: Chains, new: Chains, own: int) -> dict[int, Rows]:
    """Return the rows that move to each other node."""
    receivers = _receivers(old, new)
    return {node: _named(receivers, node) for node in _distinct(receivers) if node != own}


def owned(chains: Chains, own: int) -> Rows:
    """Return the rows that a node owns."""
    found: Rows = chains[:, 0] == own
    return found


def _named(nodes: Chains, node: int) -> Rows:
    """Return the rows that name a node."""
    found: Rows = (nodes == node).any(axis=1)
    return found


def _receivers(old: Chains, new: Chains) -> Chains:
    """Return the nodes to which each row moves, 0 for none; shape (rows, 2)."""
    before, after = _first(old), _first(new)
    moves = after != before
    moves[:, 1] &= after[:, 1] != before[:, 0]
    found: Chains = np.where(moves, after, 0)
    return found


def _first(chains: Chains) -> Chains:
    """Return the first two places, also of chains of one place."""
    missing = _FIRST_PLACES - chains.shape[1]
    return np.pad(chains, ((0, 0), (0, missing))) if missing > 0 else chains[:, :_FIRST_PLACES]


def _distinct(nodes: NDArray[Any]) -> Iterable[int]:
    found: list[int] = np.unique(nodes).tolist()
    return (node for node in found if node)
