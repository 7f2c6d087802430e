# SPDX-License-Identifier: Apache-2.0
"""The echo: a datagram that a node's program answers, so that others see that its data path lives. Pure.

     0               1               2               3
    +---------------+---------------+---------------+---------------+
  0 | "LBEC"                                                        |
    +---------------+---------------+-------------------------------+
  4 | 1 question    | flags         | version, 1                    |
    | 2 answer      |  1 ready      |                               |
    |               |  2 data path  |                               |
    +---------------+---------------+-------------------------------+
  8 | cluster                                                       |
    +---------------------------------------------------------------+
 12 | ms since the agent's last heartbeat; 0xffffffff: never        |
    +---------------------------------------------------------------+
 16 | nonce, 8 bytes: the asker's choice, returned in the answer    |
 24 | boot, 8 bytes: the answering agent's number of its boot       |
    +---------------------------------------------------------------+
 32 | the epoch of new flows; 0: none                               |
 36 | the other epoch in use; 0: none                               |
    +---------------------------------------------------------------+
 40 | digest of the view                                            |
 44 | digest of the tables                                          |
    +---------------------------------------------------------------+
 48 | back, 6 bytes: the asker's MAC if the source MAC is a marker  |
    +                               +---------------+---------------+
    |                               | encap         | 0             |
    +---------------------------------------------------------------+
 56 | 0, 8 bytes                                                    |
    +---------------------------------------------------------------+

All fields are in network order. A question has zeros in the fields of the answer (flags, heartbeat, boot, epochs,
digests). Nonce, back and encap are returned as they came, so an answer is as long as its question.
"""

from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Final

from bpf.layout.c_struct import CStruct

ECHO_STRUCT: Final = CStruct(
    "echo",
    (
        ("magic", "I"),
        ("kind", "B"),
        ("flags", "B"),
        ("version", "H"),
        ("cluster", "I"),
        ("heartbeat_age_ms", "I"),
        ("nonce", "Q"),
        ("boot", "Q"),
        ("epoch", "2I"),
        ("view_digest", "I"),
        ("tables_digest", "I"),
        ("back", "6s"),
        ("encap", "B"),
        ("zero", "9x"),
    ),
    order="!",
)
ECHO_STATE_STRUCT: Final = CStruct(
    "echo_state",
    (
        ("heartbeat_ns", "Q"),
        ("boot", "Q"),
        ("view_digest", "I"),
        ("tables_digest", "I"),
        ("ready", "I"),
        ("pad", "4x"),
    ),
)
ECHO_BYTES: Final = 64
ECHO_MAGIC: Final = 0x4C42_4543
ECHO_VERSION: Final = 1
_NEVER: Final = 0xFFFF_FFFF


class EchoKind(IntEnum):
    """Only questions are answered: two programs must not answer each other."""

    QUESTION = 1
    ANSWER = 2


class EchoFlag(IntFlag):
    """The flags of an answer. READY: as in `EchoState`. DATA_PATH: the program answered, not the agent's socket."""

    READY = 1
    DATA_PATH = 2


NO_FLAGS: Final = EchoFlag(0)


class Encap(IntEnum):
    """How a question travels: as other packets, or as a packet is forwarded: in a tunnel, or by MAC with a marker."""

    PLAIN = 0
    TUNNEL = 1
    MARKER = 2


_KINDS: Final = frozenset(EchoKind)
_ENCAPS: Final = frozenset(Encap)


@dataclass(frozen=True)
class EchoMessage:
    """A question or an answer.

    `heartbeat_age_ms` is the age of the answering agent's last heartbeat, None if there was none. `epochs` are those
    in use (at most two), that of new flows first. `back` is a MAC (6 bytes), wanted with MARKER alone.
    """

    kind: EchoKind
    cluster: int
    nonce: int
    flags: EchoFlag = NO_FLAGS
    heartbeat_age_ms: int | None = None
    boot: int = 0
    epochs: tuple[int, ...] = ()
    view_digest: int = 0
    tables_digest: int = 0
    back: bytes = bytes(6)
    encap: Encap = Encap.PLAIN

    def pack(self) -> bytes:
        """Encode as a datagram's payload, ECHO_BYTES long."""
        age = _NEVER if self.heartbeat_age_ms is None else min(self.heartbeat_age_ms, _NEVER - 1)
        if self.kind is EchoKind.QUESTION:
            age = 0
        first, second = (*self.epochs, 0, 0)[:2]
        return ECHO_STRUCT.codec.pack(
            ECHO_MAGIC, self.kind, self.flags, ECHO_VERSION, self.cluster, age, self.nonce, self.boot, first, second,
            self.view_digest, self.tables_digest, self.back, self.encap,
        )  # fmt: skip

    @classmethod
    def unpack(cls, data: bytes) -> "EchoMessage | None":
        """Decode a datagram's payload; None if it is no echo of this version."""
        if len(data) != ECHO_BYTES:
            return None
        magic, kind, flags, version, cluster, age, nonce, boot, first, second, view, tables, back, encap = (
            ECHO_STRUCT.codec.unpack(data)
        )
        if magic != ECHO_MAGIC or version != ECHO_VERSION or kind not in _KINDS or encap not in _ENCAPS:
            return None
        never = kind == EchoKind.QUESTION or age == _NEVER
        epochs = tuple(epoch for epoch in (first, second) if epoch)
        return cls(
            EchoKind(kind), cluster, nonce, EchoFlag(flags), None if never else age, boot, epochs, view, tables, back,
            Encap(encap),
        )  # fmt: skip


@dataclass(frozen=True)
class EchoState:
    """What the agent has the program answer.

    `heartbeat_ns` is the time of its last heartbeat (CLOCK_MONOTONIC; 0: none), `boot` its number of this boot, `ready`
    whether its tables are made from a whole view. The digests are the first 32 bits of its view's and its tables'.
    """

    heartbeat_ns: int = 0
    boot: int = 0
    view_digest: int = 0
    tables_digest: int = 0
    ready: bool = False

    def pack(self) -> bytes:
        """Encode as `struct echo_state`."""
        return ECHO_STATE_STRUCT.codec.pack(
            self.heartbeat_ns, self.boot, self.view_digest, self.tables_digest, self.ready
        )

    @classmethod
    def unpack(cls, data: bytes) -> "EchoState":
        """Decode `struct echo_state`; zeros if it was never written."""
        heartbeat_ns, boot, view_digest, tables_digest, ready = ECHO_STATE_STRUCT.codec.unpack(data)
        return cls(heartbeat_ns, boot, view_digest, tables_digest, bool(ready))
