# SPDX-License-Identifier: Apache-2.0
"""The claims of all nodes: publishes this node's, and merges them with those of the others into rows. I/O.

table/claims.py has the rules, channel/claim_log.py the transport, connections/monitor.py counts what this node holds.

A claim counts until its holder publishes other claims, has another boot, leaves or is forgotten, however long its agent
is silent. An agent that starts finds the claims of the agent before it in the kernel's rows: these count for each node,
this one included, until that node's own claims are known.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from ipaddress import IPv4Address
from typing import Any

from agent.channel.claim_log import NodeClaims
from agent.channel.claim_set import ClaimKey, ClaimSet
from agent.channel.state import ServiceEndpoint
from agent.config.schema import Config
from agent.connections.monitor import ConnectionMonitor, Held
from agent.membership.obstacle import bounded
from agent.node.forwarder import Forwarder
from agent.node.membership import Membership
from agent.problem import Problem, ProblemLine
from agent.table.claims import NO_ROWS, PLACES, Claims, OwnClaims
from agent.table.epoch import Epoch
from agent.table.table import RowNumbers
from agent.tick import sleep_until_next

log = logging.getLogger("anylb")

CHECK_S = 0.25
"""The interval of checks whether chains have changed."""
MIN_PAUSE_S, MAX_PAUSE_S = 1.0, 8.0
"""Between two merges of all claims into rows, and between two sets of this node's: less than grace lasts."""
MAX_LOAD = 0.05
"""The share of a core that claims may take, here and at each other node, unless `MAX_PAUSE_S` says otherwise."""
_MERGE_S, _TABLE_S, _RECORD_S = 0.3e-6, 2e-3, 15e-6
"""CPU seconds for a row that a node claims, for a service's table, and for a service in what a node receives."""
FEW_ROWS = 16
"""Of a service: so many rows with a single place left are not worth a warning."""
SETTLED_S = 5.0
"""After this time connections are counted once more: others led some here until they had the new rows."""

FULL_ROWS = Problem(
    "rows of {service} name {places} nodes that may have connections there, and have no place for another: if nodes "
    "join now, some connections are reset",
    "wait until older ones have ended and these rows are fewer (`lbctl connections` shows how many a node holds, and "
    "since when)",
    "Many changes of members came while old connections lived. Nothing is lost yet, and no step is needed but to wait.",
)
UNSENT = Problem(
    "this node cannot send its claims, so its connections may be reset: {error}",
    "let no node join or leave until connections have ended, and report it with `lbctl support`",
    "Its claims exceed what a message carries.",
)


