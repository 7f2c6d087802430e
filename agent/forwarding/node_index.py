# SPDX-License-Identifier: Apache-2.0
"""Node indexes: which entry of the kernel's node array each node's address has. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address


def node_indexes(
    taken: Mapping[IPv4Address, int], wanted: Iterable[IPv4Address], size: int
) -> dict[IPv4Address, int] | None:
    """Return the index of each address in the kernel's node array of `size` entries; None when the array is full.

    An address that has an index keeps it, so that no row changes its meaning while it is in use. Index 0 is no node.
    """
    indexes = {address: taken[address] for address in wanted if address in taken}
    # An index that becomes free now is not assigned in the same step: the old rows still name it.
    used = set(taken.values())
    free = (index for index in range(1, size) if index not in used)
    for address in sorted(set(wanted) - set(taken)):
        index = next(free, None)
        if index is None:
            return None
        indexes[address] = index
    return indexes
