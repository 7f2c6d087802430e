# SPDX-License-Identifier: Apache-2.0
"""Another number of sessions, and the one before again: each session lives on in the next program's maps, both ways."""

import contextlib
import errno
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from ipaddress import ip_network
from pathlib import Path

import numpy as np
import pytest
from support import packets
from support.nat_stage import (
    BACKENDS,
    BUCKET_BITS,
    CLIENTS,
    KEY,
    SESSIONS,
    TABLE,
    VIPS,
    Flow,
    NatStage,
    open_nat,
    slot_in,
)

from bpf.attach.datapath import DataPath, detach_all
from bpf.attach.pin_dir import PinDir
from bpf.attach.session_move import sessions_moved
from bpf.attach.uplink import Uplink
from bpf.errors import BpfError
from bpf.kernel import bpf_map
from bpf.kernel.link import XDP_FLAGS_SKB_MODE, attach_xdp
from bpf.kernel.pin import pin_object
from bpf.layout.address import Address
from bpf.layout.conf import OtherEpoch
from bpf.layout.map_spec import SESSION_MAPS, MapSpec
from bpf.layout.nat import endpoint
from bpf.layout.service import Protocol
from bpf.layout.session import SessionState, Tag, TagFlag
from bpf.maps.session_copy import SessionCopy

pytestmark = pytest.mark.slow
MORE = 2 * SESSIONS
POOL = ip_network("10.255.0.0/30")
TCP_PORTS = (80, 8080)


@pytest.fixture
def folder(bpffs: Path, module_netns: None) -> Iterator[Path]:
    yield bpffs / "numbers"
    detach_all(bpffs / "numbers")  # the kernel frees a link whose pin was removed when it has time


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


def test_sessions_go_on_among_more_slots_and_then_among_fewer(folder: Path) -> None:
    with ExitStack() as stack:
        start = partial(opened_stage, stack, folder)
        few, stage = start(SESSIONS)
        use(stage, SESSIONS, None, both_epochs=False)
        few.attach()
        first = opened(stage, 20_000)
        assert len(first) == 200
        killed = next(iter(first.values()))
        stage.sessions.tags[killed] = 0

        many, stage = start(MORE)
        shared = {name: one.id() == few.maps.pinned[name].id() for name, one in many.maps.pinned.items()}
        assert {name for name, same in shared.items() if not same} == set(SESSION_MAPS)
        use(stage, SESSIONS, MORE)  # nodes differ
        assert lost(stage, first) == 200, "the control: nothing is copied yet"
        many.attach()
        assert [one.name.rpartition("_")[2] for one in folder.glob("maps_*")] == [str(MORE)]
        assert lost(stage, first) == 1, "but for the one that was killed"
        assert max(opened(stage, 21_000).values()) < SESSIONS
        del first[next(iter(first))]

        use(stage, MORE, None)
        assert lost(stage, first) > 50, "the control: a client's packets look in other buckets"
        use(stage, MORE, SESSIONS)
        assert lost(stage, first) == 0
        second = opened(stage, 22_000)
        assert max(second.values()) >= SESSIONS
        assert lost(stage, first | second) == 0

        use(stage, MORE, SESSIONS, both_epochs=False)
        assert lost(stage, first | second) == 0, "an agent fills the bank of the next epoch, and the program reads one"
        use(stage, SESSIONS, MORE)
        assert lost(stage, first | second) == 0
        third = opened(stage, 23_000)
        assert max(third.values()) < SESSIONS

        fewer, stage = start(SESSIONS)
        use(stage, SESSIONS, None, both_epochs=False)
        fewer.attach()
        assert lost(stage, first | third) == 0
        assert lost(stage, second) == 200, "these began among more slots: the agent waits until they have ended"


