# SPDX-License-Identifier: Apache-2.0
"""What a node of the simulation of claims is: what it holds, what it knows, and the rows that follow."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from ipaddress import IPv4Address

import numpy as np
from numpy.typing import NDArray

from agent.forwarding.grace import Grace
from agent.model import Candidate
from agent.table.table import RowNumbers

NONE = np.zeros(0, np.uint32)


class Tokens:
    """A number for each thing known: those of all that a node knows, combined, are its key."""

    def __init__(self, source: random.Random) -> None:
        self._source = source
        self._tokens: dict[object, int] = {}

    def of(self, known: object) -> int:
        """Return the number that stands for something."""
        if known not in self._tokens:
            self._tokens[known] = self._source.getrandbits(96)
        return self._tokens[known]


@dataclass(eq=False)
class Node:
    """One server: its data path, its agent, what it holds."""

    address: IPv4Address
    number: int
    """The address as a number."""
    held: NDArray[np.uint32]
    grace: Grace
    boot: int = 1
    alive: bool = True
    agent: bool = True
    known: dict[IPv4Address, Candidate] = field(default_factory=dict)
    versions: dict[IPv4Address, int] = field(default_factory=dict)
    """Of what it knows of each node."""
    claims: dict[IPv4Address, tuple[int, RowNumbers]] = field(default_factory=dict)
    """Of each node, this one included, with the number of the set."""
    claimed: RowNumbers = field(default_factory=lambda: NONE)
    dumped_at: float = 0.0
    dump_at: float = float("inf")
    silent: dict[IPv4Address, float] = field(default_factory=dict)
    rows: SharedRows | None = None
    until: list[int] = field(default_factory=list)
    """Its grace, by row."""
    grace_ends: float = float("inf")
    """When the next of its rows leaves grace, in ns."""
    known_key: int = 0
    claims_key: int = 0
    """Equal for nodes that know the same candidates, and the same claims."""
    stale: bool = True

    def know(self, tokens: Tokens, of: IPv4Address, candidate: Candidate | None) -> None:
        """Learn what a node is now; None: no member."""
        for one in (self.known.pop(of, None), candidate):
            self.known_key ^= tokens.of(one) if one else 0
        if candidate:
            self.known[of] = candidate
        self.stale = True

    def know_claims(self, tokens: Tokens, of: IPv4Address, claims: tuple[int, RowNumbers] | None) -> None:
        """Learn a node's claims, with the number of the set; None: it has none."""
        for one in (self.claims.pop(of, None), claims):
            self.claims_key ^= tokens.of(one[0]) if one else 0
        if claims:
            self.claims[of] = claims
        self.stale = True


class SharedRows:
    """The rows of all nodes that know the same."""

    def __init__(self, chains: NDArray[np.int64]) -> None:
        self.chains = chains
        """Addresses as numbers, 0 after the last: (rows, places)."""
        self._tuples: dict[int, tuple[int, ...]] = {}

    def chain(self, row: int) -> tuple[int, ...]:
        """Return the nodes of a row, owner first."""
        if row not in self._tuples:
            self._tuples[row] = tuple(one for one in self.chains[row].tolist() if one)
        return self._tuples[row]
