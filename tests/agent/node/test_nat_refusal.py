# SPDX-License-Identifier: Apache-2.0
"""A change of the configuration that comes while sessions are still being copied for the change before."""

from types import SimpleNamespace
from typing import cast

import pytest
from support.nat_config import TEXT, nat_config
from support.session_slots import Slots

from agent.node import nat as nat_module
from agent.node.nat import Nat
from agent.sessions.keeper import SessionKeeper
from bpf.attach.datapath import DataPath
from bpf.layout.nat import bucket_bits

FEWER, MORE, MOST = 1 << 16, 1 << 17, 1 << 18


def with_number(number: int, before: int) -> str:
    previous = f"rows: 4096, previous: {{nat: {{pool: 10.255.0.0/27, sessions: {before}}}}}"
    return TEXT.replace("sessions: 65536", f"sessions: {number}").replace("rows: 4096", previous)


class Node:
    """NAT of a node whose number of sessions is changing."""

    def __init__(self) -> None:
        self.slots = Slots(MORE)
        self.has_sessions = False
        self.nat = Nat.__new__(Nat)
        self.nat._config = nat_config(with_number(MORE, FEWER))
        self.nat._datapath = cast(DataPath, self)
        self.nat.sessions = cast(SessionKeeper, SimpleNamespace(table=self.slots.table))

    def refusal(self) -> str | None:
        return self.nat.refusal(nat_config(with_number(MOST, MORE)))


def test_sessions_that_are_still_to_be_copied_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """The maps of the present number look empty until then, and the change would end all sessions unasked."""
    node, waits = Node(), list[float]()

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            node.slots.put(5, bucket_bits=bucket_bits(FEWER))
            node.has_sessions = True

    monkeypatch.setattr(nat_module.time, "sleep", sleep)
    refused = node.refusal()
    assert refused is not None
    assert "its change ends 1 sessions of this node" in refused
    assert len(waits) == 3
    node.slots.map.tags[5] = 0
    assert node.refusal() is None


def test_a_change_does_not_wait_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nat_module, "COPIED_S", 0.0)
    assert "sessions are still being copied" in (Node().refusal() or "")
