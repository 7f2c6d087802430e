# SPDX-License-Identifier: Apache-2.0
"""NAT sessions as pure functions: the slots that a flow's session may have, its states, and its timers.

A session is a numbered slot of one array that the nodes share by rows: bucket | row | way. Its tag, a word that changes
by compare-and-exchange only, has a fingerprint, the state, flags, and when the last packet came.

    SYN --(SYN-ACK seen, then acknowledged)--> EST --(FIN of either)--> FIN --(FINs of both, then ACK)--> CLOSED
    any --(RST that its receiver would accept)--> CLOSED

UDP is in SYN until the backend answers. A SYN-ACK must be seen and its number acknowledged: a forged SYN and ACK do not
hold a slot for an hour. An RST counts if its number is near what its receiver acknowledged last, or in answer to a SYN
if it acknowledges that (RFC 9293 section 3.10.7.3): who does not see the packets ends no session. Any other RST is
translated too; its receiver knows better.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from bpf.layout.nat import NAT_ROWS, Timeout
from bpf.layout.session import WAYS, SessionState, Tag, TagFlag
from bpf.reference.flow_hash import mix

NO_FLAGS: Final = TagFlag(0)
_WORD: Final = 0xFFFF_FFFF
RESET_WINDOW: Final = 1 << 20
"""How far an RST may be from what its receiver acknowledged, in bytes; and the first ACK from the SYN-ACK."""
ACK_STEP: Final = 1 << 18
"""By how many bytes a noted acknowledgment may be behind: a record that is written is slower to read on other CPUs."""
HALF_OPEN_MAX: Final = WAYS // 2
"""Sessions in SYN that a bucket takes: a flood of SYNs leaves the rest to those that are answered."""


@dataclass(frozen=True)
class Place:
    """Where a flow's session may be: a fingerprint, and two buckets of the row."""

    fingerprint: int
    buckets: tuple[int, int]


def place_of(flow_hash: int, row: int, bucket_bits: int) -> Place:
    """Return where the session of a flow of a NAT row may be, by its hash. A row has 2^`bucket_bits` buckets."""
    second = mix(flow_hash ^ 0x51ED_270B)
    mask = (1 << bucket_bits) - 1
    first, other = second & mask, second >> 7 & mask
    other ^= first == other
    return Place(second >> 16 | 1, (first * NAT_ROWS + row, other * NAT_ROWS + row))


@dataclass(frozen=True)
class Segment:
    """What a session learns from a packet: TCP's flags and numbers. UDP has none of them."""

    syn: bool = False
    ack: bool = False
    fin: bool = False
    rst: bool = False
    sequence: int = 0
    acknowledgment: int = 0
    udp: bool = False


@dataclass(frozen=True)
class Progress:
    """How far a session is: of its tag state and flags, of its record what each end acknowledged last."""

    state: SessionState
    flags: TagFlag = NO_FLAGS
    client_ack: int = 0
    backend_ack: int = 0


def opened(segment: Segment) -> Progress:
    """Return the progress of a new session. The backend is going to acknowledge the SYN."""
    if segment.udp:
        return Progress(SessionState.SYN, TagFlag.UDP)
    return Progress(SessionState.SYN, backend_ack=segment.sequence + 1 & _WORD)


def followed(now: Progress, segment: Segment, from_client: bool) -> Progress:
    """Return the progress after a packet of the session, from the client or from the backend."""
    if segment.udp:
        return now if from_client or now.state is not SessionState.SYN else replace(now, state=SessionState.EST)
    now = _noted(now, segment, from_client)
    if now.state is SessionState.CLOSED:
        return now
    if segment.rst:
        if not is_credible_reset(now, segment, from_client):
            return now
        return replace(now, state=SessionState.CLOSED, flags=now.flags | TagFlag.RESET)
    return _moved(now, segment, from_client)


