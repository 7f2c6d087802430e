# SPDX-License-Identifier: Apache-2.0
"""What becomes of two records of one slot: this node's own and one that another node sent. Pure; numpy over records.

1. A slot that is free, or reserved for a session that this node could not take, takes the other's record.
2. The same session: OR of the flags, the more advanced state, the later stamp; the acknowledgments of the later stamp.
3. Two sessions, and one had its last packet before the other was created: it is a leftover of a node that owned the row
   before, and the other one stays. The node that created the other one had the slot free.
4. Two sessions, one of them closed: the live one stays.
5. Two live sessions (two nodes owned the row at the same time): the older one stays, and the younger one is reset.
   Equally old ones are ordered by their bytes, so that all nodes choose the same one.
"""

from __future__ import annotations

import enum

import numpy as np
from numpy.typing import NDArray

from agent.handover.record import Records, identities
from bpf.layout.session import SessionState


class Outcome(enum.IntEnum):
    """What to do with the record that arrived."""

    DROP = 0
    """This node's record stays; the other one has no more packets."""
    TAKE = 1
    """It takes the slot, which is free or of a session that is over."""
    TAKE_AND_RESET = 2
    """It takes the slot of a live session, which is reset."""
    MERGE = 3
    """It is the same session."""
    REFUSE = 4
    """This node's session stays, and the other one is to be reset by who sent it."""
    WAIT = 5
    """The slot is just being written."""


Outcomes = NDArray[np.uint8]


def outcomes(own: Records, other: Records) -> Outcomes:
    """Return an outcome for each pair of records; `own` has state 0 where the slot is free."""
    ids_own, ids_other = identities(own), identities(other)
    same = (ids_own == ids_other).all(axis=1)
    # Greater ages are earlier times. Rounding makes a copy older or younger by one tick.
    own_over = own["stamp_age"] > other["created_age"] + np.uint32(1)
    other_over = other["stamp_age"] > own["created_age"] + np.uint32(1)
    own_closed, other_closed = own["state"] == SessionState.CLOSED, other["state"] == SessionState.CLOSED
    older = (other["created_age"] > own["created_age"]) | (
        (other["created_age"] == own["created_age"]) & _less(ids_other, ids_own)
    )
    choices = [
        (own["state"] == SessionState.BUSY, Outcome.WAIT),
        (np.isin(own["state"], (SessionState.FREE, SessionState.RESERVED)), Outcome.TAKE),
        (own_over, Outcome.TAKE),
        (other_over, Outcome.DROP),
        (same, Outcome.MERGE),
        (other_closed, Outcome.DROP),
        (own_closed, Outcome.TAKE),
        (older, Outcome.TAKE_AND_RESET),
    ]
    found = np.select([condition for condition, _ in choices], [one for _, one in choices], Outcome.REFUSE)
    return found.astype(np.uint8)


def merged(own: Records, other: Records) -> Records:
    """Return the records of the sessions that both have."""
    found = own.copy()
    later = other["stamp_age"] < own["stamp_age"]
    for name in ("client_ack", "backend_ack"):
        found[name] = np.where(later, other[name], own[name])
    found["stamp_age"] = np.minimum(own["stamp_age"], other["stamp_age"])
    ends = (own["state"] != SessionState.CLOSED) & (other["state"] == SessionState.CLOSED)
    found["fingerprint"] = np.where(ends, other["fingerprint"], own["fingerprint"])  # one that was killed is hidden
    found["state"] = np.maximum(own["state"], other["state"])
    found["flags"] = own["flags"] | other["flags"]
    return found


def _less(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return which rows of bytes are less than the others', as numbers."""
    differ = one != other
    first = differ.argmax(axis=1)[:, None]
    found: NDArray[np.bool_] = np.take_along_axis(one, first, 1)[:, 0] < np.take_along_axis(other, first, 1)[:, 0]
    return found
