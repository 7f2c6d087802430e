# SPDX-License-Identifier: Apache-2.0
"""The echo over real sockets: a node here asks one in another namespace, whose agent answers without XDP.

A eth0 10.0.0.11, 2001:db8::11 ──── r0 10.0.0.1, 2001:db8::1 B
  eth1 10.0.1.11               ──── r1 10.0.1.1 (as a router: it answers pings)
"""

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest
from support.two_links import ip, two_links

from agent.address import Address
from agent.forwarding.next_hop import NextHop
from agent.liveness.asker import Asker
from agent.liveness.echo_socket import RETRY_S, EchoSocket
from agent.liveness.ping_socket import PingSocket
from agent.liveness.probe_loop import ProbeLoop
from agent.liveness.question import Question, Via
from bpf.layout.echo import EchoFlag, EchoKind, EchoMessage
from topology.lab.netns import inside_net

A, B, ROUTER = IPv4Address("10.0.0.11"), IPv4Address("10.0.0.1"), IPv4Address("10.0.1.1")
A6, B6 = IPv6Address("2001:db8::11"), IPv6Address("2001:db8::1")
B_MAC = bytes.fromhex("020000000001")
PORT, CLUSTER = 4742, 7
WAIT_S = 60.0

pytestmark = pytest.mark.lab


@pytest.fixture
def router() -> Iterator[int]:
    with two_links() as pid:
        yield pid


class Node:
    """An echo socket with what it received, and an asker."""

    def __init__(self, own: IPv4Address, cluster: int = CLUSTER, mac: bytes = B_MAC, **options: object) -> None:
        self.hop: NextHop | None = NextHop(mac)
        self.answers: list[tuple[IPv4Address, EchoMessage]] = []
        self.foreign: list[tuple[Address, int]] = []
        self.datagrams: list[tuple[bytes, IPv4Address]] = []
        self.asker = Asker(own, random.SystemRandom())
        self.socket = EchoSocket(
            own, PORT, cluster, lambda _: self.hop, self._answer, lambda *foreign: self.foreign.append(foreign),
            lambda *datagram: self.datagrams.append(datagram), egress=self._egress, **options,  # type: ignore[arg-type]
        )  # fmt: skip
        self.loop = ProbeLoop(self.asker, self.socket, lambda: None)

    def follow(self, *addresses: IPv4Address) -> None:
        self.asker.follow(addresses, asyncio.get_running_loop().time(), (ROUTER,))
        self.loop.wake()

    def answers_of(self, address: IPv4Address) -> bool | None:
        return self.asker.liveness[address].answers

    def _answer(self, address: IPv4Address, message: EchoMessage) -> None:
        self.answers.append((address, message))
        self.asker.receive(address, message, asyncio.get_running_loop().time())

    def _egress(self) -> tuple[int, bytes]:
        return socket.if_nametoindex("eth0"), bytes.fromhex("020000000011")


def answering(**options: object) -> Node:
    """B, whose agent answers."""
    content = EchoMessage(EchoKind.ANSWER, 0, 0, EchoFlag.READY | EchoFlag.DATA_PATH, 0, 99, (5,))
    return Node(B, answer_as_agent=lambda: content, allow=(ip_network("10.0.0.0/24"), ip_network("2001:db8::/64")),
                **options)  # fmt: skip


@contextlib.asynccontextmanager
async def running(*nodes: Node, inside: int | None = None) -> AsyncIterator[None]:
    """Run the nodes' loops, with sockets in the namespace of a process."""
    tasks = [asyncio.create_task(node.loop.run()) for node in nodes]
    try:
        with inside_net(inside) if inside else contextlib.nullcontext():
            await asyncio.sleep(0)
            await asyncio.sleep(0)  # a loop starts its socket's task, and that opens the socket
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.005)


def play(router: int, scene: Callable[[Node, Node], Awaitable[None]], a: Node | None = None) -> None:
    async def run() -> None:
        asking, other = a or Node(A), answering()
        async with running(other, inside=router), running(asking):
            await scene(asking, other)

    asyncio.run(run())


def test_the_agent_answers_and_says_that_it_is_not_the_data_path(router: int) -> None:
    async def scene(a: Node, b: Node) -> None:
        a.follow(B)
        await until(lambda: a.answers_of(B))
        liveness = a.asker.liveness[B]
        assert (liveness.boot, liveness.epochs, liveness.ready, liveness.data_path) == (99, (5,), True, False)
        assert 0 < (a.asker.stats(B)[Via.PLAIN].rtt_s or 0) < WAIT_S
        assert b.datagrams == a.datagrams == [], "the datagram for packet filters is none of the channel's"

    play(router, scene)


def test_a_node_whose_link_is_cut_is_silent_and_comes_back(router: int) -> None:
    async def scene(a: Node, b: Node) -> None:
        a.follow(B)
        await until(lambda: a.answers_of(B))
        ip("link", "set", "r0", "arp", "off", "address", "02:00:00:00:00:99", inside=router)
        await until(lambda: a.answers_of(B) is False)
        assert not a.asker.isolated, "the router answers pings"
        ip("link", "set", "r0", "arp", "on", "address", "02:00:00:00:00:01", inside=router)
        await until(lambda: a.answers_of(B))

    play(router, scene)


def test_a_wrong_mac_in_the_node_table_is_silence_though_the_kernel_reaches_the_node(router: int) -> None:
    async def scene(a: Node, b: Node) -> None:
        a.follow(B)
        await until(lambda: a.answers_of(B) is False)
        assert a.socket.send_datagram(B, b"LBCH hello")
        await until(lambda: b.datagrams)

    play(router, scene, Node(A, mac=bytes.fromhex("020000000077")))


