# SPDX-License-Identifier: Apache-2.0
"""The Adj-RIBs-Out: what each neighbor gets as far as is known, and the next command towards what it is to get.

Owns what ExaBGP listed (verified), what it has confirmed since (assumed, until it is listed again), and the commands
that had no effect. When to send or to list is the conversation's (reconciler.py), what is desired the export policy's
(export.py). Pure: `now` is seconds of a monotonic clock. Standard library only: the relay archive carries this file.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from bgp.relay.diff import AdjRibsOut, RouteChange, diff
from bgp.route import Route

RETRY_S = 1.0
"""The pause before what ExaBGP refused is tried again."""


class AdjRibOut:
    """All neighbors' advertised routes, beside the desired ones."""

    def __init__(self) -> None:
        self.verified: dict[str, tuple[Route, ...]] = {}
        """By neighbor, as last listed, sorted by prefix."""
        self._assumed: dict[str, dict[str, Route]] = {}
        self._unverified: dict[tuple[str, str], Route | None] = {}
        """By neighbor and prefix, what was confirmed since the last list; None: withdrawn."""
        self._faults: dict[tuple[str, str], tuple[float, str]] = {}
        """By neighbor and prefix: when to try again, and why."""
        self._desired: AdjRibsOut = {}
        self._in_place = False
        """Whether `_assumed` is what is desired: nothing to compare while neither changes."""

    @property
    def unverified(self) -> bool:
        """Whether there were changes since the last list."""
        return bool(self._unverified)

    @property
    def errors(self) -> list[str]:
        """Why desired routes are not in place."""
        return [text for _retry_at, text in self._faults.values()]

    def set_desired(self, routes: AdjRibsOut) -> None:
        """Replace the desired routes. A neighbor that is not among them keeps what it has."""
        self._desired, self._in_place = routes, False

    def next_change(self, up: Collection[str], now: float) -> RouteChange | None:
        """Return the next change that is due. `up` are the neighbors with a session."""
        if self._in_place:
            return None
        changes = diff(self._assumed, self._desired)
        self._in_place = not changes
        # A neighbor that is down gets no new routes: a route that waits to be sent keeps ExaBGP from reloading its
        # configuration. Withdrawals do not wait, or ExaBGP would advertise the withdrawn routes on reconnecting.
        changes = [c for c in changes if c.neighbor in up or not c.advertise]
        open_faults = self._faults.keys() & {change.key for change in changes}
        self._faults = {key: self._faults[key] for key in sorted(open_faults)}
        return next((c for c in changes if self._faults.get(c.key, (now, ""))[0] <= now), None)

    def finish(self, change: RouteChange, done: bool, now: float) -> bool:
        """Take ExaBGP's answer to a change, `done` or refused; return `done`."""
        if not done:
            self._faults[change.key] = (now + RETRY_S, f"ExaBGP refused {change.command!r}")
            return False
        self._unverified[change.key] = change.route if change.advertise else None
        assumed = self._assumed.setdefault(change.neighbor, {})
        if change.advertise:
            assumed[change.route.prefix] = change.route
        else:
            assumed.pop(change.route.prefix, None)
        return True

    def verify(self, actual: Mapping[str, Mapping[str, Route]], now: float) -> bool:
        """Replace the assumed routes by ExaBGP's own list, and record the commands that had no effect.

        Return whether the list is another than the last one.
        """
        for key, expected in self._unverified.items():
            neighbor, prefix = key
            if neighbor not in actual or actual[neighbor].get(prefix) == expected:
                self._faults.pop(key, None)
            else:
                command = f"withdraw {prefix} from" if expected is None else f"announce {prefix} to"
                text = f"ExaBGP confirmed to {command} {neighbor}, but its adj-rib-out differs"
                self._faults[key] = (now + RETRY_S, text)
        self._unverified = {}
        before = self.verified
        self.verified = {
            address: tuple(routes[prefix] for prefix in sorted(routes)) for address, routes in actual.items()
        }
        self._assumed, self._in_place = {address: dict(routes) for address, routes in actual.items()}, False
        return self.verified != before
