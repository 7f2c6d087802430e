# SPDX-License-Identifier: Apache-2.0
"""Flap damping of members, after RFC 2439. Pure; `now` is CLOCK_MONOTONIC seconds.

Each loss of a member adds `PENALTY`, and the sum halves every `HALF_LIFE_S`. Above `SUPPRESS` a member that is present
counts as lost: it gets no new flows, but keeps its place in the chains for its live connections. Below `REUSE` it is up
again.

With these figures the third loss within half a minute damps, or the fourth within a minute; one or two restarts do not.
A member that stops flapping is back after a minute and a half, and after three minutes however often it flapped. RFC
2439 section 4.2 suppresses routes for up to an hour; here a server's share of the load matters more than a quiet
table.

The hold-down of this node's own VIPs is announcing/hold_down.py's.
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


class FlapDamping:
    """The penalties of all members."""

    def __init__(self) -> None:
        self._records: dict[IPv4Address, _Record] = {}

    @property
    def active(self) -> bool:
        """Whether any member has a penalty."""
        return bool(self._records)

    def add_penalty(self, address: IPv4Address, now: float) -> None:
        """Charge a member for a loss of its own (not a mass loss)."""
        penalty = min(CEILING, self._penalty(address, now) + PENALTY)
        damped = address in self._records and self._records[address].damped
        self._records[address] = _Record(penalty, now, damped or penalty >= SUPPRESS)

    def damped(self, now: float, known: Collection[IPv4Address]) -> dict[IPv4Address, float]:
        """Return the damped ones among the members `known`, with the seconds left if they flap no more.

        At most a third of all nodes (this one included), but at least one: where more flap the fault lies with the
        router or the network, and without them each node would take all new flows itself.
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
