# SPDX-License-Identifier: Apache-2.0
"""The channel's counters: what became of datagrams."""

from __future__ import annotations

from enum import StrEnum


class Count(StrEnum):
    """What is counted. A datagram that is received and not counted again was accepted."""

    SENT = "sent"
    RECEIVED = "received"
    MALFORMED = "malformed"
    """None of the channel's datagrams, or cut."""
    OVERSIZED = "oversized"
    OTHER_VERSION = "other_version"
    OTHER_CLUSTER = "other_cluster"
    BAD_MAC = "bad_mac"
    """Not signed with the cluster's key: forged, damaged, or of a node with another key."""
    WRONG_RECEIVER = "wrong_receiver"
    """Meant for another node."""
    WRONG_SOURCE = "wrong_source"
    """Signed by a node that has another address."""
    UNKNOWN_SENDER = "unknown_sender"
    STALE_SESSION = "stale_session"
    """Replayed from an earlier session, or of a peer that does not know the present one yet."""
    REPEATED = "repeated"
    """A copy, or overtaken by a newer one."""
    UNKNOWN_KIND = "unknown_kind"
    BAD_STATE = "bad_state"
    NOT_SENT = "not_sent"
    """Dropped here: too many answers wait for `step`."""
