# SPDX-License-Identifier: Apache-2.0
"""Rows by weighted rendezvous hashing (highest random weight): from the members of a service to its table.

Owns the ranking and nothing else; pure. Every node computes the same table from the same members, so there are
integers only: no floating point, no libm, no order of iteration.

Thaler and Ravishankar (1998) rank the members of a row by a hash; Schindelhauer and Schomaker (2005) weigh them by
ranking -log(h)/weight, smallest first. Here h is 32 bits of hash, and log2 is fixed point with 26 fractional bits.

Place 0 of a row, the owner, is the best of those up by effective weight. The later places rank up, draining and lost
members alike by nominal weight: lowering an effective weight then never hides an old owner from the chain.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

import numpy as np
from numpy.typing import NDArray

from agent.model import Candidate, State

_FRACTION_BITS = 26
_STEP_BITS = 12
_BLOCK = 4096
"""Rows ranked at a time: bounds the working memory at 32 KB a member."""
_NEVER = np.uint64(1 << 63)
"""Added to the cost of a weight of 0: such a member ranks behind all others, in an order of its own."""


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of one service: `places[r]` are indexes into `members`, owner first, -1 where the chain has ended."""

    members: tuple[IPv4Address, ...]
    places: NDArray[np.int16]

    @property
    def digest(self) -> str:
        """16 hex digits over the table in terms of addresses: equal on two nodes if and only if the tables are."""
        hashed = hashlib.sha256(b"".join(address.packed for address in self.members))
        hashed.update(self.places.astype("<i2").tobytes())
        return hashed.hexdigest()[:16]


def build(candidates: Sequence[Candidate], rows: int, chain: int) -> Table:
    """The table of a service: int16 places of shape (rows, chain).

    `candidates` may come in any order; each address once, none of them `left`. When nobody takes new flows (no
    effective weight among those up) owners are chosen by nominal weight among all that are not lost, so that clients
    hear an answer rather than silence; when all are lost, among these. No candidates: every place is -1.
    """
    ordered = sorted(candidates, key=lambda candidate: int(candidate.address))
    members = tuple(candidate.address for candidate in ordered)
    places = np.full((rows, chain), -1, np.int16)
    if not ordered:
        return Table(members, places)
    seeds = np.array([_seed(address) for address in members], np.uint64)
    nominal = np.array([candidate.weight for candidate in ordered], np.uint64)
    owner_ids, owner_weights = _owners(ordered)
    width = min(chain, len(ordered))
    for start in range(0, rows, _BLOCK):
        numbers = np.arange(start, min(start + _BLOCK, rows), dtype=np.uint64)
        ranks = _ranks(seeds, numbers)
        later = _smallest(_costs(ranks, nominal), width)
        owners = owner_ids[np.argmin(_costs(ranks[owner_ids], owner_weights), axis=0)]
        # The owner moves to the front; the others keep their order (a stable sort on "is it the owner").
        front = np.argsort(later != owners, axis=0, kind="stable")
        block = np.take_along_axis(later, front, axis=0)
        unranked = block[0] != owners
        block[1:, unranked] = block[:-1, unranked]
        block[0] = owners
        places[start : start + len(numbers), :width] = block.T
    return Table(members, places)


def _owners(ordered: Sequence[Candidate]) -> tuple[NDArray[np.intp], NDArray[np.uint64]]:
    """Who may own rows, as indexes, and by what weight."""
    chosen = [(i, c.effective) for i, c in enumerate(ordered) if c.state is State.UP and c.effective > 0]
    if not chosen:
        chosen = [(i, c.weight) for i, c in enumerate(ordered) if c.state is not State.LOST]
    if not chosen:
        chosen = [(i, c.weight) for i, c in enumerate(ordered)]
    return np.array([i for i, _ in chosen], np.intp), np.array([w for _, w in chosen], np.uint64)


def _seed(address: IPv4Address) -> int:
    return int.from_bytes(hashlib.sha256(b"anylb member " + address.packed).digest()[:8])


def _ranks(seeds: NDArray[np.uint64], rows: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """-log2 of the 32-bit hash of (member, row), in units of 2^-26: shape (members, rows), 0 to 32 << 26.

    The hash is the 64-bit finalizer of MurmurHash3 (Appleby), its upper half.
    """
    x = seeds[:, None] ^ (rows[None, :] * np.uint64(0x9E3779B97F4A7C15))
    x ^= x >> np.uint64(33)
    x *= np.uint64(0xFF51AFD7ED558CCD)
    x ^= x >> np.uint64(33)
    x *= np.uint64(0xC4CEB9FE1A85EC53)
    x ^= x >> np.uint64(33)
    return np.uint64(32 << _FRACTION_BITS) - _log2((x >> np.uint64(32)) + np.uint64(1))


def _log2(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """log2 of 1 <= x <= 2^32 in units of 2^-26: exponent by bisection, mantissa by a table with linear steps."""
    exponent = np.zeros_like(x)
    rest = x.copy()
    for bits in (16, 8, 4, 2, 1):
        high = rest >= np.uint64(1 << bits)
        # 2^32 itself has 33 bits: the first step leaves it at 2^16, whose exponent the later steps complete.
        exponent += high * np.uint64(bits)
        rest = np.where(high, rest >> np.uint64(bits), rest)
    top = rest >= np.uint64(2)
    exponent += top
    mantissa = (x << (np.uint64(32) - exponent)) & np.uint64(0xFFFFFFFF)
    step = mantissa >> np.uint64(32 - _STEP_BITS)
    within = mantissa & np.uint64((1 << (32 - _STEP_BITS)) - 1)
    low = _LOG2_STEPS[step]
    slope = _LOG2_STEPS[step + np.uint64(1)] - low
    result: NDArray[np.uint64] = (
        (exponent << np.uint64(_FRACTION_BITS)) + low + (slope * within >> np.uint64(32 - _STEP_BITS))
    )
    return result


def _log2_steps() -> NDArray[np.uint64]:
    """log2(1 + i/4096) for i = 0..4096 in units of 2^-26, bit by bit: square, and note whether it passed 2."""
    steps = []
    for i in range((1 << _STEP_BITS) + 1):
        x, result = (1 << 62) + (i << (62 - _STEP_BITS)), 0
        for _ in range(_FRACTION_BITS + 1):
            result <<= 1
            if x >= 1 << 63:
                x >>= 1
                result |= 1
            x = x * x >> 62
        steps.append(result)
    return np.array(steps, np.uint64)


_LOG2_STEPS = _log2_steps()


def _costs(ranks: NDArray[np.uint64], weights: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """rank / weight with 16 more fractional bits, smallest best; equal costs fall to the smaller address."""
    costs = (ranks << np.uint64(16)) // np.maximum(weights, np.uint64(1))[:, None]
    costs[weights == 0] += _NEVER
    return costs


def _smallest(costs: NDArray[np.uint64], width: int) -> NDArray[np.intp]:
    """The `width` members of smallest cost in each row, best first, ties by index: shape (width, rows)."""
    return np.argsort(costs, axis=0, kind="stable")[:width]
