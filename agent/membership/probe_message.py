# SPDX-License-Identifier: Apache-2.0
"""The direct probe's messages: one node asks another, by UDP, whether it is alive. Pure; prober.py owns the socket.

     0               1               2               3
    +---------------+---------------+---------------+---------------+
  0 | "ALBP"                                                        |
    +---------------+-----------------------------------------------+
  4 | 1 request     | 0                                             |
    | 2 reply       |                                               |
    +---------------+-----------------------------------------------+
  8 | cluster                                                       |
    +---------------------------------------------------------------+
 12 | address of the requester                                      |
 16 | address of the responder                                      |
    +---------------------------------------------------------------+
 20 | nonce, 8 bytes: the requester's choice, returned in the reply |
 28 | time, 8 bytes: the requester's clock in ms, returned too      |
    +---------------------------------------------------------------+
 36 | version of the responder's identity; 0 in a request           |
    +---------------------------------------------------------------+
 40 | the first 16 bytes of HMAC-SHA256 over everything before      |
    +---------------------------------------------------------------+

A reply is as long as its request, goes to the address that the request names under the HMAC, and counts once: for an
open nonce, from the node that was probed. So a replayed request makes a node send one such reply to the requester,
which ignores it; a replayed reply is ignored too. The nodes' clocks need not agree.

While a cluster changes its key, a node may have two: it signs its requests with each in turn, accepts either, and
replies with the key of the request.
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
REQUEST, REPLY = 1, 2
REPLY_TIMEOUT_S = 3.0
"""How long a request stays open."""


@dataclass(frozen=True, slots=True)
class Message:
    """A request or a reply."""

    kind: int
    cluster: int
    requester: IPv4Address
    responder: IPv4Address
    nonce: bytes
    time_ms: int
    version: int = 0


def probe_key(secret: bytes) -> bytes:
    """Return the key of the probes, derived from the cluster's secret: one key for each use."""
    return hmac.digest(secret, b"anylb direct probe", hashlib.sha256)


def pack(message: Message, key: bytes) -> bytes:
    """Return the datagram of a message."""
    m = message
    requester, responder = m.requester.packed, m.responder.packed
    body = _FORMAT.pack(_MAGIC, m.kind, m.cluster, requester, responder, m.nonce, m.time_ms, m.version)
    return body + _mac(body, key)


def unpack(datagram: bytes, keys: Sequence[bytes]) -> tuple[Message, bytes] | None:
    """Return a datagram's message and the key that signs it; None if it is no valid message."""
    if len(datagram) != LENGTH or not datagram.startswith(_MAGIC):
        return None
    body, mac = datagram[: _FORMAT.size], datagram[_FORMAT.size :]
    key = next((key for key in keys if hmac.compare_digest(mac, _mac(body, key))), None)
    if key is None:
        return None
    _, kind, cluster, requester, responder, nonce, time_ms, version = _FORMAT.unpack(body)
    return Message(kind, cluster, IPv4Address(requester), IPv4Address(responder), nonce, time_ms, version), key


def reply_to(
    datagram: bytes, source: IPv4Address, own: IPv4Address, cluster: int, keys: Sequence[bytes], version: int
) -> bytes | None:
    """Return the reply to a datagram that reached the node `own`; None if it is no valid request to it."""
    found = unpack(datagram, keys)
    if found is None:
        return None
    request, key = found
    if (request.kind, request.cluster, request.requester, request.responder) != (REQUEST, cluster, source, own):
        return None
    return pack(replace(request, kind=REPLY, version=version), key)


class OpenRequests:
    """The requests of this node that await a reply."""

    def __init__(self, own: IPv4Address, cluster: int, keys: Sequence[bytes]) -> None:
        self._own, self._cluster, self._keys = own, cluster, tuple(keys)
        self._open: dict[bytes, tuple[IPv4Address, int]] = {}
        self._count = 0

    def create(self, address: IPv4Address, nonce: bytes, now: float) -> bytes:
        """Return a request to a node; `nonce` is 8 unpredictable bytes, `now` CLOCK_MONOTONIC seconds."""
        now_ms = int(now * 1000)
        self._open = {n: (a, at) for n, (a, at) in self._open.items() if _is_open(at, now_ms)}
        self._open[nonce] = (address, now_ms)
        key = self._keys[self._count % len(self._keys)]
        self._count += 1
        return pack(Message(REQUEST, self._cluster, self._own, address, nonce, now_ms), key)

    def accept(self, datagram: bytes, source: IPv4Address, now: float) -> int | None:
        """Return the version in a reply, and close its request; None if it is no reply to an open request."""
        found = unpack(datagram, self._keys)
        if found is None:
            return None
        reply = found[0]
        if (reply.kind, reply.cluster, reply.requester, reply.responder) != (REPLY, self._cluster, self._own, source):
            return None
        if self._open.get(reply.nonce) != (source, reply.time_ms) or not _is_open(reply.time_ms, int(now * 1000)):
            return None
        del self._open[reply.nonce]
        return reply.version


def _is_open(sent_ms: int, now_ms: int) -> bool:
    return now_ms - sent_ms < REPLY_TIMEOUT_S * 1000


def _mac(body: bytes, key: bytes) -> bytes:
    return hmac.digest(key, body, hashlib.sha256)[:_MAC_BYTES]
