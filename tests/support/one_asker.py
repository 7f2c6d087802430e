# SPDX-License-Identifier: Apache-2.0
"""One asker on a virtual clock, or one of several nodes: the set-up of the tests of its rules."""

import random
from ipaddress import IPv4Address

from support.echo_net import EchoNet, addresses

from agent.liveness.asker import Asker
from agent.liveness.question import Question

A, B, C, D = addresses(4)
UP, SILENT = True, False


def net(count: int = 4, seed: int = 1, **options: object) -> EchoNet:
    """One observer, A, of several nodes, which have all answered."""
    made = EchoNet(addresses(count), [A], seed, **options)  # type: ignore[arg-type]
    made.run(1)
    return made


def state(made: EchoNet, address: IPv4Address = B) -> bool | None:
    return made.askers[A].liveness[address].answers


def ask_b(seed: int = 1) -> tuple[Asker, Question, float]:
    """An asker of B alone, and its first question."""
    asker = Asker(A, random.Random(seed))
    asker.follow([B], 10.0)
    return asker, asker.step(10.0)[0], 10.0


def step_until(asker: Asker, now: float, end: float) -> list[Question]:
    """Step at the asker's own times, without an answer; return the questions."""
    asked = []
    while asker.next_at <= end:
        now = max(now, asker.next_at)
        asked += asker.step(now)
    return asked
