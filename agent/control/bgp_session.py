# SPDX-License-Identifier: Apache-2.0
"""The BGP sessions as JSON and as text: state, since when, why one is down, when it is tried again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bgp.bfd.status import BfdStatus
from bgp.relay.client import RelayClient


def sessions(relay: RelayClient, now: float) -> list[dict[str, Any]]:
    """Return each session of the relay's last snapshot; `now` is of CLOCK_MONOTONIC.

    `state` is up or down, or unknown while the relay is away or ExaBGP does not answer it.
    """
    snapshot = relay.snapshot
    if snapshot is None:
        return []
    known = relay.connected and not snapshot.silent
    return [
        {
            "address": peer.address,
            "state": ("up" if peer.up else "down") if known else "unknown",
            "since_s": round(max(0.0, now - peer.since), 1) if known and peer.since else None,
            "why": peer.why if known and not peer.up else "",
            "retry_s": peer.retry_s if known and not peer.up else None,
            "foreign_routes": peer.foreign,
            "bfd": _bfd(peer.bfd, now) if peer.bfd and relay.connected else None,
        }
        for peer in snapshot.peers
    ]


def down_text(session: Mapping[str, Any]) -> str:
    """Return why a session is down, for people, to follow the router's address."""
    since = "" if session["since_s"] is None else f" for {session['since_s']:.0f} s"
    why = session["why"] or "no attempt has ended yet"
    retry = "" if session["retry_s"] is None else f" (next try within {session['retry_s']} s)"
    return f"down{since}: {why}{retry}"


def _bfd(bfd: BfdStatus, now: float) -> dict[str, Any]:
    return {
        "state": bfd.state,
        "since_s": round(now - bfd.since, 1),
        "diagnostic": bfd.diagnostic,
        "interval_ms": bfd.interval_ms,
        "detection_ms": bfd.detection_ms,
        "error": bfd.error,
    }
