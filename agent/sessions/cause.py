# SPDX-License-Identifier: Apache-2.0
"""Why a session changed, for those who watch. Pure."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum

from agent.sessions.tag_array import Slots, Tags


class Cause(IntEnum):
    """The numbers are those in a page's rows."""

    PACKET = 0
    EXPIRED = 1
    """No packet for its timeout."""
    CLOSED = 2
    """By an operator, or because its backend went down."""
    RECEIVED = 3
    """Another node handed it over, or what it knew of it."""
    HANDED_OVER = 4
    """The owner of its row has it."""
    DISPLACED = 5
    """A session of another node has its slot."""


OnChange = Callable[[Slots, Tags, Tags, Cause], None]
"""Gets the slots that were changed, and their tags before and after."""