def test_a_question_that_cannot_leave_is_no_silence(router: int) -> None:
    async def scene(a: Node, b: Node) -> None:
        a.follow(B)
        await until(lambda: a.answers_of(B))
        ip("link", "set", "eth0", "down")
        await until(lambda: a.socket.errors["ENETDOWN"] > 10)
        a.asker.hint(B, asyncio.get_running_loop().time())
        await until(lambda: a.socket.errors["ENETDOWN"] > 30)
        assert a.answers_of(B)
        ip("link", "set", "eth0", "up")
        before = len(a.answers)
        await until(lambda: len(a.answers) > before)
        a.hop = None
        await until(lambda: a.socket.errors["no next hop"] > 10)
        assert a.answers_of(B)

    play(router, scene)


def test_questions_over_ipv6(router: int) -> None:
    async def run() -> None:
        a = Node(A, own6=A6, address6_of={B: B6}.get)
        b = answering(own6=B6)
        async with running(b, inside=router), running(a):
            a.follow(B)
            await until(lambda: a.answers_of(B))
            assert a.answers[0][0] == B

    asyncio.run(run())


def test_another_cluster_is_named_and_not_answered(router: int) -> None:
    async def scene(a: Node, b: Node) -> None:
        a.follow(B)
        await until(lambda: b.foreign)
        assert b.foreign[0] == (A, 8)
        await until(lambda: a.answers_of(B) is False)

    play(router, scene, Node(A, cluster=8))


def test_an_unknown_asker_is_not_answered(router: int) -> None:
    async def scene(a: Node, b: Node) -> None:
        question = EchoMessage(EchoKind.QUESTION, CLUSTER, 1).pack()
        for port in (0, PORT):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
                # From a port that is not the echo's; then from outside the node prefixes.
                other.bind(("10.0.1.11" if port else "10.0.0.11", port))
                other.sendto(question, (str(B), PORT))
        a.socket.send_datagram(B, b"LBCH last")
        await until(lambda: b.datagrams)
        assert a.answers == []
        assert b.socket.errors.total() == 0

    play(router, scene)


def test_datagrams_of_the_channel_share_the_port(router: int) -> None:
    async def scene(a: Node, b: Node) -> None:
        assert a.socket.send_datagram(B, b"LBCH there")
        await until(lambda: b.datagrams)
        assert b.socket.send_datagram(A, b"LBCH back")
        await until(lambda: a.datagrams)
        assert (b.datagrams, a.datagrams) == ([(b"LBCH there", A)], [(b"LBCH back", B)])

    play(router, scene)


def test_encapsulated_questions_are_sent_and_go_unanswered_without_xdp(router: int) -> None:
    async def scene(a: Node, b: Node) -> None:
        a.asker.follow([B], asyncio.get_running_loop().time(), (ROUTER,), (Via.GUE, Via.IPIP, Via.MARKER))
        a.loop.wake()
        await until(lambda: a.answers_of(B) and len(a.asker.stats(B)) == 4)
        stats = a.asker.stats(B)
        await until(lambda: all(stats[via].unanswered for via in (Via.GUE, Via.IPIP)))
        assert a.answers_of(B)
        a.hop = NextHop(B_MAC, on_link=False)
        assert not a.socket.ask(Question(B, 1, Via.MARKER))

    play(router, scene)


def test_a_taken_port_is_a_problem_until_it_is_free(router: int) -> None:
    async def run() -> None:
        a = Node(A)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
            taken.bind((str(A), PORT))
            async with running(a):
                await until(lambda: a.socket.error)
                assert a.socket.error == (
                    "UDP 10.0.0.11:4742: Address already in use: this node can ask no other node whether it answers: "
                    "free the port, or set members.port on all nodes"
                )
                a.follow(B)
                await until(lambda: a.socket.errors["port not open"])
                taken.close()
                async with asyncio.timeout(RETRY_S + WAIT_S):
                    await until(lambda: a.socket.error is None)

    asyncio.run(run())


def test_an_error_of_a_callback_ends_the_loop(router: int) -> None:
    def fail() -> None:
        raise RuntimeError("from a callback")

    async def run() -> None:
        a = Node(A)
        a.follow(B)
        async with asyncio.timeout(WAIT_S):
            await ProbeLoop(a.asker, a.socket, fail).run()

    with pytest.raises(RuntimeError, match="from a callback"):
        asyncio.run(run())


@pytest.mark.parametrize("address", [ROUTER, B6], ids=["IPv4", "IPv6"])
def test_routers_answer_pings(router: int, address: Address) -> None:
    replies: list[tuple[Address, int]] = []
    pings = PingSocket(lambda *reply: replies.append(reply))
    nonce = 2**63 + 5
    try:
        asyncio.run(until_pinged(pings, address, nonce, replies))
    finally:
        pings.close()
    assert set(replies) == {(address, nonce)}


async def until_pinged(pings: PingSocket, address: Address, nonce: int, replies: list[tuple[Address, int]]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not replies:
            pings.ping(address, nonce)
            await asyncio.sleep(0.05)
            pings.drain()


def test_a_full_socket_is_no_silence(router: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """More has arrived than is received at once, so the kernel may have dropped answers: bursts are repeated."""

    async def run() -> None:
        a = Node(A)
        lates: list[float] = []
        monkeypatch.setattr(a.asker, "late", lates.append)
        for whole, expected in ((True, 0), (False, 1)):
            monkeypatch.setattr(a.socket, "drain", lambda whole=whole: whole)
            a.loop._receive()
            assert len(lates) == expected

    asyncio.run(run())
