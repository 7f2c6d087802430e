# SPDX-License-Identifier: Apache-2.0
"""The BGP sessions as `lbctl` shows them."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.control.bgp_session import down_text, sessions
from bgp.relay.client import RelayClient
from bgp.relay.protocol import Peer, Snapshot

UP = Peer("10.0.0.1", True, 90.0, True, why="")
DOWN = Peer("10.0.0.2", False, 88.0, False, why="connection refused", retry_s=1)
WAITING = Peer("10.0.0.3", False, 0.0, False)


class Relay(RelayClient):
    """A client with a snapshot and without a connection of its own."""

    def __init__(self, snapshot: Snapshot | None, connected: bool = True) -> None:
        super().__init__(Path("/nonexistent"), ())
        self.snapshot, self._is_connected = snapshot, connected

    @property
    def connected(self) -> bool:
        return self._is_connected


def test_each_session_has_its_state_since_reason_and_next_try() -> None:
    up, down, waiting = sessions(Relay(Snapshot((UP, DOWN, WAITING))), 100.0)
    assert (up["state"], up["since_s"], up["why"], up["retry_s"]) == ("up", 10.0, "", None)
    assert down_text(down) == "down for 12 s: connection refused (next try within 1 s)"
    assert down_text(waiting) == "down: no attempt has ended yet"


@pytest.mark.parametrize(
    "relay", [Relay(Snapshot((UP, DOWN), silent=True)), Relay(Snapshot((UP, DOWN)), connected=False)]
)
def test_no_session_is_up_or_down_while_nothing_is_known(relay: Relay) -> None:
    assert [(s["state"], s["why"]) for s in sessions(relay, 100.0)] == [("unknown", ""), ("unknown", "")]


def test_no_snapshot_no_sessions() -> None:
    assert sessions(Relay(None), 1.0) == []
