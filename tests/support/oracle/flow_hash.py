# SPDX-License-Identifier: Apache-2.0
"""The flow hash a second time, for the oracle."""

import hashlib
import struct

from support.oracle.headers import Flow


def flow_hash(secret: bytes, flow: Flow, affinity: int = 5) -> int:
    """Multilinear hashing (Lemire and Kaser 2014, "Strongly universal string hashing is fast"), then lowbias32.

    The key's words are the secret and its SHAKE-256 output, little-endian; so are the flow's words.
    """
    stream = secret + hashlib.shake_256(b"anylb flow hash" + secret).digest(64)
    key = [int.from_bytes(stream[at : at + 8], "little") for at in range(0, 80, 8)]
    client, vip = _words(flow.client.packed), _words(flow.vip.packed)
    total = key[0]
    for i, (c, v) in enumerate(zip(client, vip, strict=True)):
        total += (c + key[1 + 2 * i]) * (v + key[2 + 2 * i])
    ports = {5: (flow.client_port, flow.vip_port), 3: (0, flow.vip_port), 2: (0, 0)}[affinity]
    total += _words(struct.pack("!HH", *ports))[0] * key[9]
    value = total % 2**64 >> 32
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
        value = (value ^ value >> shift) * factor % 2**32
    return value


def _words(data: bytes) -> list[int]:
    return [int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4)]
