# SPDX-License-Identifier: Apache-2.0
"""The direct probe over real sockets: 127.0.0.0/8 holds as many nodes as one likes."""

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
members: {{allow: [{allow}], probe_port: {port}}}
""",
        "lb.yml",
    )


@pytest.fixture
def port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind((str(B), 0))
        number: int = free.getsockname()[1]
        return number


Answers = list[tuple[IPv4Address, int]]


def play(
    mine: Config, theirs: Config, version: int | None, scene: Callable[[Prober, Answers], Awaitable[None]]
) -> None:
    """A asks, B answers under `version`; `scene` gets A's end and what it was answered."""

    async def run() -> None:
        answers: Answers = []
        asker = Prober(mine, A, lambda: 1, lambda address, number: answers.append((address, number)))
        asked = Prober(theirs, B, lambda: version, lambda *_: None)
        tasks = [asyncio.create_task(asker.run()), asyncio.create_task(asked.run())]
        try:
            await scene(asker, answers)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(run())


async def answered(asker: Prober, answers: Answers) -> None:
    for _ in range(int(WAIT_S / 0.05)):
        asker.ask([B])
        await asyncio.sleep(0.05)
        if answers:
            return
    raise AssertionError(f"no answer; {asker.error}")


async def not_answered(asker: Prober, answers: Answers) -> None:
    for _ in range(20):
        asker.ask([B])
        await asyncio.sleep(0.05)
    assert answers == []


def test_a_node_answers_under_its_version(port: int) -> None:
    async def scene(asker: Prober, answers: Answers) -> None:
        await answered(asker, answers)
        assert set(answers) == {(B, 42)}

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
def test_who_does_not_answer_or_is_not_heard(
    port: int, mine: dict[str, str], theirs: dict[str, str], version: int | None
) -> None:
    play(config(port, **mine), config(port, **theirs), version, not_answered)  # type: ignore[arg-type]


def test_a_port_that_is_taken_is_told_and_tried_again(port: int) -> None:
    async def scene(asker: Prober, answers: Answers) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind((str(A), port + 1))
            blocked = Prober(config(port + 1), A, lambda: 1, lambda *_: None)
            task = asyncio.create_task(blocked.run())
            await asyncio.sleep(0.1)
            assert blocked.error is not None
            assert f"UDP 127.0.0.11:{port + 1}" in blocked.error
            assert "members.probe_port" in blocked.error
        for _ in range(int((RETRY_S + WAIT_S) / 0.1)):
            await asyncio.sleep(0.1)
            if blocked.error is None:
                break
        assert blocked.error is None
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    play(config(port), config(port), 42, scene)
