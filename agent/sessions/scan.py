# SPDX-License-Identifier: Apache-2.0
"""What the tags of all sessions say: how many there are in each state, and which have expired. Pure.

A scan of a million tags takes 8 ms. It looks at a copy of each part: a tag that changes meanwhile is whole, and what
has expired is freed only if its tag is still the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from agent.sessions.tag_array import LIVE, Slots, Tags, idle, states_of
from bpf.layout.nat import TIMEOUTS_S, Timeout, ticks
from bpf.layout.session import SessionState, TagFlag

PART: Final = 1 << 15
"""Tags that are looked at in one go: they stay in the processor's cache."""
BUSY_S: Final = 30.0
"""After so long it is sure that whatever claimed a slot has ended before it wrote the record."""
RESERVED_S: Final = 60.0
"""How long a slot is reserved for the session that another node has. That node asks again sooner, while it lives."""
_NEVER: Final = np.iinfo(np.int32).max


@dataclass(frozen=True, slots=True, eq=False)
class Scan:
    """What one pass over all tags has found."""

    states: Mapping[SessionState, int]
    """The slots in each state; they add up to all slots."""
    expired: Slots
    """The slots to free."""
    tags: Tags
    """Their tags when they were found, in the same order."""
    given: int
    """The slots that new sessions may get: the first ones."""
    free: int
    """Those of them that are free."""

    @property
    def live(self) -> int:
        """Return the number of sessions."""
        return sum(self.states[state] for state in LIVE)

    @property
    def load(self) -> float:
        """Return the share of the slots for new sessions that are used."""
        return 1 - self.free / self.given


def limits(pressure: bool = False) -> npt.NDArray[np.int32]:
    """Return the most ticks without a packet, by a tag's bits 47 to 32 (state and flags), shape (65536,).

    Under pressure half-open sessions end sooner: so a flood of 20,000 SYNs a second holds 100,000 slots, not 600,000.
    """
    table = np.full((256, 256), _NEVER, np.int32)
    flags = np.arange(256)
    udp, by_backend = (flags & TagFlag.UDP) != 0, (flags & TagFlag.CLOSED_BY_BACKEND) != 0
    half_open = Timeout.SYN_FULL if pressure else Timeout.SYN
    for state, timeout in (
        (SessionState.SYN, half_open),
        (SessionState.EST, Timeout.EST),
        (SessionState.FIN, Timeout.FIN),
        (SessionState.CLOSED, Timeout.CLOSED),
    ):
        table[state] = ticks(TIMEOUTS_S[timeout])
    table[SessionState.SYN, udp] = ticks(TIMEOUTS_S[half_open if pressure else Timeout.UDP])
    table[SessionState.EST, udp] = ticks(TIMEOUTS_S[Timeout.UDP_BOTH])
    table[SessionState.CLOSED, by_backend] = ticks(TIMEOUTS_S[Timeout.CLOSED_BY_BACKEND])
    table[SessionState.BUSY] = ticks(BUSY_S)
    table[SessionState.RESERVED] = ticks(RESERVED_S)
    return table.reshape(-1)


def scan(tags: Tags, now: int, limit: npt.NDArray[np.int32], given: int | None = None) -> Scan:
    """Look at all tags. `now` is the tick of this moment or an earlier one; `limit` is what `limits` returns; `given`
    is how many slots new sessions may get, a multiple of PART: all, if it is None."""
    given, free = len(tags) if given is None else given, 0
    states = np.zeros(len(SessionState), np.int64)
    expired, found = [], []
    for start in range(0, len(tags), PART):
        part = tags[start : start + PART].copy()
        states_of_part = states_of(part).copy()
        for state in SessionState:
            states[state] += np.count_nonzero(states_of_part == state)
        if start < given:
            free = int(states[SessionState.FREE])
        places = np.flatnonzero(idle(part, now) > limit[part.view(np.uint16)[2::4]])
        expired.append(places + start)
        found.append(part[places])
    by_state = dict(zip(SessionState, states.tolist(), strict=True))
    return Scan(by_state, np.concatenate(expired), np.concatenate(found), given, free)
