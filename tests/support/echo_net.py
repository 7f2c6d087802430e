# SPDX-License-Identifier: Apache-2.0
"""A cluster of real askers on a virtual clock: a network that delays and loses echoes, nodes that die and return."""

import heapq
import itertools
import math
import random
from collections.abc import Collection, Iterable, Mapping
from ipaddress import IPv4Address

from agent.address import NodeAddress
from agent.liveness.asker import Asker
from agent.liveness.question import Liveness, Question, Via
from bpf.layout.echo import EchoFlag, EchoKind, EchoMessage

FIRST = int(IPv4Address("10.0.0.1"))
ROUTER = IPv4Address("10.0.255.254")


def addresses(count: int) -> list[IPv4Address]:
    return [NodeAddress(IPv4Address(FIRST + i)) for i in range(count)]


def answer(question: Question, **changes: object) -> EchoMessage:
    fields = {"flags": EchoFlag.READY | EchoFlag.DATA_PATH, "heartbeat_age_ms": 100, "boot": 1, "epochs": (7,)}
    return EchoMessage(EchoKind.ANSWER, 1, question.nonce, encap=question.encap, **(fields | changes))  # type: ignore[arg-type]


class EchoNet:
    """`observers` run askers over all nodes; the others only answer. `loss` is each way's, `delay_s` too."""

    def __init__(
        self, nodes: list[IPv4Address], observers: Iterable[IPv4Address], seed: int, loss: float = 0.0,
        delay_s: float = 0.0001, jitter_s: float = 0.001, vias: Collection[Via] = (), router: bool = True,
    ) -> None:  # fmt: skip
        self.rng = random.Random(seed)
        self.nodes, self.loss, self.delay_s, self.jitter_s = nodes, loss, delay_s, jitter_s
        self.now = 1000.0
        self.down: set[IPv4Address] = set()
        """Nodes (or the router) whose questions and answers are all lost."""
        self.behind: dict[IPv4Address, float] = {}
        """Nodes whose event loop is stopped until then."""
        self.broken: set[Via] = set()
        self.asked = self.reports = 0
        self.verdicts: list[tuple[float, IPv4Address, IPv4Address, bool]] = []
        """Time, observer, node, whether it answers; first contacts are left out."""
        self._events: list[tuple[float, int, IPv4Address, object]] = []
        self._serial = itertools.count()
        self._due: dict[IPv4Address, float] = {}
        self._seen: dict[IPv4Address, Mapping[IPv4Address, Liveness]] = {}
        self.askers = {own: Asker(own, random.Random(self.rng.random())) for own in observers}
        for own, asker in self.askers.items():
            asker.follow(nodes, self.now + self.rng.random() * 0.05, (ROUTER,) if router else (), vias)
            self._schedule(own)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self._events and self._events[0][0] <= end:
            at, _, own, event = heapq.heappop(self._events)
            self.now = max(self.now, at)
            if (busy := self.behind.get(own, 0)) > at:
                # What has arrived meanwhile is received before a step, as the socket does.
                self._push(busy + 1e-6 if isinstance(event, float) else busy, own, event)
                continue
            self._handle(own, event)
        self.now = end

    def hint(self, own: IPv4Address, address: IPv4Address) -> None:
        self.askers[own].hint(address, self.now)
        self._schedule(own)

    def report(self, own: IPv4Address, address: IPv4Address, delay_s: float) -> None:
        """Have a report of a suspect reach an observer after a while."""
        self._push(self.now + delay_s, own, address)

    def silent_since(self, address: IPv4Address) -> list[float]:
        """Return when each observer that is up found a node silent; inf if it has not."""
        found = []
        for own, asker in self.askers.items():
            if own != address and own not in self.down:
                liveness = asker.liveness[address]
                found.append(liveness.since if liveness.answers is False else math.inf)
        return found

    def _handle(self, own: IPv4Address, event: object) -> None:
        asker = self.askers[own]
        if isinstance(event, tuple):
            question: Question = event[0]
            if question.via is Via.PING:
                asker.receive_ping(question.address, question.nonce, self.now)
            else:
                assert isinstance(question.address, IPv4Address)
                asker.receive(question.address, event[1], self.now)
        elif isinstance(event, IPv4Address):
            asker.hint(event, self.now)
        elif self._due.get(own) == event:
            self._due[own] = math.inf
            self._step(own, asker)
        self._schedule(own)

    def _step(self, own: IPv4Address, asker: Asker) -> None:
        for question in asker.step(self.now):
            self.asked += 1
            lost = own in self.down or question.address in self.down or question.via in self.broken
            if not lost and (not self.loss or self.rng.random() < (1 - self.loss) ** 2):
                self._push(self.now + 2 * self.delay_s, own, (question, answer(question)))
        for suspect in asker.take_suspects():
            for other in self.askers:
                if other not in (own, suspect) and not {own, other} & self.down:
                    self.reports += 1
                    if not self.loss or self.rng.random() >= self.loss:
                        self._push(self.now + self.delay_s, other, suspect)
        self._record(own, asker.liveness)

    def _record(self, own: IPv4Address, liveness: Mapping[IPv4Address, Liveness]) -> None:
        before = self._seen.get(own)
        if before is liveness:
            return
        self._seen[own] = liveness
        if before is not None:
            for address, one in liveness.items():
                old = before.get(address)
                if old is not None and old.answers is not None and old.answers is not one.answers:
                    self.verdicts.append((self.now, own, address, bool(one.answers)))

    def _schedule(self, own: IPv4Address) -> None:
        """Have the asker stepped at its time, at most `jitter_s` late."""
        due = self.askers[own].next_at
        if due < self._due.get(own, math.inf):
            self._due[own] = due
            self._push(max(self.now, due) + self.rng.random() * self.jitter_s, own, due)

    def _push(self, at: float, own: IPv4Address, event: object) -> None:
        if at < math.inf:
            heapq.heappush(self._events, (at, next(self._serial), own, event))
