# SPDX-License-Identifier: Apache-2.0
"""Which NAT rows move between which nodes when chains change. Pure; numpy over all rows.

A row moves to the node that becomes its owner. That node pulls the row; whoever holds sessions of the row pushes it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bpf.layout.nat import NAT_ROWS
from bpf.layout.session import WAYS

Chains = NDArray[np.uint32]
"""By row, the numbers of its nodes' addresses, owner first, 0 after the last; shape (rows, places)."""
Rows = NDArray[np.bool_]
"""Whether a row is meant, for each row."""


def rows_of(slots: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rows that slots are in; nat.py's `row_of_slot` of many."""
    return slots // WAYS % NAT_ROWS


def owned(chains: Chains, own: int) -> Rows:
    """Return the rows that a node owns."""
    found: Rows = chains[:, 0] == own
    return found


def pulled_rows(old: Chains | None, new: Chains, own: int) -> Rows:
    """Return the rows that this node must pull: without old chains all that it owns."""
    return owned(new, own) if old is None else owned(new, own) & ~owned(old, own)


def asked_nodes(old: Chains | None, new: Chains, rows: Rows, own: int) -> set[int]:
    """Return the nodes of the old and the new chains of these rows, without this one."""
    named: set[int] = set()
    for chains in (new,) if old is None else (old, new):
        named |= set(np.unique(chains[rows]).tolist())
    return named - {0, own}


def pushed_rows(old: Chains, new: Chains, own: int) -> dict[int, Rows]:
    """Return the rows that move to each other node."""
    receivers = np.where(new[:, 0] != old[:, 0], new[:, 0], 0)
    return {node: receivers == node for node in np.unique(receivers).tolist() if node not in (0, own)}
