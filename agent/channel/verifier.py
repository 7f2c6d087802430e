# SPDX-License-Identifier: Apache-2.0
"""Which datagrams count: those that a known node has signed, from its own address, for this node. Pure.

Every other one is dropped and counted. It is a problem for the operator if it looks like a node that is set up wrongly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Sequence
from ipaddress import IPv4Address
from typing import NamedTuple

from agent.channel.counter import Count
from agent.channel.message import MAX_BYTES, VERSION, Authenticator, Message, is_consistent, parse
from agent.channel.problem import Cause, ProblemLog


class Drop(NamedTuple):
    """Why a datagram is dropped. A problem only with a cause, and with the `node` that it concerns."""

    counter: Count
    cause: Cause | None = None
    node: int | None = None
    detail: str = ""


class Verifier:
    """The cluster's keys, and what was dropped. `own` is the number of this node's address."""

    def __init__(self, own: int, cluster: int, keys: Sequence[bytes]) -> None:
        self.authenticator = Authenticator(keys)
        self.counters: Counter[Count] = Counter()
        self.problems = ProblemLog()
        self._own, self._cluster = own, cluster

    def accept(self, data: bytes, source: int, known: Container[int], now: float) -> Message | None:
        """Return the message of a datagram; None if it is dropped. `known`: the numbers of the nodes' addresses."""
        self.counters[Count.RECEIVED] += 1
        message = parse(data)
        if message is None:
            self.drop(Drop(Count.OVERSIZED if len(data) > MAX_BYTES else Count.MALFORMED), now)
            return None
        fault = self._fault(message, data, source, known)
        if fault is not None:
            self.drop(fault, now)
            return None
        self.problems.clear(source, Cause.VERSION, Cause.CLUSTER, Cause.KEY, Cause.UNKNOWN)
        return message

    def drop(self, fault: Drop, now: float) -> None:
        """Count a datagram as dropped, and note the problem."""
        self.counters[fault.counter] += 1
        if fault.cause is not None and fault.node is not None:
            self.problems.add(fault.cause, fault.node, now, fault.detail)

    def _fault(self, message: Message, data: bytes, source: int, known: Container[int]) -> Drop | None:
        sender = message.sender if message.sender in known else None
        # Anybody can send what is not signed: it becomes a problem only under the address of a node.
        claimed = sender if sender == source else None
        if message.version != VERSION:
            detail = f"version {message.version} of the channel, this node version {VERSION}"
            return Drop(Count.OTHER_VERSION, Cause.VERSION, claimed, detail)
        if message.cluster != self._cluster:  # before the key, which would be another one too
            detail = f"cluster {message.cluster}, this node for cluster {self._cluster}"
            return Drop(Count.OTHER_CLUSTER, Cause.CLUSTER, claimed, detail)
        if not self.authenticator.accepts(data):
            return Drop(Count.BAD_MAC, Cause.KEY, claimed)
        if message.receiver != self._own:
            return Drop(Count.WRONG_RECEIVER)
        if message.sender != source:
            return Drop(Count.WRONG_SOURCE, Cause.SOURCE, sender, str(IPv4Address(source)))
        if sender is None:
            return Drop(Count.UNKNOWN_SENDER, Cause.UNKNOWN, source)
        return None if is_consistent(message) else Drop(Count.MALFORMED)
