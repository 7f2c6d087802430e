# SPDX-License-Identifier: Apache-2.0
"""Packets of NAT while its sessions move into maps of another size, and a process that is killed meanwhile."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing
from ipaddress import ip_network
from pathlib import Path

import pytest
from support import packets
from support.nat_stage import (
    BACKENDS,
    CLIENTS,
    KEY,
    SESSIONS,
    VIPS,
    Flow,
    NatStage,
    open_nat,
    slot_in,
)

from bpf.attach import datapath
from bpf.attach.datapath import DataPath
from bpf.attach.uplink import Uplink
from bpf.layout.address import Address
from bpf.layout.conf import OtherEpoch
from bpf.layout.nat import endpoint
from bpf.layout.service import Protocol

MORE = 2 * SESSIONS
POOL = ip_network("10.255.0.0/29")


def frame(source: Address, source_port: int, target: Address, target_port: int, flags: int) -> bytes:
    ends = {"src": str(source), "dst": str(target)}
    segment = packets.tcp(sport=source_port, dport=target_port, flags=flags, seq=1000, ack=1000, **ends)
    return packets.ethernet(packets.ipv4(segment, protocol=packets.TCP, **ends), dst=packets.HERE, src=packets.ROUTER)


def request(stage: NatStage, flow: Flow, flags: int = packets.ACK) -> int | None:
    """Send a packet of the client; return the slot by whose endpoint it reached a backend, None if it did not."""
    verdict, after = stage.send(frame(flow.client, flow.client_port, flow.vip, flow.vip_port, flags))
    if verdict != "tx" or after[30:34] not in {one.packed for one in BACKENDS[4]}:
        return None
    return slot_in(4, type(flow.client)(after[26:30]), int.from_bytes(after[34:36], "big"))


def answer(stage: NatStage, flow: Flow, slot: int) -> bool:
    """Send an answer to an endpoint; return whether it reached the client."""
    backend = stage.sessions.read(slot).backend
    verdict, after = stage.send(frame(backend, 8080, *endpoint(POOL, slot), packets.ACK))
    return verdict == "tx" and after[26:34] == VIPS[4].packed + flow.client.packed


def opened(stage: NatStage, first_port: int, count: int = 200) -> dict[Flow, int]:
    flows = [Flow(4, Protocol.TCP, CLIENTS[4] + i, first_port + i) for i in range(count)]
    slots = {flow: request(stage, flow, packets.SYN) for flow in flows}
    return {flow: slot for flow, slot in slots.items() if slot is not None}


def lost(stage: NatStage, slots: dict[Flow, int]) -> int:
    """Return how many flows no longer have the session of their slot, one way or the other."""
    return sum(request(stage, flow) != slot or not answer(stage, flow, slot) for flow, slot in slots.items())


def use(stage: NatStage, sessions: int, former: int | None, both_epochs: bool = True) -> None:
    """New sessions get a slot among so many; two epochs are in use, but while the bank of the next is being filled."""
    stage.write_conf(sessions=sessions, former_sessions=former, pool=POOL, pool6=None)
    stage.set_chain([1], bank=1)
    stage.use_epochs(OtherEpoch(KEY) if both_epochs else None)


def opened_stage(stack: ExitStack, folder: Path, sessions: int) -> tuple[DataPath, NatStage]:
    """The data path of a node with so many sessions, and packets for it; both end with the stack."""
    path = stack.enter_context(closing(open_nat(folder, sessions)))
    return path, stack.enter_context(NatStage.of(path, folder))


def killed(
    path: DataPath, monkeypatch: pytest.MonkeyPatch, target: type, name: str, before: Callable[[], None]
) -> None:
    """Attach in a process that is killed where it would call a method, after this."""

    def die(*_: object) -> None:
        before()
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(target, name, die)
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            path.attach()
        os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    monkeypatch.undo()
    path._is_next_no_more()  # the process that follows knows nothing of it


class Traffic:
    """Packets for the program that is attached, of new flows and of those that there are."""

    def __init__(self, folder: Path, first: NatStage, monkeypatch: pytest.MonkeyPatch) -> None:
        self.slots: dict[Flow, int] = {}
        self.moved: list[Flow] = []
        """Flows whose packets did not get to their sessions."""
        self._folder, self._stage, self._sent = folder, first, 0
        self._following: dict[int, NatStage] = {}
        self._between_packets = threading.Lock()
        attach = Uplink.attach

        def attach_between_packets(uplink: Uplink) -> None:
            with self._between_packets:
                attach(uplink)
                self._stage = self._following[uplink.program.id]

        monkeypatch.setattr(Uplink, "attach", attach_between_packets)
        monkeypatch.setattr(datapath, "_write_uplinks", lambda *_: {})  # these packets have the stage's MAC

    def follow(self, stack: ExitStack, path: DataPath, former: int) -> None:
        """Write the maps as the agent of this data path does; new sessions get the former number."""
        with self._between_packets:  # the stage writes one field after the other
            stage = stack.enter_context(NatStage.of(path, self._folder))
            use(stage, SESSIONS, former)
        self._following[path.program.id] = stage

    def send(self) -> None:
        with self._between_packets:
            flow = Flow(4, Protocol.TCP, CLIENTS[4] + self._sent % 200, 20_000 + self._sent // 200)
            if (slot := request(self._stage, flow, packets.SYN)) is not None:
                self.slots[flow] = slot
            for one in list(self.slots)[self._sent % 97 :: 97]:
                if request(self._stage, one) != self.slots[one]:
                    self.moved.append(one)
            self._sent += 1