def test_what_both_programs_have_after_a_process_ended_between_two_uplinks_is_merged(
    folder: Path, runner: Callable[..., None]
) -> None:
    with ExitStack() as stack:
        few = stack.enter_context(closing(open_nat(folder)))
        use(stack.enter_context(NatStage.of(few, folder)), SESSIONS, MORE)
        few.attach()
        many = stack.enter_context(closing(open_nat(folder, MORE)))
        runner("ip", "link", "add", "second", "type", "veth", "peer", "name", "third")
        stage = stack.enter_context(NatStage.of(many, folder))
        link = attach_xdp(stage.fd, socket.if_nametoindex("second"), XDP_FLAGS_SKB_MODE)
        stack.callback(os.close, link)
        pin_object(link, PinDir(folder).link(1))
        assert few.maps.sessions
        assert many.maps.sessions
        for slot, maps, fingerprint, state, stamp in (
            (5, few, 77, SessionState.EST, 10), (5, many, 77, SessionState.FIN, 20),
            (6, few, 77, SessionState.EST, 30), (6, many, 99, SessionState.EST, 20),
            (7, few, 77, SessionState.EST, 10),
        ):  # fmt: skip
            sessions = maps.maps.sessions
            assert sessions
            sessions.sessions4["bucket_bits"][slot] = BUCKET_BITS
            sessions.tags[slot] = Tag(fingerprint, state, TagFlag(0), stamp).pack()
        with sessions_moved(PinDir(folder), many.maps):
            pass
        found = [Tag.unpack(int(many.maps.sessions.tags[slot])) for slot in (5, 6, 7)]
        assert [(one.fingerprint, one.state, one.stamp) for one in found] == [
            (77, SessionState.FIN, 20), (99, SessionState.EST, 20), (77, SessionState.EST, 10)
        ]  # fmt: skip


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


@pytest.mark.parametrize("target", [Uplink, SessionCopy], ids=["before the program", "after the program"])
def test_no_session_that_has_ended_is_back_after_a_process_was_killed_while_it_copied(
    folder: Path, monkeypatch: pytest.MonkeyPatch, target: type
) -> None:
    with ExitStack() as stack:
        start = partial(opened_stage, stack, folder)
        few, served = start(SESSIONS)
        use(served, SESSIONS, None, both_epochs=False)
        few.attach()
        slots = opened(served, 20_000)
        (freed, closed), refused = list(slots.values())[:2], Flow(4, Protocol.TCP, CLIENTS[4], 19_999)
        killed_at, stage = start(MORE)
        use(stage, SESSIONS, MORE)

        def end() -> None:
            if not begun:  # by an agent of the former number, which may follow
                served.sessions.tags[freed] &= np.uint64(0xFFFF_FFFF)
            served.sessions.tags[closed] = replace(served.tag(closed), state=SessionState.CLOSED).pack()

        begun = target is SessionCopy
        killed(killed_at, monkeypatch, target, "finish" if begun else "attach", end if begun else lambda: None)
        assert stage.tag(freed).state is stage.tag(closed).state is SessionState.SYN, "the control: both are copied"
        if not begun:
            end()
        assert request(served, refused, packets.SYN) is None

        following, stage = start(MORE)
        use(stage, SESSIONS, MORE)
        assert not following.has_sessions
        following.resume()
        in_use = stage if begun else served
        assert (request(in_use, refused, packets.SYN) is None) == begun, "two programs would give out one endpoint"
        following.attach()
        assert following.has_sessions
        assert stage.tag(closed).state is SessionState.CLOSED
        assert stage.tag(freed).state is (SessionState.SYN if begun else SessionState.FREE)
        assert request(stage, Flow(4, Protocol.TCP, CLIENTS[4], 19_998), packets.SYN) is not None
        assert lost(stage, {flow: slot for flow, slot in slots.items() if slot not in (freed, closed)}) == 0
        assert len(list(folder.glob("maps_*"))) == 1


def test_a_number_for_which_there_is_no_memory_leaves_nothing_in_the_kernel(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(open_nat(folder)):
        before = sorted(folder.iterdir())
        create = bpf_map.create_map

        def create_map(spec: MapSpec) -> int:
            if spec.name == "sessions6":
                raise BpfError("cannot make the BPF map sessions6: there is no memory", errno.ENOMEM)
            return create(spec)

        monkeypatch.setattr(bpf_map, "create_map", create_map)
        with pytest.raises(BpfError, match="there is no memory"):
            open_nat(folder, MORE)
        assert sorted(folder.iterdir()) == before


def test_no_session_begins_or_is_refused_while_sessions_are_copied(folder: Path) -> None:
    with NatStage.opened(folder) as stage:
        flow, other = (Flow(4, Protocol.TCP, CLIENTS[4], port) for port in (20_000, 20_001))
        slot = request(stage, flow, packets.SYN)
        assert slot is not None
        stage.nat.set_moving(True)
        assert (request(stage, flow), answer(stage, flow, slot)) == (slot, True)
        before = stage.sessions.tags.copy()
        for flags in (packets.SYN, packets.ACK):
            assert stage.send(frame(other.client, other.client_port, other.vip, other.vip_port, flags))[0] == "drop"
        assert (stage.sessions.tags == before).all()
        assert stage.tag(slot).state is not SessionState.FREE
        stage.nat.set_moving(False)
        assert request(stage, other, packets.SYN) is not None
        assert stage.nat.conf().table == TABLE  # type: ignore[union-attr]
