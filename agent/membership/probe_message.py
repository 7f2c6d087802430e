# SPDX-License-Identifier: Apache-2.0
"""The direct probe's messages: one node asks another, by UDP, whether it is there. Pure; prober.py has the socket.

     0               1               2               3
    +---------------+---------------+---------------+---------------+
  0 | "ALBP"                                                        |
    +---------------+-----------------------------------------------+
  4 | 1 ask         | 0                                             |
    | 2 answer      |                                               |
    +---------------+-----------------------------------------------+
  8 | cluster                                                       |
    +---------------------------------------------------------------+
 12 | address of the node that asks                                 |
 16 | address of the node that is asked                             |
    +---------------------------------------------------------------+
 20 | nonce, 8 bytes: chosen by the one that asks, given back       |
 28 | time, 8 bytes: its own clock in ms, given back                |
    +---------------------------------------------------------------+
 36 | version of the answering node's identity; 0 in an ask         |
    +---------------------------------------------------------------+
 40 | the first 16 bytes of HMAC-SHA256 over all before             |
    +---------------------------------------------------------------+

An answer is as long as the question, goes to the address that the question names under the HMAC, and counts once: for a
nonce that is open, from the node that was asked. So a recorded question makes a node send its like to the node that
asked, which ignores it; a recorded answer is ignored too. The nodes' clocks need not agree.

While a cluster changes its key, a node may know two: it signs its questions with each in turn, takes either, and
answers with the one that the question was signed with.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

_FORMAT = struct.Struct("!4sB3xI4s4s8sQI")
_MAGIC = b"ALBP"
_MAC_BYTES = 16
LENGTH = _FORMAT.size + _MAC_BYTES
ASK, ANSWER = 1, 2
OPEN_S = 3.0
"""How long a question may be answered."""


@dataclass(frozen=True, slots=True)
class Message:
    """A question or an answer."""

    kind: int
    cluster: int
    asker: IPv4Address
    asked: IPv4Address
    nonce: bytes
    time_ms: int
    version: int = 0


def probe_key(secret: bytes) -> bytes:
    """The key of the probes, from the cluster's secret: one key for each use."""
    return hmac.digest(secret, b"anylb direct probe", hashlib.sha256)


def pack(message: Message, key: bytes) -> bytes:
    """The datagram."""
    m = message
    body = _FORMAT.pack(_MAGIC, m.kind, m.cluster, m.asker.packed, m.asked.packed, m.nonce, m.time_ms, m.version)
    return body + _mac(body, key)


def unpack(datagram: bytes, keys: Sequence[bytes]) -> tuple[Message, bytes] | None:
    """What a datagram says, and the key that it is signed with; None when it is none of ours."""
    if len(datagram) != LENGTH or not datagram.startswith(_MAGIC):
        return None
    body, mac = datagram[: _FORMAT.size], datagram[_FORMAT.size :]
    key = next((key for key in keys if hmac.compare_digest(mac, _mac(body, key))), None)
    if key is None:
        return None
    _, kind, cluster, asker, asked, nonce, time_ms, version = _FORMAT.unpack(body)
    return Message(kind, cluster, IPv4Address(asker), IPv4Address(asked), nonce, time_ms, version), key


def answer(
    datagram: bytes, source: IPv4Address, own: IPv4Address, cluster: int, keys: Sequence[bytes], version: int
) -> bytes | None:
    """The answer to a question that reached the node `own`; None when it deserves none."""
    found = unpack(datagram, keys)
    if found is None:
        return None
    asked, key = found
    if (asked.kind, asked.cluster, asked.asker, asked.asked) != (ASK, cluster, source, own):
        return None
    return pack(replace(asked, kind=ANSWER, version=version), key)


class Asker:
    """The questions that this node has open."""

    def __init__(self, own: IPv4Address, cluster: int, keys: Sequence[bytes]) -> None:
        self._own, self._cluster, self._keys = own, cluster, tuple(keys)
        self._open: dict[bytes, tuple[IPv4Address, int]] = {}
        self._count = 0

    def ask(self, address: IPv4Address, nonce: bytes, now: float) -> bytes:
        """A question for a node; `nonce` is 8 bytes that nobody can guess, `now` seconds of CLOCK_MONOTONIC."""
        now_ms = int(now * 1000)
        self._open = {n: (a, at) for n, (a, at) in self._open.items() if _is_open(at, now_ms)}
        self._open[nonce] = (address, now_ms)
        key = self._keys[self._count % len(self._keys)]
        self._count += 1
        return pack(Message(ASK, self._cluster, self._own, address, nonce, now_ms), key)

    def heard(self, datagram: bytes, source: IPv4Address, now: float) -> int | None:
        """The version that a node answers under; None when the datagram answers no open question to that node."""
        found = unpack(datagram, self._keys)
        if found is None:
            return None
        said = found[0]
        if (said.kind, said.cluster, said.asker, said.asked) != (ANSWER, self._cluster, self._own, source):
            return None
        if self._open.get(said.nonce) != (source, said.time_ms) or not _is_open(said.time_ms, int(now * 1000)):
            return None
        del self._open[said.nonce]
        return said.version


def _is_open(asked_ms: int, now_ms: int) -> bool:
    return now_ms - asked_ms < OPEN_S * 1000


def _mac(body: bytes, key: bytes) -> bytes:
    return hmac.digest(key, body, hashlib.sha256)[:_MAC_BYTES]
