# SPDX-License-Identifier: Apache-2.0
"""The reconciler: compares the routes that ExaBGP advertises with the desired ones, and derives its next command.

Pure: takes ExaBGP's lines and the agent's desired routes with the time (`now`, seconds of a monotonic clock), returns
commands and snapshots; process.py reads and writes. Standard library only: the relay archive carries this file.

The rules:
 1. A relay may be the successor of a killed one, and ExaBGP keeps its routes meanwhile. So it first learns the state:
    it drops what the predecessor left in the queue, then lists neighbors, learned routes and advertised routes. Events
    that arrive during a list are newer than the list.
 2. One command at a time: the next is sent when the last was answered. `done` means understood, not sent.
 3. Advertised is what `show adj-rib out` lists, never what we asked for. It is listed after each round of changes, and
    every 30 s. A command that ExaBGP refuses, or answers with `done` and without effect, is an error, retried each
    second. Commands are per neighbor: neighbors differ in address families and in the AS that is prepended.
 4. The agent's desired routes apply while it sends them. After 10 s of silence its fallback applies, and a new relay
    without an agent withdraws everything after 10 s; until then it changes nothing. If too few other nodes remain that
    announce the VIPs, they stay, next to the fallback (quorum.py). A stop is the same without the 10 s (deadman.py).
 5. Nothing outside the allowlist is advertised, whatever the agent desires, or learned, whatever a router sends
    (allowlist.py).
 6. ExaBGP reports the end of a session without withdrawals: its routes are dropped here.
 7. A neighbor that is down gets new routes when it is up again, but withdrawals at once: ExaBGP itself advertises its
    Adj-RIB-Out again on reconnecting.
 8. What ExaBGP last reported holds as long as it answers: each second without a line from it, it is asked for an
    answer. After 2 s without one the report is that nothing is known (`silent`), until the next line.
 9. Neighbors appear, disappear and change when ExaBGP reloads its configuration, and the Adj-RIB-Out of a new one is
    empty. So neighbors and advertised routes are listed again after each change of a session.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from bgp.bfd.status import BfdStatus
from bgp.exabgp import messages
from bgp.relay.adj_rib_in import AdjRibIn
from bgp.relay.adj_rib_out import RETRY_S, AdjRibOut
from bgp.relay.allowlist import ANY, Exactly, Network
from bgp.relay.deadman import DeadMan
from bgp.relay.diff import RouteChange
from bgp.relay.export import ExportPolicy
from bgp.relay.protocol import DesiredRoutes, Peer, Snapshot
from bgp.route import Route

SESSION_UP = "session up"
"""In the log of sessions."""
REVERIFY_S = 30.0
PING_S = 1.0
"""After this time without a line from ExaBGP the relay asks it for an answer."""
SILENT_S = 2.0
"""After this time without a line, and with a command that waits for its answer, ExaBGP counts as silent."""
HUNG_S = 60.0
"""After this time the answer counts as lost: only a new helper is in step with ExaBGP again."""


class _Step(enum.Enum):
    HANDSHAKE = messages.SHOW_VERSION
    NEIGHBORS = messages.SHOW_NEIGHBORS
    LEARN = messages.SHOW_ADJ_RIB_IN
    VERIFY = messages.SHOW_ADJ_RIB_OUT
    PING = messages.PING
    CHANGE = "change"


@dataclass
class _PendingCommand:
    """The command that ExaBGP has not answered yet."""

    step: _Step
    text: str
    at: float
    change: RouteChange | None = None
    got_version: bool = False
    listed: dict[str, dict[str, Route]] = field(default_factory=dict)


class Reconciler:
    """One conversation with ExaBGP: pass it lines and time, then take `commands()`, and `snapshot()` if `revision`
    grew."""

    def __init__(self, now: float, allowed: Iterable[Network | Exactly] = (), learned: Iterable[Network] = ANY) -> None:
        """`allowed`: what may be advertised; `learned`: the prefixes inside which host routes are learned
        (allowlist.py)."""
        self.ready = False
        """Whether the state is learned: an earlier snapshot would report to the agent that everything is gone."""
        self._adj_rib_in = AdjRibIn(learned)
        self._adj_rib_out = AdjRibOut()
        self._export = ExportPolicy()
        self._verified_at = now
        self._list_again_at: float | None = None
        self._allowed = tuple(allowed)
        self._deadman = DeadMan(now)
        self.error: str | None = None
        """Why the desired routes are not all in place, or None."""
        self.silent = False
        """Whether ExaBGP does not answer: nothing is known of the sessions meanwhile."""
        self._answered_at = now
        self._todo = [_Step.HANDSHAKE, _Step.NEIGHBORS, _Step.LEARN, _Step.VERIFY]
        self._not_before = now
        self._pending: _PendingCommand | None = None
        self._outbox: list[str] = []
        self._bfd: Mapping[str, BfdStatus] = {}
        self._own_revision = 0
        self._advance(now)

    @property
    def revision(self) -> int:
        """A number that grows whenever the snapshot changes."""
        return self._own_revision + self._adj_rib_in.revision

    @property
    def agent_state(self) -> tuple[bool, bool, str | None]:
        """Whether the fallback is announced, whether the VIPs are kept next to it, and the error: for the log."""
        return self._deadman.acted, self._deadman.held, self.error

    def hung(self, now: float) -> bool:
        """Return whether to exit, so that a successor starts a new conversation."""
        return self._pending is not None and now - self._pending.at > HUNG_S

    def commands(self) -> list[str]:
        """Return the lines to write to ExaBGP, each once."""
        lines, self._outbox = self._outbox, []
        return lines

    def set_allowed(self, allowed: Iterable[Network | Exactly], learned: Iterable[Network], now: float) -> None:
        """Replace the allowlist; advertised routes outside it are withdrawn, learned ones are forgotten."""
        self._allowed = tuple(allowed)
        self._adj_rib_in.set_learned(learned)
        self.tick(now)

    def set_desired(self, desired: DesiredRoutes, now: float) -> None:
        """Replace the desired routes; each call is a heartbeat of the agent too."""
        self._deadman.receive(desired, now)
        self.tick(now)

    def stop_agent(self, now: float) -> None:
        """Act as if the agent had been silent for 10 s."""
        self._deadman.stop(now)
        self.tick(now)

    def set_bfd(self, statuses: Mapping[str, BfdStatus]) -> None:
        """Replace the states of the BFD sessions, which the snapshot shows and which have no effect here."""
        self._bfd = statuses
        self._own_revision += 1

    def receive(self, line: str, now: float) -> None:
        """Process one line from ExaBGP; call `tick` after a batch of them."""
        message = messages.parse(line)
        pending, self._answered_at = self._pending, now
        match message:
            case messages.Answer():
                self._finish_command(message.done, now)
                self.tick(now)
            case messages.VersionAnswer() if pending and pending.step is _Step.HANDSHAKE:
                pending.got_version = True
            case messages.NeighborList() if pending and pending.step is _Step.NEIGHBORS:
                self._adj_rib_in.set_neighbors(message.neighbors, now)
            case messages.ListedRoute() if pending and pending.step is _Step.LEARN:
                self._adj_rib_in.add_listed(message.peer, message.route)
            case messages.ListedRoute() if pending and pending.step is _Step.VERIFY:
                pending.listed.setdefault(message.peer, {})[message.route.prefix] = message.route
            case messages.SessionChange():
                if self._adj_rib_in.change_session(message.peer, message.up, now, message.reason, message.retry_s):
                    # A neighbor that was removed from the configuration is still listed for a moment.
                    self._list_again_at = now if message.up else now + RETRY_S
            case messages.Update():
                self._adj_rib_in.update(message.peer, message.advertised, message.withdrawn, now)
            case messages.EndOfRib():
                self._adj_rib_in.end_of_rib(message.peer, message.family)

    def tick(self, now: float) -> None:
        """Act on the time: the dead-man, retries, the periodic check."""
        self._own_revision += self._deadman.tick(self._adj_rib_in.neighbors, now)
        if not self._todo and self._adj_rib_in.wants_relearning:
            self._todo.append(_Step.LEARN)
        elif not self._todo and self._list_due(now):
            self._list_again_at = None
            self._todo += [_Step.NEIGHBORS, _Step.VERIFY]
        self._adj_rib_in.tick(now)
        self._advance(now)
        silent, error = self.is_silent(now), self._find_error(now)
        if (silent, error) != (self.silent, self.error):
            self.silent, self.error = silent, error
            self._own_revision += 1

    def snapshot(self) -> Snapshot:
        """Return the whole state for the agent."""
        peers = tuple(
            Peer(
                n.address,
                n.up,
                n.since,
                n.eor,
                n.rib.routes,
                self._adj_rib_out.verified.get(n.address, ()),
                self._bfd.get(n.address),
                n.negotiated if n.up else n.families,
                n.local_address,
                n.why,
                n.retry_s,
                n.foreign,
            )
            for n in self._adj_rib_in.neighbors
        )
        return Snapshot(peers, self.error, self._deadman.acted, self._deadman.held, self.silent)

    def sessions(self) -> dict[str, str]:
        """Return the state of each session for the log, with the reason if it is down."""
        return {
            n.address: SESSION_UP if n.up else f"session down: {n.why or 'not connected yet'}"
            for n in self._adj_rib_in.neighbors
        }

    def is_silent(self, now: float) -> bool:
        """Return whether ExaBGP does not answer."""
        # After a time in which this process did not run, the command that it sends next gets its time all the same.
        answered_at = self._answered_at if self._pending is None else max(self._answered_at, self._pending.at - PING_S)
        return self._pending is not None and now - answered_at > SILENT_S

    def _list_due(self, now: float) -> bool:
        return now - self._verified_at > REVERIFY_S or (self._list_again_at is not None and now >= self._list_again_at)

    def _advance(self, now: float) -> None:
        """Send the next command, if none is pending and one is due."""
        if self._pending is not None or now < self._not_before:
            return
        change = None if self._todo else self._next_change(now)
        if change is not None:
            self._pending = _PendingCommand(_Step.CHANGE, change.command, now, change)
        elif self._todo or self._adj_rib_out.unverified:
            step = self._todo.pop(0) if self._todo else _Step.VERIFY
            self._pending = _PendingCommand(step, step.value, now)
            if step is _Step.HANDSHAKE:
                self._outbox.append(messages.DROP_QUEUE)
            elif step is _Step.LEARN:
                self._adj_rib_in.begin_listing()
        elif now - self._answered_at >= PING_S:
            self._pending = _PendingCommand(_Step.PING, _Step.PING.value, now)
        else:
            return
        self._outbox.append(self._pending.text)

    def _next_change(self, now: float) -> RouteChange | None:
        agent = self._deadman
        if self._export.update(agent.desired, agent.fallback, agent.keep_vips, self._allowed, self._adj_rib_in):
            self._adj_rib_out.set_desired(self._export.routes)
        return self._adj_rib_out.next_change({n.address for n in self._adj_rib_in.neighbors if n.up}, now)

    def _finish_command(self, done: bool, now: float) -> None:
        pending = self._pending
        if pending is None or (pending.step is _Step.HANDSHAKE and not pending.got_version):
            return  # the answer to a command of the predecessor
        self._pending = None
        if pending.change is not None:
            if not self._adj_rib_out.finish(pending.change, done, now):
                self._list_again_at = now  # the neighbor may no longer exist
        elif not done and pending.step is not _Step.PING:
            self._todo.insert(0, pending.step)
            self._not_before = now + RETRY_S
        elif pending.step is _Step.LEARN:
            self._adj_rib_in.end_listing()
        elif pending.step is _Step.VERIFY:
            self._verify(pending.listed, now)

    def _verify(self, listed: dict[str, dict[str, Route]], now: float) -> None:
        """Take ExaBGP's own list of the Adj-RIBs-Out."""
        changed = self._adj_rib_out.verify(
            {n.address: listed.get(n.address, {}) for n in self._adj_rib_in.neighbors}, now
        )
        self._verified_at = now
        self._own_revision += changed or not self.ready
        self.ready = True

    def _find_error(self, now: float) -> str | None:
        errors = self._adj_rib_out.errors
        if self._pending and self.is_silent(now):
            errors.append(f"ExaBGP does not answer {self._pending.text!r}")
        elif now < self._not_before:
            errors.append(f"ExaBGP refused {self._todo[0].value!r}")
        errors += self._adj_rib_in.errors
        if self._export.refused:
            refused = ", ".join(self._export.refused[:3])
            errors.append(f"refused to announce {refused}: neither a host route inside bgp.allow nor the pool of nat")
        if not errors:
            return None
        return errors[0] + (f" (and {len(errors) - 1} more)" if len(errors) > 1 else "")
