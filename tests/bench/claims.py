# SPDX-License-Identifier: Apache-2.0
"""The claims of all other members for the bench of a large cluster: read from their logs, as the channel does it.

Each claims some rows of each service. A change is one difference over all services: a tenth of the rows go, as many
others come. What it costs beside is not here: a datagram's key and its acknowledgment.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from itertools import count
from typing import Final

import numpy as np

from agent.channel.claim_log import ClaimLog, ClaimReader, NodeClaims
from agent.channel.message import Kind, Message
from agent.channel.state import ServiceEndpoint

CLAIMED: Final = 30
"""The rows of a service that a node claims."""
CHANGED: Final = 3


@dataclass
class _Peer:
    reader: ClaimReader
    difference: list[bytes]
    """The parts that lead from one set to the other, and back."""
    part: "count[int]"


class ClaimingPeers:
    """The other members' logs. `claims` is what a channel has read of them."""

    def __init__(
        self, addresses: Sequence[IPv4Address], services: Sequence[ServiceEndpoint], epoch: int, rows: int
    ) -> None:
        self.claims: dict[IPv4Address, NodeClaims] = {}
        self._peers: dict[IPv4Address, _Peer] = {}
        chance = np.random.default_rng(1)
        for address in addresses:
            one, other = {}, {}
            for service in services:
                drawn = chance.choice(rows, CLAIMED + CHANGED, replace=False).astype(np.uint32)
                one[service, epoch], other[service, epoch] = np.sort(drawn[:CLAIMED]), np.sort(drawn[CHANGED:])
            log = ClaimLog()
            log.write(NodeClaims(1, one))
            whole = len(log.parts)
            first = list(log.parts)
            log.write(NodeClaims(1, other))
            peer = self._peers[address] = _Peer(ClaimReader(), log.parts[whole:], count())
            self._read(address, peer, first)

    def change(self, address: IPv4Address) -> None:
        """Read a difference in a member's log."""
        peer = self._peers[address]
        self._read(address, peer, peer.difference)

    def _read(self, address: IPv4Address, peer: _Peer, parts: Sequence[bytes]) -> None:
        for payload in parts:
            read = peer.reader.add(Message(Kind.CLAIMS, 7, 0, 0, 0, 0, part=next(peer.part), payload=payload))
            if read is not None and not read.equals(self.claims.get(address)):
                self.claims[address] = read
