# SPDX-License-Identifier: Apache-2.0
"""The agent's client of the relay: it checks the user that serves the socket, reconnects, and yields when replaced."""

from __future__ import annotations

import asyncio
import os

import pytest
from support.relay_process import PEER, VIP, RelayProcess

from bgp.relay.client import RelayClient
from bgp.relay.protocol import REPLACED, Snapshot
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