class ClaimKeeper:
    """What this node and the others claim."""

    def __init__(
        self,
        config: Config,
        epochs: Sequence[Epoch],
        connections: ConnectionMonitor,
        forwarder: Forwarder,
        membership: Membership,
    ) -> None:
        """Take over the claims that are in the kernel's rows."""
        services = (service for service in config.services if service.mode == "dsr")
        self._services = {service.name: service for service in services if service.protocol == "tcp"}
        self._keys = {s.name: ServiceEndpoint(s.vip, s.protocol, s.port_number) for s in self._services.values()}
        self._epochs, self._connections, self._membership = epochs, connections, membership
        self._forwarder, self._map_writer = forwarder, forwarder.map_writer
        self._revision, self._settled_at = -1, float("inf")
        """Of the chains that connections were counted for last, and when that is to be repeated."""
        self._counted: Held | None = None
        """The last count that was looked at."""
        self._kept = self._map_writer.claims_in_rows()
        self._own_claims = {
            (name, epoch.number): OwnClaims(self._kept[name].get(epoch.number, {}).get(membership.own, NO_ROWS))
            for name in self._services
            for epoch in epochs
        }
        self._boots = {member.address: member.boot for member in membership.view.members}
        """The boots of the members that an earlier agent knew."""
        self._own: dict[ClaimKey, RowNumbers] | None = None
        """What this node claims; None before its first count."""
        self._merged: dict[tuple[str, int], dict[IPv4Address, RowNumbers]] | None = None
        self._merged_from: tuple[dict[IPv4Address, ClaimSet], set[IPv4Address]] = {}, set()
        """What the nodes published then, and of which the kernel's rows counted."""
        self._merged_at = self._claimed_at = float("-inf")
        self._merge_cost_s = 0.0
        """CPU seconds that the last merge and its tables took, about."""
        self._problem: ProblemLine | None = None
        self._merge()

    @property
    def given(self) -> int:
        """How many rows this node claims."""
        return sum(map(len, self._own.values())) if self._own else 0

    def taken(self) -> dict[IPv4Address, int]:
        """Return how many rows each other node claims."""
        found: dict[IPv4Address, int] = {}
        for claims in (self._merged or {}).values():
            for address, rows in claims.items():
                if address != self._membership.own:
                    found[address] = found.get(address, 0) + len(rows)
        return found

    @property
    def full_rows(self) -> dict[str, int]:
        """How many rows of each service have no place for another claimant; services without one are absent."""
        return self._map_writer.full_rows()

    @property
    def nearly_full_rows(self) -> dict[str, int]:
        """The same of rows that have one place, if they are more than a few: the next nodes that join may fill them."""
        return {name: rows for name, rows in self._map_writer.nearly_full_rows().items() if rows > FEW_ROWS}

    def problems(self) -> tuple[ProblemLine, ...]:
        """Return why connections may be lost, one line each, with the next step. The numbers of rows are not in them:
        they change all the time."""
        full = bounded([FULL_ROWS.line(service=name, places=PLACES) for name in sorted(self.full_rows)])
        return (*full, *([self._problem] if self._problem else ()))

    def tasks(self) -> list[Coroutine[Any, Any, None]]:
        """Return what must run for as long as the agent does."""
        return [self._run()]

    async def _run(self) -> None:
        while True:
            self._step(time.monotonic())
            await sleep_until_next(CHECK_S)

    def _step(self, now: float) -> None:
        revision = self._map_writer.chains_revision
        if revision != self._revision:
            self._revision, self._settled_at = revision, now + SETTLED_S
            self._connections.request()
        elif now >= self._settled_at:
            self._settled_at = float("inf")
            self._connections.request()
        counted = self._connections.held
        others = len(self._membership.view.members)
        if counted is not self._counted and now - self._claimed_at >= pause_s(
            others * len(self._own or ()) * _RECORD_S
        ):
            self._counted, self._claimed_at = counted, now
            if counted is not None:
                self._claim(counted)
        elif now - self._merged_at >= pause_s(self._merge_cost_s):
            self._merge()

    def _claim(self, held: Held) -> None:
        """Claim the rows in which this node holds connections and has no place: in its own rows, then to the others."""
        before, self._own = self._own, self._claimed(held)
        self._merge()
        try:
            self._membership.publish_claims(NodeClaims(self._membership.boot, self._own))
        except ValueError as error:
            self._note(UNSENT.line(error=error))
        else:
            self._note(None)
        if self._own.keys() != (before or {}).keys():
            log.info("this node claims %d rows, in which it holds connections and has no place", self.given)

    def _claimed(self, counted: Held) -> dict[ClaimKey, RowNumbers]:
        found: dict[ClaimKey, RowNumbers] = {}
        for (name, epoch), claims in self._own_claims.items():
            held = counted.rows.get(self._services[name].key, {}).get(epoch)
            unnamed = functools.partial(self._map_writer.claims_of, name, epoch)
            claims.count(held.rows if held is not None else NO_ROWS, unnamed, counted.at)
            if len(claims.rows):
                found[self._keys[name], epoch] = claims.rows
        return found

    def _note(self, problem: ProblemLine | None) -> None:
        if problem and problem != self._problem:
            log.error("%s", problem)
        self._problem = problem

    def _merge(self) -> None:
        """Bring the claims of all nodes together: of each, what it publishes, else what an earlier agent left."""
        self._merged_at, known = time.monotonic(), self._merged
        boots = {member.address: member.boot for member in self._membership.view.members}
        published: dict[IPv4Address, ClaimSet] = {
            address: claims.rows
            for address, claims in self._membership.claims.items()
            if claims.boot == boots.get(address)
        }
        if self._own is not None:
            published[self._membership.own] = self._own
        kept = {address for address, boot in boots.items() if boot == self._boots.get(address)}
        kept = (kept | {self._membership.own}) - published.keys()
        before_published, before_kept = self._merged_from
        if known is not None and kept == before_kept and _same(published, before_published):
            return
        self._merged_from = published, kept
        addresses = published.keys() | before_published.keys()
        changed = {one for one in addresses if published.get(one) is not before_published.get(one)} | kept ^ before_kept
        merged = {
            (name, epoch.number): self._merge_one(
                name, epoch.number, changed, (known or {}).get((name, epoch.number), {})
            )
            for name in self._keys
            for epoch in self._epochs
        }
        if known is None or any(claims is not known[one] for one, claims in merged.items()):
            by_service: dict[str, dict[int, Claims]] = {}
            for (name, epoch_number), claims in merged.items():
                if claims:
                    by_service.setdefault(name, {})[epoch_number] = claims
            self._forwarder.want_claims(by_service)
        self._merged = merged
        self._merge_cost_s = sum(
            _TABLE_S + _MERGE_S * sum(map(len, claims.values())) for claims in merged.values() if claims
        )

    def _merge_one(
        self, name: str, epoch: int, changed: Iterable[IPv4Address], before: dict[IPv4Address, RowNumbers]
    ) -> dict[IPv4Address, RowNumbers]:
        """Return who claims which rows of a service; `before` itself if that has not changed with these nodes."""
        published, kept = self._merged_from
        key, left = (self._keys[name], epoch), self._kept[name].get(epoch, {})
        found = {
            address: left.get(address) if address in kept else published.get(address, {}).get(key)
            for address in changed
        }
        new = {address: rows for address, rows in found.items() if rows is not before.get(address)}
        if not new:
            return before
        claims = before | {address: rows for address, rows in new.items() if rows is not None}
        for address in (address for address, rows in new.items() if rows is None):
            del claims[address]
        return claims


def _same(one: Mapping[IPv4Address, object], other: Mapping[IPv4Address, object]) -> bool:
    """Return whether both have the same objects for the same nodes."""
    return one.keys() == other.keys() and all(value is other[key] for key, value in one.items())


def pause_s(cost_s: float) -> float:
    """Return how long to wait before something that costs so many CPU seconds is done again."""
    return min(MAX_PAUSE_S, max(MIN_PAUSE_S, cost_s / MAX_LOAD))
