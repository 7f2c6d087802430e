# SPDX-License-Identifier: Apache-2.0
"""The agent's client of the relay: it checks the user that serves the socket, reconnects, and yields when replaced.

Also what it does with a relay, played by the test, that sends something wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import replace
from pathlib import Path

import pytest
from support.relay_process import PEER, VIP, RelayProcess

from bgp.relay.client import RelayClient
from bgp.relay.protocol import MAX_REPORT_BYTES, REPLACED, AgentStop, DesiredRoutes, Peer, Snapshot
from bgp.relay.report import encode_changes
from bgp.route import Route

NOBODY = 65534


def test_client_refuses_a_server_of_another_user(relay: RelayProcess):
    async def attempt(uids: set[int]) -> tuple[bool, str | None]:
        client = RelayClient(relay.socket_path, uids)
        task = asyncio.create_task(client.run())
        await asyncio.sleep(0)
        async with asyncio.timeout(5):
            while not client.connected and (client.error or "").startswith("not connected"):
                await asyncio.sleep(0.01)
        task.cancel()
        return client.connected, client.error

    assert asyncio.run(attempt({os.getuid()})) == (True, None)
    connected, error = asyncio.run(attempt({NOBODY}))
    assert not connected
    assert f"served by uid {os.getuid()}, not by {NOBODY}" in (error or "")


@pytest.mark.parametrize("fresh", [True, False])
def test_client_sends_the_last_desired_routes_on_reconnecting_only_if_fresh(
    relay: RelayProcess, fresh: bool, monkeypatch: pytest.MonkeyPatch
):
    if not fresh:
        monkeypatch.setattr("bgp.relay.client.FRESH_S", 0.0)
    other = Route.of("10.99.0.2/32", "10.0.0.11")

    async def scenario() -> None:
        client = RelayClient(relay.socket_path, {os.getuid()})
        client.send_desired([VIP], [])
        task = asyncio.create_task(client.run())
        async with asyncio.timeout(5):
            while client.snapshot is None:
                await asyncio.sleep(0.01)
        if not fresh:
            client.send_desired([other], [])
        assert await asyncio.to_thread(relay.command) == (VIP if fresh else other).announce_command(PEER)
        task.cancel()

    asyncio.run(scenario())


@pytest.mark.slow
def test_client_does_not_reconnect_at_once_when_replaced(relay: RelayProcess):
    async def scenario() -> None:
        client = RelayClient(relay.socket_path, {os.getuid()})
        task = asyncio.create_task(client.run())
        async with asyncio.timeout(5):
            while not client.connected:
                await asyncio.sleep(0.01)
            other = relay.connect()
            while client.connected:
                await asyncio.sleep(0.01)
            assert client.error is not None
            assert REPLACED in client.error
            await asyncio.sleep(0.5)  # more than twice RETRY_S: it must not reconnect and replace the other
            assert not client.connected
        assert isinstance(other.receive(), Snapshot)
        task.cancel()

    asyncio.run(scenario())


def snapshot_of(*routes: Route) -> Snapshot:
    return Snapshot((Peer(PEER, True, 1.0, True, routes),))


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (b"garbage\n", "not JSON"),
        (b'{"type": "withdrawn", "peer": "10.0.0.1", "rib": "in", "prefix": "10.99.0.9/32"}\n', "no such route"),
        (b"x" * (2 * MAX_REPORT_BYTES), "limit"),
        (b"", "closed the connection"),
    ],
)
def test_batch_that_is_not_whole_is_never_visible_and_the_next_connection_begins_with_everything(
    tmp_path: Path, wrong: bytes, why: str
) -> None:
    """A relay that sends a state, the first half of a batch, and something wrong."""
    other, more = (Route.of(f"10.99.0.{i}/32", "10.0.0.11") for i in (2, 3))
    first, second = snapshot_of(VIP, other), snapshot_of(VIP, replace(other, med=5), more)
    seen: list[Snapshot] = []
    client = RelayClient(tmp_path / "relay.sock", {os.getuid()}, seen.append)
    after_the_first: list[tuple[bool, Snapshot | None, str | None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if after_the_first:
            writer.writelines(encode_changes(Snapshot(), second))
            return
        writer.writelines(encode_changes(Snapshot(), first))
        writer.write(next(encode_changes(first, second)) + wrong)
        if not wrong:
            writer.write_eof()
        with contextlib.suppress(ConnectionError):
            await reader.read()
        after_the_first.append((client.connected, client.snapshot, client.error))

    async def scenario() -> None:
        async with asyncio.timeout(30), await asyncio.start_unix_server(serve, tmp_path / "relay.sock"):
            task = asyncio.create_task(client.run())
            while len(seen) < 2:
                await asyncio.sleep(0.01)
            task.cancel()

    asyncio.run(scenario())
    assert seen == [first, second]
    [(connected, snapshot, error)] = after_the_first
    assert not connected
    assert snapshot is seen[0], "it outlives the connection"
    assert why in (error or "")


def test_desired_routes_are_encoded_when_they_change(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        client = RelayClient(Path("/nowhere"), {0})
        client.send_desired([VIP], [], ["10.254.0.11/32"])
        before = client._encoded
        client.send_desired([replace(VIP)], [], ("10.254.0.11/32",))
        assert client._encoded is before
        client.send_desired([replace(VIP, med=5)], [], ("10.254.0.11/32",))
        assert client._encoded != before
        client.send_desired([], [])
        assert client._encoded == DesiredRoutes().encode()

    asyncio.run(scenario())


def test_stop_follows_the_desired_routes_also_to_a_relay_that_connects_later(tmp_path: Path) -> None:
    received: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.readuntil(AgentStop().encode()))
        writer.close()

    async def scenario() -> None:
        client = RelayClient(tmp_path / "relay.sock", {os.getuid()})
        client.send_desired([VIP], [])
        client.send_stop()
        async with asyncio.timeout(30), await asyncio.start_unix_server(serve, tmp_path / "relay.sock"):
            task = asyncio.create_task(client.run())
            while len(received) < 2:
                await asyncio.sleep(0.01)
            task.cancel()

    asyncio.run(scenario())
    assert received[0] == DesiredRoutes((VIP,)).encode() + AgentStop().encode()
