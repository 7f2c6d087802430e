# SPDX-License-Identifier: Apache-2.0
"""The asker: asks every node's data path whether it answers, and judges who is silent.

Pure: takes answers with the time (`now`, CLOCK_MONOTONIC seconds), returns questions; echo_socket.py has the sockets,
probe_loop.py the clock. burst.py, isolation.py and rounds.py have parts of the rules:

 1. Rounds: 20 questions a second, to each node in turn. Every node asks so; each is asked 20 times a second in all.
 2. A question that is unanswered for 50 ms, or a hint (a BGP withdrawal, a failed neighbor, another node's message),
    leads to a burst of 8 questions in 240 ms. Any answer ends it. An answer counts however late it comes.
 3. With the first questions of a burst unanswered, the node is suspect: `take_suspects` returns it for the channel,
    and the others ask for themselves. Of those that ask because of a report, about three report again, in case the
    first message was lost.
 4. All unanswered: the node is silent, unless no other answers either (isolation.py). A burst in which this node
    was late by LATE_S is repeated. A question that could not be sent proves nothing.
 5. Silent nodes have rounds of their own. One that answers is asked in a burst; several answers over 100 ms: it is
    back.
 6. At first contact, and in rounds of their own, the encapsulations that packets use are asked by too. An answer counts
    like any other; a loss is counted, asked again after a second, and never makes a node silent.
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Iterable, Mapping
from ipaddress import IPv4Address

from agent.address import Address
from agent.liveness.burst import Burst, Due
from agent.liveness.bursts import Bursts
from agent.liveness.isolation import SAMPLE, Isolation
from agent.liveness.node_rounds import NodeRounds
from agent.liveness.open_questions import OpenQuestions
from agent.liveness.path_rounds import PathRounds
from agent.liveness.question import Liveness, PathStats, Question, Target, Via
from agent.liveness.targets import Targets
from bpf.layout.echo import EchoMessage

LATE_S = 0.025
UNREACHABLE_S = 3.0
"""So long a node that never answered may have no next hop before it counts as silent."""


class Asker:
    """Asks other nodes and judges who answers. `rng` also makes the nonces: a `random.SystemRandom` in production.

    Before `step`, all answers that have arrived must have been received: an answer in a queue is no silence.
    """

    def __init__(self, own: IPv4Address, rng: random.Random) -> None:
        self._own, self._rng = own, rng
        self._now = -math.inf
        self._targets = Targets(rng)
        self._controls: tuple[Address, ...] = ()
        self._open = OpenQuestions(rng)
        self._rounds = NodeRounds(rng)
        self._paths = PathRounds(rng)
        self._bursts = Bursts()
        self.bursts_begun = 0
        """Bursts to nodes that were not silent."""
        self._isolation = Isolation()

    def follow(
        self, addresses: Iterable[IPv4Address], now: float, controls: Iterable[Address] = (), vias: Collection[Via] = ()
    ) -> None:
        """Ask these nodes and no others.

        `controls` are the routers, which are asked by `Via.PING` to find out whether this node is cut off; `vias` the
        encapsulations that packets to other nodes use.
        """
        now, wanted = self._advance(now), set(addresses) - {self._own}
        self._controls, vias = tuple(dict.fromkeys(controls)), tuple(dict.fromkeys(vias))
        for address in self._targets.by_address.keys() - wanted:
            self._forget(self._targets.remove(address), now)
        if vias != self._paths.vias:
            self._paths.vias = vias
            for target in self._targets.by_address.values():
                self._contact(target, now)
        for address in sorted(wanted - self._targets.by_address.keys()):
            target = self._targets.add(address, now)
            self._rounds.add(target, now)
            self._paths.add(target, now)
            self._bursts.hint(target, now)

    def hint(self, address: IPv4Address, now: float) -> None:
        """Ask a node soon: it may be gone, or back."""
        target = self._targets.by_address.get(address)
        if target is not None:
            self._bursts.hint(target, self._advance(now))

    def receive(self, address: IPv4Address, answer: EchoMessage, now: float) -> None:
        """Take an answer. It counts once, if it is for an open question to that address."""
        now, found = self._advance(now), self._open.get(answer.nonce)
        if found is None or found.address != address or found.target is None or answer.encap is not found.via.encap:
            return
        self._open.close(answer.nonce)
        target = found.target
        if not self._targets.has(target):
            return
        target.paths[found.via].answered(now - found.sent)
        self._note_answer(found.sent, now)
        if found.sent >= target.answered_sent:
            target.answered_sent = found.sent
            self._targets.update(target, answer, self._bursts.get(target))
        self._answered(target, found.sent, now)

    def receive_ping(self, address: Address, nonce: int, now: float) -> None:
        """Take a router's answer."""
        now, found = self._advance(now), self._open.get(nonce)
        if found is not None and found.target is None and found.address == address:
            self._open.close(nonce)
            self._note_answer(found.sent, now, by_router=True)

    def questioned(self, at: float) -> None:
        """Note that a node has asked this one, at that time or later: it lives, whether its answers arrive or not."""
        self._isolation.questioned(at)

    def is_asked(self, now: float) -> bool:
        """Whether other nodes ask this one."""
        return self._isolation.is_asked(now)

    def not_sent(self, question: Question, now: float) -> None:
        """Take back a question that could not be sent."""
        now, found = self._advance(now), self._open.get(question.nonce)
        self._open.close(question.nonce)
        if found is None or found.target is None:
            return
        target = found.target
        target.paths[question.via].asked -= 1
        if question.via is not Via.PLAIN or not self._targets.has(target):
            return
        if target.unsent_since is None:
            target.unsent_since = now
        burst = self._bursts.get(target)
        never = target.liveness.answers is None
        if never and now - target.unsent_since >= UNREACHABLE_S:
            self._set_silent(target, now)
        elif burst is not None and burst.unsent() and not never:
            self._bursts.end(target)

    def late(self, now: float) -> None:
        """Repeat the bursts of now: this node was late, and answers may have been lost meanwhile."""
        self._bursts.void(now)

    def step(self, now: float) -> list[Question]:
        """Return the questions to send now, and judge. Call it at `next_at`, and after anything else was called."""
        now = self._advance(now)
        if now - self.next_at >= LATE_S:
            self.late(now)
        questions: list[Question] = []
        if self._isolation.expire(now):
            for target in self._targets.by_address.values():
                if target.liveness.answers is not False:
                    self._bursts.hint(target, now)
            self._bursts.release(now)
        for target in self._open.unanswered(now):
            self._doubt(target, now)
        self._count_lost(now)
        for target in self._bursts.hinted(now):
            if self._targets.has(target):
                self._start_burst(target, now, prompted=True)
        self._step_bursts(now, questions)
        self._sample(now, questions)
        self._ask_rounds(now, questions)
        return questions

    @property
    def next_at(self) -> float:
        """When `step` is due; inf if no node is followed."""
        return min(
            self._rounds.next_at, self._paths.next_at, self._open.next_at, self._bursts.next_at,
            self._isolation.sample_at, self._isolation.ends_at,
        )  # fmt: skip

    @property
    def liveness(self) -> Mapping[IPv4Address, Liveness]:
        """Who answers; the same object while nothing changes."""
        return self._targets.liveness

    @property
    def isolated(self) -> bool:
        """Whether no node or router answers, so that no node is judged."""
        return self._isolation.since is not None

    def take_suspects(self) -> list[IPv4Address]:
        """Return the nodes that the others should ask too, since the last call."""
        return self._targets.take_suspects()

    def take_returned(self) -> list[IPv4Address]:
        """Return the nodes that answer, or whose agents live, since the last call: their states may be outdated."""
        return self._targets.take_returned()

    def stats(self, address: IPv4Address) -> Mapping[Via, PathStats]:
        """Return the counts of a node's questions by each encapsulation; empty if it is not followed."""
        target = self._targets.by_address.get(address)
        return {} if target is None else target.paths

    # What answers mean

    def _note_answer(self, sent: float, now: float, by_router: bool = False) -> None:
        if self._isolation.answered(sent, by_router):
            self._bursts.release(now)

    def _answered(self, target: Target, sent: float, now: float) -> None:
        target.unsent_since = None
        if target.liveness.answers is not False:
            self._bursts.end(target)
            if target.liveness.answers is None:
                self._judge(target, True, now)
            return
        burst = self._bursts.get(target) or self._start_burst(target, now, prompted=False)
        burst.answered(sent)
        if burst.is_back:
            self._bursts.end(target)
            self._rounds.add(target, now)
            self._judge(target, True, now)

    def _set_silent(self, target: Target, now: float) -> None:
        self._bursts.end(target)
        self._rounds.set_silent(target, now)
        self._judge(target, False, now)

    def _judge(self, target: Target, answers: bool, now: float) -> None:
        self._targets.judge(target, answers, now)
        self._contact(target, now)

    # Rounds

    def _ask_rounds(self, now: float, questions: list[Question]) -> None:
        due = [target for target in self._rounds.due(now) if target not in self._bursts]
        questions += [self._ask(target, now, watched=True) for target in due]
        if (asked := self._paths.take(now)) and asked[0].liveness.answers:
            questions.append(self._ask(asked[0], now, asked[1]))

    def _contact(self, target: Target, now: float) -> None:
        if target.liveness.answers:
            self._paths.contact(target, now)

    def _ask(self, target: Target, now: float, via: Via = Via.PLAIN, watched: bool = False) -> Question:
        target.paths.setdefault(via, PathStats()).asked += 1
        return self._open.add(target, target.address, via, now, watched)

    def _count_lost(self, now: float) -> None:
        for lost in self._open.expired(now):
            if lost.target and lost.target.liveness.answers:
                stats = lost.target.paths[lost.via]
                stats.lost()
                if lost.via is not Via.PLAIN:
                    self._paths.lost(lost.target, lost.via, stats, now)

    # Bursts

    def _doubt(self, target: Target, now: float) -> None:
        """A question of a round is unanswered."""
        if target.liveness.answers is False or not self._targets.has(target):
            return
        if self.isolated:
            self._bursts.hint(target, now)
        elif target not in self._bursts:
            self._start_burst(target, now, prompted=False)

    def _start_burst(self, target: Target, now: float, prompted: bool) -> Burst:
        burst = self._bursts.start(target, now, prompted)
        if target.liveness.answers is not False:
            self.bursts_begun += 1
            self._isolation.judging(now)
        return burst

    def _step_bursts(self, now: float, questions: list[Question]) -> None:
        for target, burst in self._bursts.due(now):
            if burst.due() is Due.VERDICT:
                self._conclude(target, burst, now)
                continue
            if burst.is_suspect and not burst.reported and target.liveness.answers:
                burst.reported = self._isolation.has_answer(burst.start, now)
                if burst.reported:
                    self._targets.report(target, burst)
            questions.append(self._ask(target, now))
            burst.ask(now)
            self._bursts.schedule(target, burst)

    def _conclude(self, target: Target, burst: Burst, now: float) -> None:
        """All questions of a burst are asked, and no answer has ended it."""
        if target.liveness.answers is False:
            self._bursts.end(target)
        elif self._isolation.believes(burst.start, burst.last_asked, now):
            self._set_silent(target, now)
        else:
            self._bursts.hold()

    def _sample(self, now: float, questions: list[Question]) -> None:
        """While any node is judged, ask some others and the routers, to know whether this node is cut off."""
        if now < self._isolation.sample_at:
            return
        judging = any(target.liveness.answers is not False for target in self._bursts)
        if judging or self.isolated:
            others = (target for target in self._rounds.sample(SAMPLE) if target not in self._bursts)
            questions += [self._ask(target, now, watched=True) for target in others]
            questions += [self._open.add(None, address, Via.PING, now) for address in self._controls]
        self._isolation.sampled(now, judging)

    def _forget(self, target: Target, now: float) -> None:
        self._rounds.discard(target, now)
        self._paths.discard(target)
        self._bursts.end(target)

    def _advance(self, now: float) -> float:
        """Return the time, which never goes back."""
        self._now = max(self._now, now)
        return self._now
