# SPDX-License-Identifier: Apache-2.0
"""What is in the tags of many sessions: one numpy expression for each field of bpf/layout/session.py's Tag. Pure."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from bpf.layout.session import SessionState, TagFlag

Tags = npt.NDArray[np.uint64]
Slots = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

LIVE: Final = (SessionState.SYN, SessionState.EST, SessionState.FIN)
"""What counts as a session: the other used slots hold none yet, or none any more."""


def states_of(tags: Tags) -> npt.NDArray[np.uint8]:
    """Return the states, as a view."""
    return tags.view(np.uint8)[5::8]


def flags_of(tags: Tags) -> npt.NDArray[np.uint8]:
    """Return the flags, as a view."""
    return tags.view(np.uint8)[4::8]


def are_live(tags: Tags) -> Mask:
    """Return which are sessions."""
    live: Mask = np.less_equal(states_of(tags) - np.uint8(SessionState.SYN), SessionState.FIN - SessionState.SYN)
    return live


def are_ipv6(tags: Tags) -> Mask:
    """Return whose record is one of IPv6."""
    ipv6: Mask = np.not_equal(flags_of(tags) & TagFlag.IPV6, 0)
    return ipv6


def idle(tags: Tags, now: int) -> npt.NDArray[np.int32]:
    """Return the ticks since the last packet of each; below 0 if it came after the tick `now`."""
    return (np.uint32(now & 0xFFFF_FFFF) - tags.view(np.uint32)[0::2]).view(np.int32)


def same_session(before: Tags, after: Tags) -> Mask:
    """Return where two readings of a slot found the same session: its record did not change in between."""
    unused = (SessionState.FREE, SessionState.BUSY, SessionState.RESERVED)
    same: Mask = np.equal(before >> np.uint64(48), after >> np.uint64(48))
    return same & ~np.isin(states_of(after), unused)
