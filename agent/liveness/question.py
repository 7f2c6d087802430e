# SPDX-License-Identifier: Apache-2.0
"""What the asker asks and what it keeps of the answers: questions, their encapsulations, counts, liveness. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address

from agent.address import Address
from bpf.layout.echo import EchoFlag, EchoMessage, Encap

HEARTBEAT_LOST_MS = 10_000
"""An agent whose last heartbeat is older counts as dead: its data path lives on."""


class Via(StrEnum):
    """How a question is sent: in a frame of its own, in a tunnel, by MAC with a marker, or, to a router, by ping."""

    PLAIN = "plain"
    GUE = "gue"
    IPIP = "ipip"
    MARKER = "marker"
    PING = "ping"

    @property
    def encap(self) -> Encap:
        """The `encap` field of the message."""
        return _ENCAPS.get(self, Encap.PLAIN)


_ENCAPS = {Via.GUE: Encap.TUNNEL, Via.IPIP: Encap.TUNNEL, Via.MARKER: Encap.MARKER}


@dataclass(frozen=True, slots=True)
class Question:
    """A question to send now. `address` is a node's, or with `Via.PING` a router's."""

    address: Address
    nonce: int
    via: Via

    @property
    def encap(self) -> Encap:
        """The `encap` field of the message."""
        return self.via.encap


@dataclass(slots=True)
class PathStats:
    """The questions to one node by one encapsulation. One counts as unanswered after a second."""

    asked: int = 0
    unanswered: int = 0
    in_a_row: int = 0
    """How many of the last ones are unanswered."""
    rtt_s: float | None = None
    """The smoothed round trip time (RFC 6298: an eighth of each new one)."""

    def answered(self, rtt_s: float) -> None:
        """Count an answer."""
        self.in_a_row = 0
        self.rtt_s = rtt_s if self.rtt_s is None else self.rtt_s + (rtt_s - self.rtt_s) / 8

    def lost(self) -> None:
        """Count a question without an answer."""
        self.unanswered += 1
        self.in_a_row += 1


@dataclass(frozen=True, slots=True)
class Liveness:
    """Whether a node's data path answers, and the content of its last answer.

    `answers` is None while a node that never answered is still being asked, False once it is silent. `since` is the
    time of its last change (CLOCK_MONOTONIC seconds).
    """

    answers: bool | None
    since: float
    boot: int = 0
    ready: bool = False
    heartbeat_age_s: float | None = None
    """The age of its agent's last heartbeat, rounded down to 10 s: 0 while the agent lives; None: there was none."""
    epochs: tuple[int, ...] = ()
    view_digest: int = 0
    tables_digest: int = 0
    data_path: bool = False

    @property
    def agent_lives(self) -> bool:
        """Whether its agent has sent a heartbeat within 10 s."""
        return self.heartbeat_age_s == 0

    @classmethod
    def of(cls, answer: EchoMessage, answers: bool | None, since: float) -> Liveness:
        """Return the content of an answer."""
        age_ms = answer.heartbeat_age_ms
        return cls(
            answers, since, answer.boot, bool(answer.flags & EchoFlag.READY),
            None if age_ms is None else age_ms // HEARTBEAT_LOST_MS * (HEARTBEAT_LOST_MS / 1000), answer.epochs,
            answer.view_digest, answer.tables_digest, bool(answer.flags & EchoFlag.DATA_PATH),
        )  # fmt: skip


@dataclass(eq=False, slots=True)
class Target:
    """A node that is asked."""

    address: IPv4Address
    liveness: Liveness
    paths: dict[Via, PathStats]
    answered_sent: float = float("-inf")
    """When the latest of the answered questions was sent: an older answer that arrives later is outdated."""
    unsent_since: float | None = None
    """Since when no question to it could be sent."""
    queued: bool = False
    """Whether a burst of questions to it is due."""
