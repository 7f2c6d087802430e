# SPDX-License-Identifier: Apache-2.0
"""The table of a service: the members of each row's chain, in order. A value; rendezvous.py and maglev.py build it.

Owns its shape, its digest, and what both hashes share: who may own rows, and how a chain is composed. Pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address

import numpy as np
from numpy.typing import NDArray

from agent.model import Candidate, State
from agent.table.ranking import Ranking

Places = NDArray[np.int16]
RowNumbers = NDArray[np.uint32]
"""The numbers of rows, ascending."""


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of one service: `places[r]` are indexes into `members`, owner first, -1 after the chain's
    end.

    `ranking` and `effective` are the sources of a rendezvous table, by nominal and by effective weight: the next table
    is built faster from them.
    """

    members: tuple[IPv4Address, ...]
    places: Places
    ranking: Ranking | None = field(default=None, repr=False, compare=False)
    effective: Ranking | None = field(default=None, repr=False, compare=False)
    lost: Mapping[IPv4Address, RowNumbers] = field(default_factory=dict, repr=False, compare=False)
    """The rows in which each lost member would have a place. It may return with the connections that it has there: it
    comes after the chain, like a node that claims them."""

    @property
    def width(self) -> int:
        """How many places of each row have a member: what comes after the chain comes at once."""
        return min(int(self.places.shape[1]), len(self.members) - len(self.lost))

    @property
    def digest(self) -> str:
        """16 hex digits over the table in terms of addresses: equal on two nodes if and only if their tables are."""
        hashed = hashlib.sha256(b"".join(address.packed for address in self.members))
        hashed.update(self.places.astype("<i2").tobytes())
        return hashed.hexdigest()[:16]

    @property
    def owners_digest(self) -> str:
        """16 hex digits over the owner of each row: equal on two nodes that would give every new flow to the same
        node."""
        return hashlib.sha256(_addresses(self.members)[self.places[:, 0]].tobytes()).hexdigest()[:16]


def _addresses(members: Sequence[IPv4Address]) -> NDArray[np.uint32]:
    """Return the addresses as numbers; the last one, for place -1, is 0."""
    return np.array([*map(int, members), 0], ">u4")


def nominal(candidates: Iterable[Candidate]) -> dict[bytes, int]:
    """Return each member's nominal weight, by packed address."""
    return {candidate.address.packed: candidate.weight for candidate in candidates}


def owners(candidates: Sequence[Candidate]) -> dict[bytes, int]:
    """Return the members that may own rows, by packed address, with their weights.

    They are those that are up, by effective weight. When none is healthy, all that are up, by nominal weight: when
    every check fails at once the checks are as likely at fault as the servers, and if the servers are, clients get an
    answer rather than silence. When none is up, all that are not lost; when all are lost, all of them.
    """
    up = [c for c in candidates if c.state is State.UP and c.weight > 0]
    chosen = {c.address.packed: c.effective for c in up if c.effective > 0}
    return chosen or nominal(up) or nominal(c for c in candidates if c.state is not State.LOST) or nominal(candidates)


def chains(first: Places, ranked: Places, length: int) -> Places:
    """Return chains of `length` places, shape (rows, length): each row's owner, then the others as they are ranked.

    `first` has shape (rows,), `ranked` (at least as many places as there are members, or `length`; rows).
    """
    width = min(length, len(ranked))
    places = np.full((length, len(first)), -1, np.int16)
    places[0] = first
    seen = ranked[0] == first
    for i in range(1, width):
        places[i] = np.where(seen, ranked[i], ranked[i - 1])
        seen |= ranked[i] == first
    return np.ascontiguousarray(places.T)
