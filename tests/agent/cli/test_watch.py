# SPDX-License-Identifier: Apache-2.0
"""lbctl announce watch as a process, at a server that sends changes without end."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from agent.control.http_server import HttpServer, Request, Response

LBCTL = Path(sys.executable).with_name("lbctl")


def change(vip: str) -> bytes:
    fields = {"since": 0.0, "vip": vip, "peer": "10.0.0.1", "desired": "announced", "out": "yes", "session": "up"}
    return json.dumps({**fields, "why": "healthy"}).encode() + b"\n"


async def respond(_: Request) -> Response:
    async def lines() -> AsyncGenerator[bytes, None]:
        yield change("10.99.0.1") + change("10.99.0.2")
        await asyncio.Event().wait()

    return Response(200, content_type="application/x-ndjson", lines=lines())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_watch_prints_changes_at_once_and_ends_by_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    async def main() -> None:
        server = HttpServer(respond)
        await server.start(tmp_path / "socket")
        command = [LBCTL, "announce", "watch", "--vip", "10.99.0.2", "-o", "json", "-s", tmp_path / "socket"]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        assert process.stdout is not None
        assert json.loads(await asyncio.wait_for(process.stdout.readline(), 30))["vip"] == "10.99.0.2"
        process.send_signal(number)
        assert await asyncio.wait_for(process.wait(), 30) == 0
        await server.stop()

    asyncio.run(main())


def test_watch_ends_with_its_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.control.http_server.STOP_TIMEOUT_S", 0)

    async def main() -> None:
        server = HttpServer(respond)
        await server.start(tmp_path / "socket")
        command = [LBCTL, "announce", "watch", "-s", tmp_path / "socket"]
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
        assert process.stdout is not None
        first = await asyncio.wait_for(process.stdout.readline(), 30)
        assert first.endswith(b"10.99.0.1 at 10.0.0.1: announced, in adj-rib-out: yes, session up: healthy\n")
        await server.stop()
        _, error = await asyncio.wait_for(process.communicate(), 30)
        assert process.returncode == 3
        assert error.decode() == (
            f"lbctl: {tmp_path}/socket: the agent has ended, or has closed the connection; see its log\n"
        )

    asyncio.run(main())
