# SPDX-License-Identifier: Apache-2.0
"""The channel of one node: takes datagrams and the time, returns datagrams and events. Pure; no socket, no clock.

    channel = Channel(own, cluster, keys, random.SystemRandom())
    channel.follow(addresses, now); channel.publish(state, now)
    events = channel.receive(datagram, source, now), for each datagram
    send what channel.step(now) returns: after the inputs above, and at channel.next_at

`now` is CLOCK_MONOTONIC seconds. Nothing is accepted, and nothing answered, that is not signed with the cluster's key,
by the node from whose address it came, for this one. A HELLO, which may be a copy, is answered with no more bytes than
it has; all else is answered in a session alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from ipaddress import IPv4Address
from random import Random
from types import MappingProxyType

from agent.channel.claim_log import ClaimLog, NodeClaims
from agent.channel.counter import Count
from agent.channel.event import ClaimsReceived, Event, ItemReceived, Notice, SessionBegun, StateReceived
from agent.channel.message import FIRST_NOTICE, Kind, Message, split
from agent.channel.outbox import Content, Outbox, check_notice
from agent.channel.peer import Peer
from agent.channel.problem import NO_KEY, Cause
from agent.channel.session import Freshness
from agent.channel.state import NodeState, decode, encode
from agent.channel.streams import Streams
from agent.channel.transmitter import HELLO_S, Transmitter
from agent.channel.verifier import Drop, Verifier
from agent.problem import ProblemLine
from bgp.printable import printable


class Channel:
    """The sessions of this node with all others.

    `keys`: the cluster's secrets, the first one signs; without any, no other node is accepted. `rng` must be
    unpredictable (`random.SystemRandom`) but in tests: nonces are made of it.
    """

    def __init__(self, own: IPv4Address, cluster: int, keys: Sequence[bytes], rng: Random) -> None:
        self._own, self._rng = int(own), rng
        self._verifier = Verifier(self._own, cluster, keys)
        self._outbox = Outbox(self._own, cluster, self._verifier)
        self._transmitter = Transmitter(rng)
        self._streams = Streams()
        self._followed: Collection[IPv4Address] = ()
        self._peers: dict[int, Peer] = {}
        self._content = b""
        self._parts: tuple[bytes, ...] = ()
        self._log = ClaimLog()
        self.claims: dict[IPv4Address, NodeClaims] = {}
        """The last claims of each node that is followed, if it has sent them."""
        self._states: dict[IPv4Address, NodeState] = {}
        self._states_shown: Mapping[IPv4Address, NodeState] | None = None

    # Inputs

    def follow(self, addresses: Collection[IPv4Address], now: float) -> None:
        """Have sessions with these nodes and no others; what is known of any other is forgotten."""
        if addresses == self._followed:
            return
        self._followed = frozenset(addresses)
        wanted = {int(address): address for address in self._followed}
        wanted.pop(self._own, None)
        for number in self._peers.keys() - wanted.keys():
            peer = self._peers.pop(number)
            self._transmitter.remove(peer)
            self._streams.remove(peer)
            self.claims.pop(peer.address, None)
            if self._states.pop(peer.address, None) is not None:
                self._states_shown = None
        new = [Peer.create(wanted[number], self._nonce) for number in sorted(wanted.keys() - self._peers.keys())]
        self._peers |= {peer.number: peer for peer in new}
        self._transmitter.add(new)

    def wake(self, address: IPv4Address, now: float) -> None:
        """Ask a silent node at once: there is a sign that it is back."""
        peer = self._peers.get(int(address))
        if peer is not None:
            self._transmitter.wake(peer, now)

    def publish(self, state: NodeState, now: float) -> None:
        """Send this node's state to all, if it is another one than before. Raises ValueError as `encode` does."""
        content = encode(state)
        if content != self._content:
            self._parts, self._content = split(content), content
            self._transmitter.publish(Kind.STATE, len(self._parts), self._peers.values())

    def publish_claims(self, claims: NodeClaims) -> None:
        """Send this node's claims to all that read them, if they are others than before.

        Raises ValueError if they are too many.
        """
        restarted = self._log.write(claims)
        if restarted is not None:
            send = self._transmitter.publish if restarted else self._transmitter.extend
            send(Kind.CLAIMS, len(self._log.parts), self._peers.values())

    def notify(self, kind: int, payload: bytes, now: float) -> None:
        """Send a notice, once, to every node that has a session. It may be lost.

        Raises ValueError if the kind is no notice's, or the payload is longer than `MAX_PAYLOAD`.
        """
        check_notice(kind, payload)
        for peer in self._peers.values():
            self._outbox.notify(peer, kind, payload)

    def notify_one(self, address: IPv4Address, kind: int, payload: bytes, now: float) -> bool:
        """Send a notice, once, to one node; it may be lost. Return whether there is a session to send it in.

        Raises ValueError as `notify` does.
        """
        check_notice(kind, payload)
        peer = self._peers.get(int(address))
        return peer is not None and self._outbox.notify(peer, kind, payload)

    def stream(self, address: IPv4Address, items: Iterable[bytes]) -> bool:
        """Send items to one node, each once and in order, as fast as it takes them; return whether it is followed.

        An item is taken from `items` when it is sent; each has 1 to `MAX_PAYLOAD` bytes.
        """
        peer = self._peers.get(int(address))
        if peer is not None:
            self._streams.append(peer, items)
        return peer is not None

    def is_idle(self, address: IPv4Address) -> bool:
        """Return whether a node has acknowledged all items of its stream, if it is followed."""
        peer = self._peers.get(int(address))
        return peer is not None and peer.handshake.established and peer.outgoing.idle

    def receive(self, data: bytes, source: IPv4Address, now: float) -> list[Event]:
        """Take a datagram and return what follows from it."""
        message = self._verifier.accept(data, int(source), self._peers, now)
        if message is None:
            return []
        peer = self._peers[message.sender]
        if message.kind == Kind.HELLO:
            nonces = (peer.handshake.answer(message), message.sender_nonce)
            self._outbox.send(peer, Content(Kind.HELLO_ACK), nonces)
            self._transmitter.defer_hello(peer, now)
            return []
        freshness = peer.handshake.receive(message)
        if freshness is Freshness.STALE:
            self.counters[Count.STALE_SESSION] += 1
            self._show_session(peer, message, now)
            return []
        if freshness is Freshness.CURRENT:
            self._transmitter.wake(peer, now)  # a silent peer that sends is not dead
            return self._receive_in_session(peer, message, now)
        peer.begin_session()
        self._transmitter.answered(peer)
        self._transmitter.push(peer, Kind.STATE)
        if message.kind == Kind.HELLO_ACK and not self._parts:
            self._outbox.send(peer, Content(Kind.ACK))  # a state would show the peer that its answer has arrived
        return [SessionBegun(peer.address), *self._receive_in_session(peer, message, now)]

    # Outputs

    @property
    def next_at(self) -> float:
        """When `step` is due: CLOCK_MONOTONIC seconds, 0 for at once, infinity for never."""
        if not self._verifier.authenticator:
            return float("inf")
        return 0.0 if self._outbox.pending else min(self._transmitter.next_at, self._streams.next_at)

    def step(self, now: float) -> list[tuple[IPv4Address, bytes]]:
        """Return the datagrams to send now, each with its destination."""
        if not self._verifier.authenticator:
            return []
        datagrams = self._outbox.take()
        for peer, kind, sequence, part in self._transmitter.step(now):
            if kind is Kind.HELLO:
                datagram = self._outbox.seal(peer, Content(kind), (peer.handshake.spare, 0))
            elif kind is Kind.CLAIMS:
                datagram = self._outbox.seal(peer, Content(kind, sequence, part, 0, self._log.parts[part]))
            else:
                content = Content(kind, sequence, part, len(self._parts), self._parts[part])
                datagram = self._outbox.seal(peer, content)
            datagrams.append((peer.address, datagram))
        for peer, kind, sequence, payload in self._streams.step(now):
            datagrams.append((peer.address, self._outbox.seal(peer, Content(kind, sequence, payload=payload))))
        self.counters[Count.SENT] += len(datagrams)
        return datagrams

    @property
    def states(self) -> Mapping[IPv4Address, NodeState]:
        """The last state of each node that is followed; the same object while nothing changes."""
        if self._states_shown is None:
            self._states_shown = MappingProxyType(dict(self._states))
        return self._states_shown

    @property
    def counters(self) -> Counter[Count]:
        """What became of datagrams."""
        return self._verifier.counters

    def problems(self, now: float) -> tuple[ProblemLine, ...]:
        """Return why other nodes are not understood, with the next step, in a bounded number of lines."""
        if not self._verifier.authenticator and self._peers:
            return (NO_KEY.line(),)
        for peer in self._peers.values():
            if peer.claims.fault:  # it sends nothing more of this log
                self._verifier.problems.add(Cause.CLAIMS, peer.number, now, printable(peer.claims.fault))
        return self._verifier.problems.lines(now)

    # Within a session

    def _receive_in_session(self, peer: Peer, message: Message, now: float) -> list[Event]:
        if message.kind == Kind.STATE:
            return self._receive_state(peer, message, now)
        if message.kind == Kind.CLAIMS:
            return self._receive_claims(peer, message, now)
        if message.kind == Kind.STREAM:
            items = self._streams.receive(peer, message.sequence, message.payload, now)
            return [ItemReceived(peer.address, item) for item in items]
        if message.kind == Kind.ACK:
            self._transmitter.acknowledge(peer, message.sequence, message.part)
        elif message.kind == Kind.STREAM_ACK:
            peer.outgoing.acknowledge(message.payload)
        elif message.kind >= FIRST_NOTICE:
            if message.sequence > peer.notices_received:
                peer.notices_received = message.sequence
                return [Notice(peer.address, message.kind, message.payload)]
            self.counters[Count.REPEATED] += 1
        elif message.kind != Kind.HELLO_ACK:
            self.counters[Count.UNKNOWN_KIND] += 1
        return []

    def _receive_state(self, peer: Peer, message: Message, now: float) -> list[Event]:
        if peer.reassembly.is_superseded(message):
            self.counters[Count.REPEATED] += 1
            return []
        self._outbox.send(peer, Content(Kind.ACK, message.sequence, message.part, message.parts))
        content = peer.reassembly.add(message)
        if content is None:
            return []
        try:
            state = decode(content)
        except ValueError as error:
            self._verifier.drop(Drop(Count.BAD_STATE, Cause.STATE, peer.number, printable(str(error))), now)
            return []
        self._verifier.problems.clear(peer.number, Cause.STATE)
        if state.reads_claims and not peer.reads_claims:
            peer.reads_claims = True
            self._transmitter.push(peer, Kind.CLAIMS)
        if state == self._states.get(peer.address):
            return []
        self._states[peer.address] = state
        self._states_shown = None
        return [StateReceived(peer.address, state)]

    def _receive_claims(self, peer: Peer, message: Message, now: float) -> list[Event]:
        if peer.claims.is_superseded(message):
            self.counters[Count.REPEATED] += 1
            return []
        self._outbox.send(peer, Content(Kind.ACK, message.sequence, message.part))
        try:
            claims = peer.claims.add(message)
        except ValueError as error:
            self._verifier.drop(Drop(Count.BAD_STATE, Cause.CLAIMS, peer.number, printable(str(error))), now)
            return []
        if claims is not None:
            self._verifier.problems.clear(peer.number, Cause.CLAIMS)
        if claims is None or claims.equals(self.claims.get(peer.address)):
            return []
        self.claims[peer.address] = claims
        return [ClaimsReceived(peer.address)]

    def _show_session(self, peer: Peer, message: Message, now: float) -> None:
        """Help a peer that uses another session: ask if there is none here, else show the present one.

        Not after an answer: two nodes must not answer each other for ever.
        """
        if not peer.handshake.established:
            self._transmitter.wake(peer, now)
        elif message.kind not in (Kind.ACK, Kind.HELLO_ACK) and now - peer.shown_at >= HELLO_S:
            peer.shown_at = now
            self._outbox.send(peer, Content(Kind.ACK))

    def _nonce(self) -> int:
        return self._rng.getrandbits(64) or 1
