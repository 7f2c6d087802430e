# SPDX-License-Identifier: Apache-2.0
"""The channel's datagrams: encoded, parsed, authenticated. Pure; session.py and channel.py act on them.

     0               1               2               3
    +---------------+---------------+---------------+---------------+
  0 | "LBCH"                                                        |
    +---------------+---------------+-------------------------------+
  4 | version 1     | kind          | 0                             |
    +---------------+---------------+-------------------------------+
  8 | cluster                                                       |
    +---------------------------------------------------------------+
 12 | address of the sender                                         |
 16 | address of the receiver                                       |
    +---------------------------------------------------------------+
 20 | nonce of the sender                                           |
 24 |                                                               |
    +---------------------------------------------------------------+
 28 | nonce of the receiver; 0 in a HELLO                           |
 32 |                                                               |
    +---------------------------------------------------------------+
 36 | sequence                                                      |
    +-------------------------------+-------------------------------+
 40 | part                          | parts                         |
    +-------------------------------+-------------------------------+
 44 | payload, at most 1,140 bytes                                  |
    +---------------------------------------------------------------+
    | BLAKE2b-128 over everything before, under the cluster's key   |
    | (16 bytes)                                                    |
    +---------------------------------------------------------------+

    kind         sequence              part, parts            payload
    1 HELLO      0                     0, 0                   none
    2 HELLO_ACK  0                     0, 0                   none
    3 STATE      which state           which part, of parts   the part's share of the state (state.py)
    4 ACK        of the acknowledged   of the acknowledged    none; with sequence 0 it only shows the nonces
    5 CLAIMS     which log             which part, 0          the part's share of the log (claim_log.py)
    6 STREAM     which item            0, 0                   the item (stream.py)
    7 STREAM_ACK 0                     0, 0                   which items have arrived (stream.py)
    16 SUSPECTS  which notice          0, 0                   addresses of nodes that may be dead (pack_addresses)
    17 TRACE_REQUEST, 18 TRACE_REPLY   which notice, 0, 0     one step of a packet's walk (trace.py)
    19 OVERVIEW_REQUEST, 20 OVERVIEW_REPLY   the same         a node in a few figures (overview.py)

Kinds from 16 on are notices: small, unacknowledged. A receiver skips the kinds that it does not know.

A cluster that changes its key has two for a while: the first one signs, either is accepted.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import struct
from collections.abc import Sequence
from typing import NamedTuple

VERSION = 1
MAX_BYTES = 1200
"""Of a datagram: it fits into any path's MTU beside the headers of a tunnel."""
MAX_PARTS = 32
_MAGIC = b"LBCH"
_HEADER = struct.Struct("!4sBBHIIIQQIHH")
_MAC_BYTES = 16
MIN_BYTES = _HEADER.size + _MAC_BYTES
MAX_PAYLOAD = MAX_BYTES - MIN_BYTES
STREAM_ACK_BYTES = 38


class Kind(enum.IntEnum):
    """What a datagram is for."""

    HELLO = 1
    HELLO_ACK = 2
    STATE = 3
    ACK = 4
    CLAIMS = 5
    STREAM = 6
    STREAM_ACK = 7
    SUSPECTS = 16
    TRACE_REQUEST = 17
    TRACE_REPLY = 18
    OVERVIEW_REQUEST = 19
    OVERVIEW_REPLY = 20


FIRST_NOTICE = 16
LAST_NOTICE = 255


class Message(NamedTuple):
    """A datagram's content. `sender` and `receiver` are the numbers of IPv4 addresses, which hash faster."""

    kind: int
    cluster: int
    sender: int
    receiver: int
    sender_nonce: int
    receiver_nonce: int
    sequence: int = 0
    part: int = 0
    parts: int = 0
    payload: bytes = b""
    version: int = VERSION


class Authenticator:
    """The cluster's keys: the first one signs, each is accepted. `secrets`: 1 to 64 bytes each."""

    def __init__(self, secrets: Sequence[bytes]) -> None:
        self._states = [hashlib.blake2b(key=channel_key(secret), digest_size=_MAC_BYTES) for secret in secrets]

    def __bool__(self) -> bool:
        return bool(self._states)

    def seal(self, message: Message) -> bytes:
        """Return the datagram of a message."""
        m = message
        body = _HEADER.pack(
            _MAGIC,
            m.version,
            m.kind,
            0,
            m.cluster,
            m.sender,
            m.receiver,
            m.sender_nonce,
            m.receiver_nonce,
            m.sequence,
            m.part,
            m.parts,
        )
        body += m.payload
        state = self._states[0].copy()
        state.update(body)
        return body + state.digest()

    def accepts(self, datagram: bytes) -> bool:
        """Return whether one of the keys signed the datagram."""
        body, mac = memoryview(datagram)[:-_MAC_BYTES], datagram[-_MAC_BYTES:]
        for key_state in self._states:
            state = key_state.copy()
            state.update(body)
            if hmac.compare_digest(mac, state.digest()):
                return True
        return False


def channel_key(secret: bytes) -> bytes:
    """Return the channel's key, derived from the cluster's secret: one key for each use."""
    return hashlib.blake2b(key=secret, digest_size=32, person=b"anylb channel").digest()


def parse(datagram: bytes) -> Message | None:
    """Return the content of a datagram, not yet authenticated; None for none of the channel's. Never raises.

    Of another version only magic, version, cluster and addresses are sure to mean the same.
    """
    if not MIN_BYTES <= len(datagram) <= MAX_BYTES or not datagram.startswith(_MAGIC):
        return None
    _, version, kind, _, cluster, sender, receiver, from_, to, sequence, part, parts = _HEADER.unpack_from(datagram)
    payload = datagram[_HEADER.size : -_MAC_BYTES]
    return Message(kind, cluster, sender, receiver, from_, to, sequence, part, parts, payload, version)


def is_consistent(message: Message) -> bool:
    """Return whether an authentic message keeps the table above, as far as its kind is known."""
    m = message
    if m.sender_nonce == 0 or (m.receiver_nonce == 0) != (m.kind == Kind.HELLO):
        return False
    if m.kind == Kind.STATE:
        return m.sequence > 0 and m.part < m.parts <= MAX_PARTS and bool(m.payload)
    if m.kind in (Kind.CLAIMS, Kind.STREAM):
        return m.sequence > 0 and bool(m.payload)
    if m.kind == Kind.STREAM_ACK:
        return len(m.payload) == STREAM_ACK_BYTES
    return m.kind >= FIRST_NOTICE or not m.payload


def split(data: bytes) -> tuple[bytes, ...]:
    """Return the parts of a state. Raises ValueError if it has more bytes than the parts can carry."""
    if len(data) > MAX_PARTS * MAX_PAYLOAD:
        raise ValueError(f"the state has {len(data)} bytes, more than {MAX_PARTS * MAX_PAYLOAD}")
    return tuple(data[at : at + MAX_PAYLOAD] for at in range(0, len(data), MAX_PAYLOAD))
