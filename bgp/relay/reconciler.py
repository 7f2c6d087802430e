# SPDX-License-Identifier: Apache-2.0
"""The relay's mind: what ExaBGP should be told next, and what the agent should be told of it.

Pure: lines and wishes come in with the time (`now`, seconds of a clock that only grows), commands and snapshots go
out; process.py does the reading and writing. Standard library only: the relay carries this file (helper_archive.py).

The rules:
 1. A relay may be the successor of a killed one, and ExaBGP keeps its routes meanwhile. So the first thing is to learn
    how things stand: forget what the predecessor left in the queue, then ask for neighbors, learned routes and
    announced routes. What ExaBGP reports while it lists is newer than the list.
 2. One command at a time: the next one is sent when the last was answered. `done` means understood, not sent.
 3. Announced is what `show adj-rib out` lists, never what we asked for. It is asked after each round of changes, and
    every 30 s. What ExaBGP refused, or said `done` to and then does not list, is an error and tried again each second.
    Each neighbor is told for itself: they differ in address families and in the AS that is prepended.
 4. The wish is the agent's while it speaks. Silent for 10 s: its fallback. Not heard at all for the first 10 s:
    nothing. Before that, a relay that knows of no wish touches nothing. Where too few others are left to announce the
    VIPs, they stay beside the fallback (quorum.py).
 5. Nothing outside the allowed prefixes is announced, whatever the agent wishes (allowlist.py).
 6. ExaBGP reports a session's end, but no withdrawals with it: its routes are flushed here.
 7. A neighbor that is down is told new routes when it is back; withdrawals at once, for ExaBGP tells what it told
    before by itself.
 8. Neighbors come, go and change when ExaBGP reads its configuration again, and a new one's adj-rib-out is empty. So
    after each change of a session neighbors and announced routes are asked for anew.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from bgp.bfd.files import BfdState
from bgp.exabgp import messages
from bgp.relay.adj_rib_in import AdjRibIn
from bgp.relay.allowlist import Network, refused
from bgp.relay.diff import RouteChange, diff
from bgp.relay.protocol import DesiredRoutes, Peer, Snapshot
from bgp.relay.quorum import Quorum
from bgp.route import Route

DEADMAN_S = 10.0
RETRY_S = 1.0
REVERIFY_S = 30.0
UNANSWERED_S = 5.0
"""From here on, a command without an answer is reported as an error."""
HUNG_S = 60.0
"""From here on, the answer is taken for lost: only a new helper gets back in step with ExaBGP."""


class _Step(enum.Enum):
    HANDSHAKE = messages.SHOW_VERSION
    NEIGHBORS = messages.SHOW_NEIGHBORS
    LEARN = messages.SHOW_LEARNED
    VERIFY = messages.SHOW_ANNOUNCED
    CHANGE = "change"


@dataclass
class _Asked:
    """The command that ExaBGP has not answered yet."""

    step: _Step
    text: str
    at: float
    change: RouteChange | None = None
    heard_version: bool = False
    listed: dict[str, dict[str, Route]] = field(default_factory=dict)


class Reconciler:
    """One conversation with ExaBGP. Feed it, then take `commands()` and, when `revision` grew, `snapshot()`."""

    def __init__(self, now: float, allowed: Iterable[Network] = ()) -> None:
        """`allowed`: where the host routes lie that may be announced (allowlist.py)."""
        self.ready = False
        """Whether it has learned how things stand: a snapshot before that would tell the agent that all is gone."""
        self._intake = AdjRibIn()
        self._verified: dict[str, dict[str, Route]] = {}
        self._believed: dict[str, dict[str, Route]] = {}
        self._unverified: dict[tuple[str, str], Route | None] = {}
        self._verified_at = now
        self._look_again_at: float | None = None
        self._allowed = tuple(allowed)
        self._refused: list[str] = []
        self._wish: DesiredRoutes | None = None
        self._wished_at = now
        self.deadman = False
        """Whether the agent has been silent for too long."""
        self.held = False
        """Whether its VIPs stay announced all the same."""
        self._floor = Quorum()
        self.error: str | None = None
        """What keeps the wish from being so, if anything."""
        self._todo = [_Step.HANDSHAKE, _Step.NEIGHBORS, _Step.LEARN, _Step.VERIFY]
        self._not_before = now
        self._asked: _Asked | None = None
        self._outbox: list[str] = []
        self._faults: dict[tuple[str, str], tuple[float, str]] = {}
        self._bfd: Mapping[str, BfdState] = {}
        self._own_revision = 0
        self._advance(now)

    @property
    def revision(self) -> int:
        """A number that grows whenever the snapshot changes."""
        return self._own_revision + self._intake.revision

    def hung(self, now: float) -> bool:
        """Say whether to give up on this conversation and let a successor begin a new one."""
        return self._asked is not None and now - self._asked.at > HUNG_S

    def commands(self) -> list[str]:
        """Return the lines to write to ExaBGP now, once."""
        lines, self._outbox = self._outbox, []
        return lines

    def allow(self, allowed: Iterable[Network], now: float) -> None:
        """Take another list of what may be announced; what it does not hold is withdrawn."""
        self._allowed = tuple(allowed)
        self.tick(now)

    def wished(self, wish: DesiredRoutes, now: float) -> None:
        """Take the agent's wish, which is its heartbeat too."""
        self._wish, self._wished_at = wish, now
        self._floor.wished(wish)
        self.tick(now)

    def watched(self, states: Mapping[str, BfdState]) -> None:
        """Take what the BFD process sees of the neighbors: for the agent to show, nothing follows from it here."""
        self._bfd = states
        self._own_revision += 1

    def heard(self, line: str, now: float) -> None:
        """Take one line from ExaBGP; `tick` after a batch of them."""
        said = messages.parse(line)
        asked = self._asked
        match said:
            case messages.Answer():
                self._answered(said.done, now)
                self.tick(now)
            case messages.Version() if asked and asked.step is _Step.HANDSHAKE:
                asked.heard_version = True
            case messages.Neighbors() if asked and asked.step is _Step.NEIGHBORS:
                self._intake.neighbors_are(said.all, now)
            case messages.ListedRoute() if asked and asked.step is _Step.LEARN:
                self._intake.listed(said.peer, said.route)
            case messages.ListedRoute() if asked and asked.step is _Step.VERIFY:
                asked.listed.setdefault(said.peer, {})[said.route.prefix] = said.route
            case messages.SessionChange():
                if self._intake.session(said.peer, said.up, now):
                    # One that was removed from the configuration is still listed for a moment.
                    self._look_again_at = now if said.up else now + RETRY_S
            case messages.Update():
                self._intake.update(said.peer, said.announced, said.withdrawn, now)
            case messages.EndOfRib():
                self._intake.end_of_rib(said.peer, said.family)

    def tick(self, now: float) -> None:
        """Let time pass: the dead-man, retries, the regular check."""
        deadman = now - self._wished_at > DEADMAN_S
        if deadman:
            self._floor.observe(self._intake.neighbors, now)
        held = deadman and self._wish is not None and self._floor.holds
        if (deadman, held) != (self.deadman, self.held):
            self.deadman, self.held = deadman, held
            self._own_revision += 1
        if not self._todo and self._intake.wants_relearning:
            self._todo.append(_Step.LEARN)
        elif not self._todo and self._look_due(now):
            self._look_again_at = None
            self._todo += [_Step.NEIGHBORS, _Step.VERIFY]
        self._intake.tick(now)
        self._advance(now)
        error = self._find_error(now)
        if error != self.error:
            self.error = error
            self._own_revision += 1

    def snapshot(self) -> Snapshot:
        """Return all there is to tell the agent."""
        peers = tuple(
            Peer(
                n.address,
                n.up,
                n.since,
                n.eor,
                tuple(n.routes.values()),
                frozenset(self._verified.get(n.address, ())),
                tuple(self._verified.get(n.address, {}).values()),
                self._bfd.get(n.address),
                n.agreed if n.up else n.families,
                n.own_address,
            )
            for n in self._intake.neighbors
        )
        return Snapshot(peers, self.error, self.deadman, self.held)

    def _look_due(self, now: float) -> bool:
        return now - self._verified_at > REVERIFY_S or (self._look_again_at is not None and now >= self._look_again_at)

    def _wanted(self) -> dict[str, dict[str, Route]]:
        """By neighbor and prefix; empty while nobody has said: leave things as they are."""
        routes: tuple[Route, ...] = ()
        if self._wish is not None:
            routes = self._wish.fallback if self.deadman else self._wish.desired
            if self.held:
                instead = {route.prefix for route in routes}
                routes += tuple(route for route in self._wish.desired if route.prefix not in instead)
        elif not self.deadman:
            return {}
        self._refused = refused((route.prefix for route in routes), self._allowed)
        routes = tuple(route for route in routes if route.prefix not in self._refused)
        return {n.address: {r.prefix: r for r in n.hears(routes)} for n in self._intake.neighbors if n.known}

    def _advance(self, now: float) -> None:
        if self._asked is not None or now < self._not_before:
            return
        change = None if self._todo else self._next_change(now)
        if change is not None:
            self._asked = _Asked(_Step.CHANGE, change.command, now, change)
        elif self._todo or self._unverified:
            step = self._todo.pop(0) if self._todo else _Step.VERIFY
            self._asked = _Asked(step, step.value, now)
            if step is _Step.HANDSHAKE:
                self._outbox.append(messages.FORGET_PENDING)
            elif step is _Step.LEARN:
                self._intake.begin_listing()
        else:
            return
        self._outbox.append(self._asked.text)

    def _next_change(self, now: float) -> RouteChange | None:
        # A neighbor that is down is told nothing new until it is back: a route that waits to be sent keeps ExaBGP from
        # reading its configuration anew. Withdrawals do not wait, else it would tell what is gone on reconnecting.
        up = {n.address for n in self._intake.neighbors if n.up}
        changes = [c for c in diff(self._believed, self._wanted()) if c.neighbor in up or not c.announce]
        open_faults = self._faults.keys() & {change.place for change in changes}
        self._faults = {place: self._faults[place] for place in sorted(open_faults)}
        return next((c for c in changes if self._faults.get(c.place, (now, ""))[0] <= now), None)

    def _answered(self, done: bool, now: float) -> None:
        asked = self._asked
        if asked is None or (asked.step is _Step.HANDSHAKE and not asked.heard_version):
            return  # meant for a predecessor
        self._asked = None
        if asked.change is not None:
            self._changed(asked.change, done, now)
        elif not done:
            self._todo.insert(0, asked.step)
            self._not_before = now + RETRY_S
        elif asked.step is _Step.LEARN:
            self._intake.end_listing()
        elif asked.step is _Step.VERIFY:
            self._check(asked.listed, now)

    def _changed(self, change: RouteChange, done: bool, now: float) -> None:
        if not done:
            self._faults[change.place] = (now + RETRY_S, f"ExaBGP refused {change.command!r}")
            self._look_again_at = now  # there may be no such neighbor any more
            return
        self._unverified[change.place] = change.route if change.announce else None
        heard = self._believed.setdefault(change.neighbor, {})
        if change.announce:
            heard[change.route.prefix] = change.route
        else:
            heard.pop(change.route.prefix, None)

    def _check(self, listed: dict[str, dict[str, Route]], now: float) -> None:
        """Take ExaBGP's list of what it announces as the truth."""
        announced = {n.address: listed.get(n.address, {}) for n in self._intake.neighbors}
        for place, expected in self._unverified.items():
            neighbor, prefix = place
            if neighbor not in announced or announced[neighbor].get(prefix) == expected:
                self._faults.pop(place, None)
            else:
                what = f"withdrew {prefix} from" if expected is None else f"announced {prefix} to"
                text = f"ExaBGP says it {what} {neighbor}, but its adj-rib-out differs"
                self._faults[place] = (now + RETRY_S, text)
        self._unverified = {}
        self._verified_at = now
        if announced != self._verified or not self.ready:
            self._verified = announced
            self._own_revision += 1
        self._believed = {address: dict(routes) for address, routes in announced.items()}
        self.ready = True

    def _find_error(self, now: float) -> str | None:
        errors = [text for _retry_at, text in self._faults.values()]
        if self._asked and now - self._asked.at > UNANSWERED_S:
            errors.append(f"ExaBGP does not answer {self._asked.text!r}")
        elif now < self._not_before:
            errors.append(f"ExaBGP refused {self._todo[0].value!r}")
        errors += self._intake.errors
        if self._refused:
            errors.append(f"the agent wishes {', '.join(self._refused[:3])}, which bgp.allow does not: refused")
        if not errors:
            return None
        return errors[0] + (f" (and {len(errors) - 1} more)" if len(errors) > 1 else "")
