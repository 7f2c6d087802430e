# SPDX-License-Identifier: Apache-2.0
"""An independent second implementation of the tables: written from the definition, slow, without shared code.

Owns expected tables for the tests. It follows the papers and ARCHITECTURE.md, not the program: exact integers,
one row at a time, sorting instead of selecting.
"""

import hashlib
from ipaddress import IPv4Address

M64 = (1 << 64) - 1


def log2_26(x: int) -> int:
    """Return about log2(x) * 2^26, by a table with linear steps; the table follows from squaring."""
    exponent = x.bit_length() - 1
    mantissa = (x << 32 >> exponent) - (1 << 32)
    step, within = mantissa >> 20, mantissa & 0xFFFFF
    low, high = log2_step(step), log2_step(step + 1)
    return exponent * (1 << 26) + low + ((high - low) * within >> 20)


_steps: dict[int, int] = {}


def log2_step(i: int) -> int:
    if i not in _steps:
        _steps[i] = _log2_step(i)
    return _steps[i]


def _log2_step(i: int) -> int:
    # The greatest k with 2^(k/2^26) <= 1 + i/4096, to 62 bits of precision at each squaring.
    value, k = (4096 + i) << 50, 0
    for _ in range(27):
        k = 2 * k + (value >= 2 << 62)
        if value >= 2 << 62:
            value //= 2
        value = value * value // (1 << 62)
    return k


def member_hash(address: IPv4Address, row: int) -> int:
    seed = int.from_bytes(hashlib.sha256(b"anylb member " + address.packed).digest()[:8], "big")
    x = seed ^ (row * 0x9E3779B97F4A7C15 & M64)
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        x = (x ^ x >> 33) * factor & M64
    return (x ^ x >> 33) >> 32


def cost(address: IPv4Address, weight: int, row: int) -> tuple[bool, int, int]:
    rank = (32 << 26) - log2_26(member_hash(address, row) + 1)
    return (weight == 0, (rank << 16) // max(weight, 1), int(address))


def chain(members: list[tuple[IPv4Address, int, int, str]], row: int, length: int) -> list[IPv4Address]:
    """Return the row's chain from (address, nominal weight, effective weight, state) of each member."""
    if not members:
        return []
    owner = min(owners(members).items(), key=lambda item: cost(item[0], item[1], row))[0]
    later = sorted((a for a, *_ in members if a != owner), key=lambda a: cost(a, weights(members)[a], row))
    return [owner, *later][:length]


def weights(members: list[tuple[IPv4Address, int, int, str]]) -> dict[IPv4Address, int]:
    return {address: nominal for address, nominal, _, _ in members}


def owners(members: list[tuple[IPv4Address, int, int, str]]) -> dict[IPv4Address, int]:
    """Return the members that may own rows, with their weights."""
    chosen = {a: effective for a, _, effective, state in members if state == "up" and effective > 0}
    chosen = chosen or {a: nominal for a, nominal, _, state in members if state == "up" and nominal > 0}
    chosen = chosen or {a: nominal for a, nominal, _, state in members if state != "lost"}
    return chosen or weights(members)


def maglev(
    members: list[tuple[IPv4Address, int, int, str]], rows: int, length: int, unfilled: int = 0
) -> list[list[IPv4Address]]:
    """Return Maglev's chains of all rows: two fillings, walked step by step, whose passes alternate.

    Turns end when `unfilled` rows are left.
    """
    if not members:
        return [[] for _ in range(rows)]
    by_nominal = maglev_passes(weights(members), rows, unfilled)
    by_effective = maglev_passes(owners(members), rows, unfilled)
    result = []
    for row in range(rows):
        chain = []
        for place in range(length):
            for passes in (by_effective[row], by_nominal[row]):
                if place < len(passes) and passes[place] not in chain:
                    chain.append(passes[place])
        result.append(chain[: min(length, len(members))])
    return result


def maglev_passes(weight: dict[IPv4Address, int], rows: int, unfilled: int) -> list[list[IPv4Address]]:
    """Return, for each row, all members in the order in which their walks reach it."""
    if not any(weight.values()):
        weight = dict.fromkeys(weight, 1)
    names = sorted(weight)
    walks, walked, turns = {}, {}, []
    for name in names:
        digest = hashlib.sha256(b"anylb maglev " + name.packed).digest()
        offset, skip = int.from_bytes(digest[:8], "big") % rows, (int.from_bytes(digest[8:16], "big") | 1) % rows
        walks[name], walked[name] = [(offset + i * skip) % rows for i in range(rows)], 0
        if weight[name]:
            turns += [((2 * k + 1 << 32) // weight[name], name) for k in range(rows)]
    turns.sort()
    passes: list[list[IPv4Address]] = [[] for _ in range(rows)]
    for _, name in turns[: rows - unfilled]:
        while True:
            row = walks[name][walked[name]]
            walked[name] += 1
            passes[row].append(name)
            if len(passes[row]) == 1:
                break
    for row in range(rows):
        begun = dict.fromkeys(names, 0) if unfilled else walked
        ahead = {name: walks[name].index(row) + 1 - begun[name] for name in names if name not in passes[row]}
        passes[row] += sorted(
            ahead, key=lambda n, a=ahead: (weight[n] == 0, ((a[n] - 1) << 16) // max(weight[n], 1), int(n))
        )
    return passes
