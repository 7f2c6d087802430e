# SPDX-License-Identifier: Apache-2.0
"""Rise and fall as a table, and the two ways of asking against real servers on loopback."""

import asyncio
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address

import pytest

from agent.config.service import HealthConfig
from agent.health.probe import ask
from agent.health.rise_fall import Health, disable, judge, pause_s

LOCAL = IPv4Address("127.0.0.1")


@pytest.mark.parametrize(
    ("start", "answers", "expected"),
    [
        # rise 2, fall 3; + good, - bad, and U up, D down after each
        ("D", "++++", "DUUU"),
        ("D", "+-+-+", "DDDDD"),
        ("D", "+-++", "DDDU"),
        ("U", "--+--", "UUUUU"),
        ("U", "---", "UUD"),
        ("U", "---++", "UUDDU"),
        ("D", "-----", "DDDDD"),
    ],
)
def test_rise_and_fall(start: str, answers: str, expected: str) -> None:
    health = Health(healthy=start == "U", streak=0, since=0.0, why="")
    seen = ""
    for now, answer in enumerate(answers, 1):
        health = judge(health, answer == "+", answer, rise=2, fall=3, now=float(now))
        seen += "U" if health.healthy else "D"
    assert seen == expected


def test_since_is_the_time_of_the_change() -> None:
    health = judge(Health.unknown(1.0), True, "ok", rise=1, fall=1, now=7.0)
    assert (health.healthy, health.since, health.why) == (True, 7.0, "ok")
    assert judge(health, True, "ok", rise=1, fall=1, now=9.0).since == 7.0


def test_the_file_disables_at_once_and_recovery_takes_a_full_rise() -> None:
    health = disable(Health(healthy=True, streak=0, since=1.0, why="ok"), "/etc/off", now=5.0)
    assert (health.healthy, health.since, health.why) == (False, 5.0, "disabled: /etc/off exists")
    assert disable(health, "/etc/off", now=6.0) == health
    assert disable(judge(health, True, "ok", rise=3, fall=1, now=7.0), "/etc/off", now=8.0).streak == 0
    once = judge(health, True, "ok", rise=2, fall=1, now=9.0)
    assert not once.healthy
    assert judge(once, True, "ok", rise=2, fall=1, now=10.0).healthy


def test_the_next_answer_is_awaited_for_less_while_a_change_is_in_the_air() -> None:
    calm = Health(healthy=True, streak=0, since=1.0, why="ok")
    doubted = judge(calm, False, "refused", rise=2, fall=3, now=2.0)
    assert (pause_s(calm, 5.0, 0.5), pause_s(doubted, 5.0, 0.5), pause_s(doubted, 5.0, None)) == (5.0, 0.5, 5.0)
    # At most fast for one change: at interval 5 s, fall 3, it is sure after 5 + 0.5 + 0.5 s, not after 15.
    assert pause_s(judge(judge(doubted, False, "", 2, 3, 3.0), False, "", 2, 3, 4.0), 5.0, 0.5) == 5.0


def test_nothing_is_healthy_before_it_answered() -> None:
    assert not Health.unknown(0.0).healthy


def with_server(
    handler: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], check: HealthConfig
) -> tuple[bool, str]:
    async def main() -> tuple[bool, str]:
        server = await asyncio.start_server(handler, "127.0.0.1", 0)
        async with server:
            return await ask(LOCAL, server.sockets[0].getsockname()[1], check)

    return asyncio.run(main())


async def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()  # until the check gives up
    writer.close()


def test_tcp() -> None:
    good, why = with_server(close, HealthConfig(type="tcp"))
    assert good, why


def test_tcp_refused() -> None:
    async def main() -> tuple[bool, str]:
        server = await asyncio.start_server(close, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        return await ask(LOCAL, port, HealthConfig(type="tcp"))

    good, why = asyncio.run(main())
    assert not good
    assert "refused" in why.lower() or "connect" in why.lower()


def test_http_that_says_nothing_times_out() -> None:
    good, why = with_server(hang, HealthConfig(type="http", timeout_s=0.2))
    assert (good, why.split(" ")[:2]) == (False, ["no", "answer"])


def test_http_that_is_not_http() -> None:
    async def garbage(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\x00\x01 nonsense\r\n\r\n")
        writer.close()

    assert not with_server(garbage, HealthConfig(type="http"))[0]


@pytest.mark.parametrize("early", [0, 2])
@pytest.mark.parametrize(("status", "good"), [(200, True), (204, True), (302, True), (404, False), (503, False)])
def test_http_status(status: int, good: bool, early: int) -> None:
    asked: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        location = b"Location: /elsewhere\r\n" if status == 302 else b""
        writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n" * early)
        writer.write(b"HTTP/1.1 %d\r\n%bContent-Length: 0\r\n\r\n" % (status, location))
        await writer.drain()
        writer.close()

    good_now, why = with_server(answer, HealthConfig(type="http", path="/up"))
    assert good_now is good
    assert why.endswith(f"/up answers {status}")
    assert asked[0].startswith(b"GET /up HTTP/1.1\r\nHost: 127.0.0.1:")
