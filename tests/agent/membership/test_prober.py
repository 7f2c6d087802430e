# SPDX-License-Identifier: Apache-2.0
"""The direct probe over real sockets: each node is an address of 127.0.0.0/8."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address

import pytest

from agent.config.file import parse
from agent.config.schema import Config
from agent.membership.prober import RETRY_S, Prober

A, B = IPv4Address("127.0.0.11"), IPv4Address("127.0.0.12")
WAIT_S = 15.0


def config(port: int, cluster: int = 7, allow: str = "127.0.0.0/24") -> Config:
    return parse(
        f"""\
cluster: {cluster}
node: {{interface: eth0}}
services:
  - {{name: web, vip: 192.0.2.10, protocol: tcp, port: 443, forward: l2}}
bgp: {{local_as: 65001, identity_prefix: 10.254.0.0/16, peers: [{{address: 10.0.0.1, as: 65000}}]}}
members: {{allow: [{allow}], port: {port}}}
""",
        "lb.yml",
    )


@pytest.fixture
def port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind((str(B), 0))
        number: int = free.getsockname()[1]
        return number


Replies = list[tuple[IPv4Address, int]]


def play(
    mine: Config, theirs: Config, version: int | None, scene: Callable[[Prober, Replies], Awaitable[None]]
) -> None:
    """A probes B, which replies with `version`; `scene` gets A's prober and the replies to it."""

    async def run() -> None:
        replies: Replies = []
        requester = Prober(mine, A, lambda: 1, lambda address, number: replies.append((address, number)))
        responder = Prober(theirs, B, lambda: version, lambda *_: None)
        tasks = [asyncio.create_task(requester.run()), asyncio.create_task(responder.run())]
        try:
            await scene(requester, replies)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(run())


async def expect_reply(requester: Prober, replies: Replies) -> None:
    for _ in range(int(WAIT_S / 0.05)):
        requester.probe([B])
        await asyncio.sleep(0.05)
        if replies:
            return
    raise AssertionError(f"no reply; {requester.error}")


async def expect_no_reply(requester: Prober, replies: Replies) -> None:
    for _ in range(20):  # a reply takes less than 1 ms
        requester.probe([B])
        await asyncio.sleep(0.01)
    assert replies == []


def test_reply_carries_the_version(port: int) -> None:
    async def scene(requester: Prober, replies: Replies) -> None:
        await expect_reply(requester, replies)
        assert set(replies) == {(B, 42)}

    play(config(port), config(port), 42, scene)


@pytest.mark.parametrize(
    ("mine", "theirs", "version"),
    [
        ({}, {}, None),
        ({}, {"cluster": 8}, 42),
        ({}, {"allow": "127.0.0.12/32"}, 42),
        ({"allow": "127.0.0.11/32"}, {}, 42),
    ],
    ids=["it leaves", "another cluster, so another key", "it does not allow this one", "this one does not allow it"],
)
def test_no_reply_or_reply_dropped(
    port: int, mine: dict[str, str], theirs: dict[str, str], version: int | None
) -> None:
    play(config(port, **mine), config(port, **theirs), version, expect_no_reply)  # type: ignore[arg-type]


def test_taken_port_is_reported_and_retried(port: int) -> None:
    async def scene(requester: Prober, replies: Replies) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind((str(A), port + 1))
            blocked = Prober(config(port + 1), A, lambda: 1, lambda *_: None)
            task = asyncio.create_task(blocked.run())
            await asyncio.sleep(0.1)
            assert blocked.error is not None
            assert f"UDP 127.0.0.11:{port + 1}" in blocked.error
            assert "members.port" in blocked.error
        for _ in range(int((RETRY_S + WAIT_S) / 0.1)):
            await asyncio.sleep(0.1)
            if blocked.error is None:
                break
        assert blocked.error is None
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    play(config(port), config(port), 42, scene)
