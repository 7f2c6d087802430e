# SPDX-License-Identifier: Apache-2.0
"""The cost of a member in a row: the number by which rendezvous hashing ranks members, the smallest first.

Owns the hash, its logarithm and the packing. Pure, and integers only, so that every node computes the same.

A key is 64 bits that sort as (weight is 0, cost, index of the member in the order of addresses):

    63           15 14      0
    +--------------+--------+      cost = (-log2(h / 2^32) in units of 2^-26) * 2^16 / weight, at most 2^47;
    | 49 bits cost | member |      a weight of 0 adds 2^48: such members rank after all others, in an order
    +--------------+--------+      of their own
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
"""The smallest key of a member of weight 0."""
EMPTY: Final = np.uint64((1 << 64) - (1 << MEMBER_BITS))
"""The key of no member: greater than every member's key."""
MEMBERS_MAX: Final = 1 << MEMBER_BITS

_FRACTION_BITS = 26
_STEP_BITS = 12
_MURMUR_1 = np.uint64(0xFF51AFD7ED558CCD)
_MURMUR_2 = np.uint64(0xC4CEB9FE1A85EC53)
_BIAS = np.uint64(1023)
"""The bias of the exponent in an IEEE 754 double."""


@functools.lru_cache(maxsize=4096)
@functools.lru_cache(maxsize=4096)
def seed(address: bytes) -> int:
    """Return the 64 bits that represent a member in all its hashes."""
    return int.from_bytes(hashlib.sha256(b"anylb member " + address).digest()[:8])


@functools.lru_cache(maxsize=4)
def row_factors(rows: int) -> Keys:
    """Return each row's contribution to the hash, as a read-only array."""
    factors = np.arange(rows, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    factors.setflags(write=False)
    return factors


def mix(x: Keys) -> Keys:
    """Apply the 64-bit finalizer of MurmurHash3 (Appleby) in place, but for its last step.

    The upper half of the result is the hash.
    """
    shifted = x >> np.uint64(33)
    x ^= shifted
    x *= _MURMUR_1
    np.right_shift(x, np.uint64(33), out=shifted)
    x ^= shifted
    x *= _MURMUR_2
    return x


def hashes(mixed: Keys) -> Keys:
    """Return the 32 bits of hash in the result of `mix`."""
    # The last step, x ^= x >> 33, changes only bits 0 to 30.
    return mixed >> np.uint64(32)


def rank_keys(hashed: Keys, weights: Keys | np.uint64, members: Keys | np.uint64) -> Keys:
    """Return the keys of 32-bit hashes; weights and members' indexes broadcast against them."""
    cost = np.uint64(32 << _FRACTION_BITS) - _log2(hashed + np.uint64(1))
    cost <<= np.uint64(16)
    cost //= np.maximum(weights, np.uint64(1))
    cost <<= np.uint64(MEMBER_BITS)
    cost |= members
    cost += np.where(weights == 0, WEIGHTLESS, np.uint64(0))
    return cost


def least_hashes(weights: Keys, cost: int) -> Keys:
    """Return for each weight the least hash with which a member costs no more than `cost`; 2^32 if there is none."""
    low, high = np.zeros_like(weights), np.full_like(weights, 1 << 32)
    limit = np.uint64(((cost + 1) << MEMBER_BITS) - 1)
    while (low < high).any():
        middle = (low + high) >> np.uint64(1)
        # Middle is 2^32 only when low is too: then the search has ended for that weight.
        fits = rank_keys(np.minimum(middle, np.uint64((1 << 32) - 1)), weights, np.uint64(0)) <= limit
        open_ = low < high
        high = np.where(open_ & fits, middle, high)
        low = np.where(open_ & ~fits, middle + np.uint64(1), low)
    return low


def _log2(x: Keys) -> Keys:
    """Return log2 of 1 <= x <= 2^32 in units of 2^-26: the exponent, and the mantissa by a table with linear steps.

    Exponent and mantissa are the bits of the number's double, which holds it exactly: no arithmetic uses floats.
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
    """Return log2(1 + i/4096) for i = 0..4096 in units of 2^-26, bit by bit: square, and note whether it exceeds 2."""
    # 1 is 2^62 here. The square's 126 bits are composed of halves: x = high * 2^31 + low.
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
