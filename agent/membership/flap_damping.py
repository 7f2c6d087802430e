# SPDX-License-Identifier: Apache-2.0
"""Damping of members that come and go, after RFC 2439. Pure; `now` is CLOCK_MONOTONIC seconds.

Each loss of a member costs a penalty, which halves every `HALF_LIFE_S`. Above `SUPPRESS` a member that is present
counts as lost: no new flows, but its place in the chains is kept, for its connections live. Below `REUSE` it is up
again.

With these figures the third loss within half a minute damps, or the fourth within a minute; one or two restarts do not.
A member that has come to rest is back after a minute and a half, and after three minutes however often it went. RFC
2439 section 4.2 keeps routes away for up to an hour; a server's share of the load is worth more than a quiet table.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv4Address

PENALTY = 1000.0
SUPPRESS = 2500.0
REUSE = 1000.0
CEILING = 8000.0
HALF_LIFE_S = 60.0


@dataclass(slots=True)
class _Record:
    penalty: float
    at: float
    damped: bool = False


class Damping:
    """The penalties of all members."""

    def __init__(self) -> None:
        self._records: dict[IPv4Address, _Record] = {}

    def charge(self, address: IPv4Address, now: float) -> None:
        """A member was lost by itself, not together with many others."""
        penalty = min(CEILING, self._penalty(address, now) + PENALTY)
        damped = address in self._records and self._records[address].damped
        self._records[address] = _Record(penalty, now, damped or penalty >= SUPPRESS)

    def damped(self, now: float, known: Collection[IPv4Address]) -> dict[IPv4Address, float]:
        """Who is damped among the members `known`, and for how many seconds more if it stays.

        At most a third of all nodes (this one included), but one at least: where more come and go the fault lies with
        the router or the network, and without them each node would take all new flows itself.
        """
        for address, record in list(self._records.items()):
            penalty = self._penalty(address, now)
            if penalty < REUSE:
                record.damped = False
            if penalty < 1.0:
                del self._records[address]
        worst = sorted(
            (a for a, record in self._records.items() if record.damped and a in known),
            key=lambda a: (-self._penalty(a, now), a),
        )
        allowed = max(1, (len(known) + 1) // 3)
        return {a: HALF_LIFE_S * math.log2(self._penalty(a, now) / REUSE) for a in worst[:allowed]}

    def _penalty(self, address: IPv4Address, now: float) -> float:
        record = self._records.get(address)
        return record.penalty * 2.0 ** ((record.at - now) / HALF_LIFE_S) if record else 0.0
