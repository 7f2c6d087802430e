# SPDX-License-Identifier: Apache-2.0
"""The hashes of many flows at once, as bpf/src/flow.h computes them; bpf/reference/flow_hash.py does it for one. Pure.

The words of a flow are those of the packet, as the little-endian program loads them; unsigned numbers wrap around in
numpy as they do in C.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from bpf.layout.conf import key_words
from bpf.layout.limits import KEY_WORDS
from bpf.layout.service import Affinity

HASHED_PORTS: Final = {Affinity.FIVE_TUPLE: 0xFFFF_FFFF, Affinity.THREE_TUPLE: 0xFFFF_0000, Affinity.TWO_TUPLE: 0}
"""The bits of a flow's ports that the hash covers: the lower half is the client's."""


def flow_hashes(
    hash_key: bytes, clients: NDArray[np.uint32], vips: NDArray[np.uint32], ports: NDArray[np.uint32]
) -> NDArray[np.uint32]:
    """Return the 32-bit keyed hashes of flows of one family; their low bits are the rows.

    `clients` and `vips` are the words of the addresses, shape (flows, 1) for IPv4 and (flows, 4) for IPv6. `ports` are
    the two ports of each flow, `client | vip << 16`, with only those bits that its affinity hashes.
    """
    key = np.array(key_words(hash_key), np.uint64)
    total = key[0] + ports * key[KEY_WORDS - 1]
    for word in range(clients.shape[1]):
        total += (clients[:, word] + key[1 + 2 * word]) * (vips[:, word] + key[2 + 2 * word])
    return _mix((total >> np.uint64(32)).astype(np.uint32))


def _mix(words: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Mix words, one to one: mix() of flow.h."""
    words = (words ^ words >> np.uint32(16)) * np.uint32(0x7FEB_352D)
    words = (words ^ words >> np.uint32(15)) * np.uint32(0x846C_A68B)
    return words ^ words >> np.uint32(16)
