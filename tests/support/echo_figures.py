# SPDX-License-Identifier: Apache-2.0
"""The figures of the echo: times until a silence is known, and the rate of wrong ones; simulated and computed."""

import statistics
from dataclasses import dataclass
from ipaddress import IPv4Address

from support.echo_net import EchoNet, addresses

from agent.liveness.burst import INTERVAL_S, QUESTIONS, SUSPECT_QUESTIONS
from agent.liveness.node_rounds import ROUND_S
from agent.liveness.open_questions import UNANSWERED_S
from agent.liveness.targets import REPORT_AGAIN


@dataclass(frozen=True)
class Detection:
    """Seconds from a node's death until the last observer knows."""

    nodes: int
    hinted: list[float]
    alone: list[float]

    @property
    def hinted_max_s(self) -> float:
        return max(self.hinted)

    @property
    def alone_p99_s(self) -> float:
        return sorted(self.alone)[max(0, -(-99 * len(self.alone) // 100) - 1)]

    def __str__(self) -> str:
        return (
            f"{self.nodes:5} nodes: hinted {statistics.median(self.hinted):.3f} max {self.hinted_max_s:.3f} s; alone"
            f" median {statistics.median(self.alone):.3f} p99 {self.alone_p99_s:.3f} max {max(self.alone):.3f} s"
            f" ({len(self.alone)} deaths)"
        )


def detection(nodes: int, trials: int, real: int | None = None, loss: float = 0.0, seed: int = 1) -> Detection:
    """Let nodes die, one after the other; with `real` only so many observers have an asker, the others are modeled."""
    every = addresses(nodes)
    observers = every[: real or nodes]
    net = EchoNet(every, observers, seed, loss=loss)
    net.run(3)
    hinted, alone = [], []
    for trial in range(2 * trials):
        victim = net.rng.choice(every if real is None else every[real:])
        net.down.add(victim)
        died = net.now
        if trial % 2:
            for own in observers:
                if own != victim:
                    net.hint(own, victim)
        elif real is not None:
            _report_by_the_others(net, victim, nodes - 1 - real, nodes)
        net.run(1.5)
        (hinted if trial % 2 else alone).append(max(net.silent_since(victim)) - died)
        net.down.discard(victim)
        net.run(1.5 + net.rng.random())
    return Detection(nodes, hinted, alone)


def _report_by_the_others(net: EchoNet, victim: IPv4Address, others: int, nodes: int) -> None:
    """Model the observers that are not real: the first that asks reports to all, after its burst's first part."""
    first_asked = net.rng.expovariate(others / (nodes - 1) / ROUND_S)
    reported = first_asked + UNANSWERED_S + SUSPECT_QUESTIONS * INTERVAL_S + 5 * net.jitter_s
    for own in net.askers:
        net.report(own, victim, reported)


@dataclass(frozen=True)
class WrongSilence:
    """Living nodes that were taken for silent, and the bursts of a simulated time."""

    nodes: int
    loss: float
    seconds: float
    wrong: int
    bursts: int

    @property
    def expected(self) -> float:
        """How many of the bursts end wrongly, if losses are independent."""
        return self.bursts * _lost(self.loss) ** QUESTIONS

    @property
    def expected_bursts(self) -> float:
        return bursts_per_s(self.nodes, self.loss) * self.seconds

    def __str__(self) -> str:
        return (
            f"{self.nodes:5} nodes, {self.loss:.0%} loss each way, {self.seconds:.0f} s: {self.bursts} bursts"
            f" ({self.expected_bursts:.0f} computed), {self.wrong} wrong silences ({self.expected:.2g} computed)"
        )


def wrong_silence(nodes: int, loss: float, seconds: float, seed: int) -> WrongSilence:
    """Simulate a cluster in which no node dies."""
    net = EchoNet(addresses(nodes), addresses(nodes), seed, loss=loss)
    net.run(3)
    before = sum(asker.bursts_begun for asker in net.askers.values())
    net.verdicts.clear()
    net.run(seconds)
    bursts = sum(asker.bursts_begun for asker in net.askers.values()) - before
    return WrongSilence(nodes, loss, seconds, sum(not answers for _, _, _, answers in net.verdicts), bursts)


def bursts_per_s(nodes: int, loss: float) -> float:
    """Return the bursts of all nodes: after lost questions of rounds, and after messages of suspects, at all others.

    For small losses: the few that samples cause are left out.
    """
    lost = _lost(loss)
    own = nodes / ROUND_S * lost
    suspects = lost**SUSPECT_QUESTIONS
    prompted = own * suspects * (nodes - 2) * (1 - loss)
    return own + prompted / (1 - suspects * min(nodes - 2, REPORT_AGAIN) * (1 - loss))


def wrong_per_day(nodes: int, loss: float) -> float:
    """Return the wrong verdicts of all nodes in a day."""
    return bursts_per_s(nodes, loss) * _lost(loss) ** QUESTIONS * 86_400


def _lost(loss: float) -> float:
    """Return the share of questions that get no answer."""
    return 1 - (1 - loss) ** 2
