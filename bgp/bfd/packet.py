# SPDX-License-Identifier: Apache-2.0
"""The BFD control packet (RFC 5880 section 4.1), encoded and decoded. Pure; session.py acts on it.

     0                   1                   2                   3
     0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    |Vers |  Diag   |Sta|P|F|C|A|D|M|  Detect Mult  |    Length     |
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    |                       My Discriminator                        |
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    |                      Your Discriminator                       |
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    |                    Desired Min TX Interval                    |
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    |                   Required Min RX Interval                    |
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    |                 Required Min Echo RX Interval                 |
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+

Standard library only: the helper archives carry this file (helper_archive.py).
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

VERSION = 1
_LAYOUT = struct.Struct("!BBBBIIIII")
_POLL, _FINAL, _AUTHENTICATED, _DEMAND, _MULTIPOINT = 0x20, 0x10, 0x04, 0x02, 0x01


class SessionState(enum.IntEnum):
    """The state of a session, as on the wire."""

    ADMIN_DOWN = 0
    DOWN = 1
    INIT = 2
    UP = 3

    def __str__(self) -> str:
        return self.name.lower()


class Diagnostic(enum.IntEnum):
    """Why a session last went down: the values of section 4.1 that we send; a neighbor may send others."""

    NONE = 0
    TIME_EXPIRED = 1
    NEIGHBOR_DOWN = 3
    ADMIN_DOWN = 7


@dataclass(frozen=True, slots=True)
class Packet:
    """One control packet without authentication. Intervals are in microseconds; 0 means none.

    Required Min Echo RX Interval is always 0, and C is clear: our packets stop with this process, which is part of the
    control plane.
    """

    state: SessionState
    multiplier: int
    my_discriminator: int
    your_discriminator: int
    desired_min_tx_us: int
    required_min_rx_us: int
    diagnostic: int = Diagnostic.NONE
    poll: bool = False
    final: bool = False
    demand: bool = False

    def encode(self) -> bytes:
        """Return the 24 bytes."""
        flags = self.state << 6 | self.poll * _POLL | self.final * _FINAL | self.demand * _DEMAND
        return _LAYOUT.pack(
            VERSION << 5 | self.diagnostic,
            flags,
            self.multiplier,
            _LAYOUT.size,
            self.my_discriminator,
            self.your_discriminator,
            self.desired_min_tx_us,
            self.required_min_rx_us,
            0,
        )


def decode(data: bytes) -> Packet | None:
    """Decode a packet; None for one that section 6.8.6 discards for any session. Never raises.

    A packet with the A bit is discarded too: no session here uses authentication.
    """
    if len(data) < _LAYOUT.size:
        return None
    first, flags, multiplier, length, mine, yours, desired, required, _echo = _LAYOUT.unpack_from(data)
    if first >> 5 != VERSION or not _LAYOUT.size <= length <= len(data):
        return None
    if flags & (_AUTHENTICATED | _MULTIPOINT) or multiplier == 0 or mine == 0:
        return None
    state = SessionState(flags >> 6)
    if yours == 0 and state in (SessionState.INIT, SessionState.UP):
        return None
    return Packet(
        state=state,
        multiplier=multiplier,
        my_discriminator=mine,
        your_discriminator=yours,
        desired_min_tx_us=desired,
        required_min_rx_us=required,
        diagnostic=first & 0x1F,
        poll=bool(flags & _POLL),
        final=bool(flags & _FINAL),
        demand=bool(flags & _DEMAND),
    )
