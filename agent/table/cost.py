# SPDX-License-Identifier: Apache-2.0
"""What a member costs in a row: the number that rendezvous hashing ranks by, smallest best.

Owns the hash, its logarithm and the packing; pure, and integers only, so that every node computes the same.

A key is 64 bits that sort as (weight is 0, cost, place of the member in the order of addresses):

    63           15 14      0
    +--------------+--------+      cost = (-log2(h / 2^32) in units of 2^-26) * 2^16 / weight, at most 2^47;
    | 49 bits cost | member |      2^48 is added for a weight of 0: such a member ranks behind all others,
    +--------------+--------+      in an order of its own
"""

from __future__ import annotations

import functools
import hashlib
from typing import Final

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]

MEMBER_BITS: Final = 15
MEMBER_MASK: Final = np.uint64((1 << MEMBER_BITS) - 1)
WEIGHTLESS: Final = np.uint64(1 << (48 + MEMBER_BITS))
"""The least key of a member of weight 0."""
EMPTY: Final = np.uint64((1 << 64) - (1 << MEMBER_BITS))
"""No member: greater than every member's key."""
MEMBERS_MAX: Final = 1 << MEMBER_BITS

_FRACTION_BITS = 26
_STEP_BITS = 12
_MURMUR_1 = np.uint64(0xFF51AFD7ED558CCD)
_MURMUR_2 = np.uint64(0xC4CEB9FE1A85EC53)
_BIAS = np.uint64(1023)
"""Of the exponent in an IEEE 754 double."""


@functools.lru_cache(maxsize=4096)
def seed(address: bytes) -> int:
    """The 64 bits that stand for a member in all its hashes."""
    return int.from_bytes(hashlib.sha256(b"anylb member " + address).digest()[:8])


@functools.lru_cache(maxsize=2)
def row_factors(rows: int) -> Keys:
    """What a row's number adds to the hash, for all rows; not to be written to."""
    factors = np.arange(rows, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    factors.setflags(write=False)
    return factors


def mix(x: Keys) -> Keys:
    """The 64-bit finalizer of MurmurHash3 (Appleby), in place, without its last step: the upper half is the hash."""
    shifted = x >> np.uint64(33)
    x ^= shifted
    x *= _MURMUR_1
    np.right_shift(x, np.uint64(33), out=shifted)
    x ^= shifted
    x *= _MURMUR_2
    return x


def hashes(mixed: Keys) -> Keys:
    """The 32 bits of hash in what `mix` returned."""
    # The last step, x ^= x >> 33, changes bits 0 to 30 only.
    return mixed >> np.uint64(32)


def keys(hashed: Keys, weights: Keys | np.uint64, members: Keys | np.uint64) -> Keys:
    """Keys from 32-bit hashes; weights and members' places broadcast against them."""
    cost = np.uint64(32 << _FRACTION_BITS) - _log2(hashed + np.uint64(1))
    cost <<= np.uint64(16)
    cost //= np.maximum(weights, np.uint64(1))
    cost <<= np.uint64(MEMBER_BITS)
    cost |= members
    cost += np.where(weights == 0, WEIGHTLESS, np.uint64(0))
    return cost


def least_hashes(weights: Keys, cost: int) -> Keys:
    """For each weight the least hash with which a member costs no more than `cost`; 2^32 where there is none."""
    low, high = np.zeros_like(weights), np.full_like(weights, 1 << 32)
    limit = np.uint64(((cost + 1) << MEMBER_BITS) - 1)
    while (low < high).any():
        middle = (low + high) >> np.uint64(1)
        # A middle of 2^32 is reached only when low is, too: the loop has ended for that weight.
        fits = keys(np.minimum(middle, np.uint64((1 << 32) - 1)), weights, np.uint64(0)) <= limit
        open_ = low < high
        high = np.where(open_ & fits, middle, high)
        low = np.where(open_ & ~fits, middle + np.uint64(1), low)
    return low


def _log2(x: Keys) -> Keys:
    """log2 of 1 <= x <= 2^32 in units of 2^-26: the exponent, and the mantissa by a table with linear steps.

    Exponent and mantissa are read from the number's double, which holds it exactly: no arithmetic is done in floats.
    """
    double = x.astype(np.float64).view(np.uint64)
    step = (double >> np.uint64(52 - _STEP_BITS)) & np.uint64((1 << _STEP_BITS) - 1)
    within = (double >> np.uint64(20)) & np.uint64((1 << (32 - _STEP_BITS)) - 1)
    within *= _SLOPES[step]
    within >>= np.uint64(32 - _STEP_BITS)
    double >>= np.uint64(52)
    double -= _BIAS
    double <<= np.uint64(_FRACTION_BITS)
    double += within
    double += _LOG2_STEPS[step]
    return double


def _log2_steps() -> Keys:
    """log2(1 + i/4096) for i = 0..4096 in units of 2^-26, bit by bit: square, and note whether it passed 2."""
    # 1 is 2^62 here. The square's 126 bits are put together from halves: x = high * 2^31 + low.
    x = (np.arange((1 << _STEP_BITS) + 1, dtype=np.uint64) << np.uint64(62 - _STEP_BITS)) + np.uint64(1 << 62)
    result = np.zeros_like(x)
    for _ in range(_FRACTION_BITS + 1):
        over = (x >> np.uint64(63)).astype(np.bool_)
        result += result + over
        x = np.where(over, x >> np.uint64(1), x)
        high, low = x >> np.uint64(31), x & np.uint64((1 << 31) - 1)
        x = high * high + ((high * low + (low * low >> np.uint64(32))) >> np.uint64(30))
    return result


_LOG2_STEPS = _log2_steps()
_SLOPES = np.diff(_LOG2_STEPS)