def is_credible_reset(now: Progress, segment: Segment, from_client: bool) -> bool:
    """Return whether an RST ends the session, by the numbers that its receiver acknowledged last."""
    if from_client:
        return _is_near(segment.sequence, now.backend_ack)
    if now.state is SessionState.SYN and TagFlag.SYNACK_SEEN not in now.flags:
        return segment.ack and segment.acknowledgment == now.backend_ack
    return _is_near(segment.sequence, now.client_ack)


def _is_near(number: int, acknowledged: int, window: int = RESET_WINDOW) -> bool:
    return (number - acknowledged + window & _WORD) <= 2 * window


def _noted(now: Progress, segment: Segment, from_client: bool) -> Progress:
    """Note what an end acknowledges; before that, by SYN and SYN-ACK, what the other end is going to acknowledge."""
    if now.state is SessionState.SYN:
        if segment.syn and from_client and not segment.ack:
            return replace(now, backend_ack=segment.sequence + 1 & _WORD)
        if segment.syn and segment.ack and not from_client:
            return replace(now, client_ack=segment.sequence + 1 & _WORD)
        return now
    if not segment.ack or segment.syn or segment.rst:
        return now
    before = now.client_ack if from_client else now.backend_ack
    after = before if _is_near(segment.acknowledgment, before, ACK_STEP) else segment.acknowledgment
    return replace(now, client_ack=after) if from_client else replace(now, backend_ack=after)


def _moved(now: Progress, segment: Segment, from_client: bool) -> Progress:
    """Note FINs and the SYN-ACK, and change the state, more than once if the packet is of more than one kind."""
    flags, both = now.flags, TagFlag.CLIENT_FIN | TagFlag.BACKEND_FIN
    if segment.fin and _is_near(segment.sequence, now.backend_ack if from_client else now.client_ack):
        if not from_client and not flags & both:
            flags |= TagFlag.CLOSED_BY_BACKEND
        flags |= TagFlag.CLIENT_FIN if from_client else TagFlag.BACKEND_FIN
    if not from_client and segment.syn and segment.ack:
        flags |= TagFlag.SYNACK_SEEN
    now = replace(now, flags=flags)
    opens = from_client and segment.ack and not segment.syn and TagFlag.SYNACK_SEEN in flags
    if now.state is SessionState.SYN and opens and _is_near(segment.acknowledgment, now.client_ack):
        now = replace(now, state=SessionState.EST)
    if now.state is SessionState.EST and flags & both:
        now = replace(now, state=SessionState.FIN)
    if now.state is SessionState.FIN and flags & both == both and segment.ack and not segment.fin:
        now = replace(now, state=SessionState.CLOSED)
    return now


def timeout_of(tag: Tag, timeouts: Mapping[Timeout, int], full: bool = False) -> int:
    """Return after how many ticks without a packet a slot may be given to another session.

    `full`: its bucket has no other room, which half-open sessions leave sooner. `timeouts` are in ticks.
    """
    if tag.state is SessionState.SYN and full:
        return timeouts[Timeout.SYN_FULL]
    if tag.state is SessionState.CLOSED:
        first = TagFlag.CLOSED_BY_BACKEND in tag.flags
        return timeouts[Timeout.CLOSED_BY_BACKEND if first else Timeout.CLOSED]
    if TagFlag.UDP in tag.flags:
        return timeouts[Timeout.UDP if tag.state is SessionState.SYN else Timeout.UDP_BOTH]
    return timeouts[_TIMEOUT[tag.state]]


_TIMEOUT: Final = {
    SessionState.SYN: Timeout.SYN,
    SessionState.EST: Timeout.EST,
    SessionState.FIN: Timeout.FIN,
}


def is_free(tag: Tag, now: int, timeouts: Mapping[Timeout, int], full: bool = False) -> bool:
    """Return whether a new session may have the slot, never one that is being written or reserved. `now` is a tick."""
    if tag.state in (SessionState.FREE, SessionState.BUSY, SessionState.RESERVED):
        return tag.state is SessionState.FREE
    return (now - tag.stamp & _WORD) > timeout_of(tag, timeouts, full)
