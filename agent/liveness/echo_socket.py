# SPDX-License-Identifier: Apache-2.0
"""The sockets of the echo: questions leave as frames, answers arrive by UDP. I/O only; asker.py decides.

A question is a frame with the next hop of the node table, because a packet that is forwarded leaves like that: the
kernel's own path to the node proves nothing about the MAC in the table, and it queues packets for a second while a
neighbor's ARP answer is late. The kernel does not know of these frames, so a stateful packet filter would drop the
answers as unsolicited: an empty datagram to the node, from the same port, precedes the first question and then one
each FILTER_S, within the 30 s for which Linux remembers a datagram without an answer. The other end's socket drops it.

The agents' channel shares the port: what is no echo goes to `on_datagram`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import math
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from agent.address import Address, Network, endpoint, tag_of
from agent.liveness.frame import Endpoints, Hop, LinkHeader, question_frame
from agent.liveness.frame_sender import FrameSender
from agent.liveness.question import Question, Via
from agent.liveness.socket_filter import socket_filter
from agent.problem import Problem, ProblemLine
from bpf.layout.echo import EchoFlag, EchoKind, EchoMessage, Encap

RETRY_S = 2.0
FILTER_S = 20.0
_DRAIN = 1024
"""How many datagrams are received at once: others have to have a turn too, even in a flood."""
_RECEIVE_BUFFER = 1 << 20
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE = 26, 33

PORT_TAKEN = Problem(
    "UDP {where}: {error}: this node can ask no other node whether it answers",
    "free the port, or set members.port on all nodes",
    "Another program has the port (`ss -ulnp`), or the address is not on this machine. The agent tries again.",
)


class EchoSocket:
    """The UDP port of the echo and of the channel, open while `run` runs. `error` is why it is not, or None.

    `hop_of` returns the next hop of an address. `egress` returns index and MAC of the interface by which frames leave
    whose next hop names none. `on_answer(address, message)` gets the answers of the own cluster, `on_foreign(address,
    cluster)` the sources of echoes of others, `on_datagram(data, address)` what is no echo.

    `allow` are the node prefixes, from which alone anything is received. With `own6` the nodes are asked over IPv6, if
    `address6_of` knows the node's address. With `answer_as_agent`, for a node without XDP, questions are answered here
    (it returns the content of an answer), and asked by plain datagrams.
    """

    def __init__(
        self,
        own: IPv4Address,
        port: int,
        cluster: int,
        hop_of: Callable[[Address], Hop | None],
        on_answer: Callable[[IPv4Address, EchoMessage], None],
        on_foreign: Callable[[Address, int], None],
        on_datagram: Callable[[bytes, IPv4Address], None],
        *,
        egress: Callable[[], tuple[int, bytes] | None] = lambda: None,
        own6: IPv6Address | None = None,
        address6_of: Callable[[IPv4Address], IPv6Address | None] = lambda _: None,
        answer_as_agent: Callable[[], EchoMessage] | None = None,
        allow: Collection[Network] = (),
    ) -> None:
        self.error: ProblemLine | None = None
        self.errors: Counter[str] = Counter()
        """Questions and datagrams that could not be sent or received, by errno or reason."""
        self._own, self._own6, self._port, self._cluster = own, own6, port, cluster
        self._hop_of, self._egress, self._address6_of = hop_of, egress, address6_of
        self._on_answer, self._on_foreign, self._on_datagram = on_answer, on_foreign, on_datagram
        self._answer_as_agent, self._allow = answer_as_agent, tuple(allow)
        self._sockets: dict[int, socket.socket] = {}
        self._frames = FrameSender()
        self._filter_at: dict[Address, float] = {}
        """When an empty datagram was sent last."""
        self._by_address6: dict[IPv6Address, IPv4Address] = {}

    async def run(self, on_readable: Callable[[], None]) -> None:
        """Keep the port open until canceled; while it is taken, retry. `on_readable` is to call `drain`."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                self.open()
            except OSError as error:
                self.error = PORT_TAKEN.line(where=endpoint(self._own, self._port), error=error.strerror)
                await asyncio.sleep(RETRY_S)
                continue
            opened = list(self._sockets.values())
            for one in opened:
                loop.add_reader(one, on_readable)
            try:
                await loop.create_future()
            finally:
                for one in opened:
                    loop.remove_reader(one)
                self.close()

    def follow(self, ends: Mapping[IPv4Address, IPv6Address | None]) -> None:
        """Forget all nodes but these, given with their IPv6 ends."""
        self._by_address6 = {end: node for end, node in self._by_address6.items() if ends.get(node) == end}
        self._filter_at = {end: at for end, at in self._filter_at.items() if end in ends or end in self._by_address6}

    def open(self) -> None:
        """Open the port; OSError if it is taken or an address is missing."""
        try:
            for own in (self._own, self._own6):
                if own is not None:
                    family = socket.AF_INET if own.version == 4 else socket.AF_INET6
                    opened = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
                    self._sockets[own.version] = opened
                    _set_up(opened, socket_filter(own.version, self._allow, own))
                    opened.bind((str(own), self._port))
        except OSError:
            self.close()
            raise
        self.error = None

    def close(self) -> None:
        """Close all sockets."""
        self._frames.close()
        while self._sockets:
            self._sockets.popitem()[1].close()

    def drain(self) -> bool:
        """Receive what has arrived; return whether that was all."""
        whole = True
        for opened in list(self._sockets.values()):
            whole &= self._drain(opened)
        return whole

    def ask(self, question: Question) -> bool:
        """Send a question to a node; return whether it could be sent."""
        assert isinstance(question.address, IPv4Address)
        ends = self._endpoints(question.address)
        if self._answer_as_agent is not None:  # it forwards nothing, so the kernel's own path is as good
            message = EchoMessage(EchoKind.QUESTION, self._cluster, question.nonce)
            return question.via is Via.PLAIN and self._send(ends.destination, message.pack())
        hop = self._hop_of(ends.destination)
        if hop is None or hop.mac is None or not self._sockets:
            return self._failed("no next hop" if self._sockets else "port not open")
        if question.via is Via.MARKER and not hop.on_link:
            return self._failed("marker to a node that is not on the link")
        ifindex, mac = (hop.ifindex, hop.source) if hop.ifindex and hop.source else self._egress() or (0, bytes(6))
        back = mac if question.via is Via.MARKER else bytes(6)
        message = EchoMessage(EchoKind.QUESTION, self._cluster, question.nonce, back=back, encap=question.encap)
        link = LinkHeader(hop.mac, mac, hop.vlan)
        frame = question_frame(message.pack(), question.via, ends, link, tag_of(self._own), question.nonce)
        self._pass_filter(ends.destination)
        try:
            self._frames.send(ifindex, frame)
        except OSError as error:
            return self._failed(_name(error))
        return True

    def send_datagram(self, address: IPv4Address, data: bytes) -> bool:
        """Send a datagram of the channel; return whether it could be sent."""
        return self._send(address, data)

    def _endpoints(self, address: IPv4Address) -> Endpoints:
        address6 = self._address6_of(address) if self._own6 else None
        if self._own6 is None or address6 is None:
            return Endpoints(self._own, address, self._port)
        self._by_address6[address6] = address
        return Endpoints(self._own6, address6, self._port)

    def _pass_filter(self, destination: Address) -> None:
        """Have a stateful packet filter of this host let the answer in."""
        now = time.monotonic()
        if now - self._filter_at.get(destination, -math.inf) >= FILTER_S:
            self._filter_at[destination] = now
            self._send(destination, b"")

    def _send(self, destination: Address, data: bytes) -> bool:
        opened = self._sockets.get(destination.version)
        if opened is None:
            return self._failed("port not open")
        try:
            opened.sendto(data, (str(destination), self._port))
        except OSError as error:
            return self._failed(_name(error))
        return True

    def _failed(self, why: str) -> bool:
        self.errors[why] += 1
        return False

    def _drain(self, opened: socket.socket) -> bool:
        for _ in range(_DRAIN):
            try:
                data, source = opened.recvfrom(2048)
            except BlockingIOError:
                return True
            except OSError as error:
                self._failed(_name(error))
                continue
            self._receive(data, source)
        return False

    def _receive(self, data: bytes, source: Any) -> None:
        sender = ip_address(source[0].partition("%")[0])
        address = sender if isinstance(sender, IPv4Address) else self._by_address6.get(sender)
        message = EchoMessage.unpack(data)
        if message is None:
            if address is not None:
                self._on_datagram(data, address)
        elif message.cluster != self._cluster:
            self._on_foreign(sender, message.cluster)
        elif message.kind is EchoKind.QUESTION:
            self._answer(message, sender, source)
        elif address is not None:
            self._on_answer(address, message)

    def _answer(self, question: EchoMessage, sender: Address, source: Any) -> None:
        """Answer for a node without XDP. Otherwise a question gets here only if the program does not work."""
        if self._answer_as_agent is None or question.encap is not Encap.PLAIN:
            return
        if source[1] != self._port:
            return  # no node's, and perhaps another program's that answers too
        content = self._answer_as_agent()
        message = replace(
            content, kind=EchoKind.ANSWER, cluster=self._cluster, nonce=question.nonce, encap=Encap.PLAIN,
            flags=content.flags & ~EchoFlag.DATA_PATH,
        )  # fmt: skip
        self._send(sender, message.pack())


def _set_up(opened: socket.socket, program: bytes) -> None:
    """Set a socket's filter and its buffer, before it is bound: nothing is queued unfiltered."""
    buffer = ctypes.create_string_buffer(program)
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
    opened.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, header)
    with contextlib.suppress(PermissionError):
        opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)


def _name(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, str(error))
