# SPDX-License-Identifier: Apache-2.0
"""Sessions move into maps of another size, and something comes between: none is lost, and none is back."""

import os
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from support import packets
from support.nat_stage import (
    BUCKET_BITS,
    CLIENTS,
    SESSIONS,
    Flow,
    NatStage,
    open_nat,
)
from support.session_moves import MORE, Traffic, killed, lost, opened, opened_stage, request, use

from bpf.attach.datapath import DataPath
from bpf.attach.pin_dir import PinDir
from bpf.attach.session_move import sessions_moved
from bpf.attach.uplink import Uplink
from bpf.errors import BpfError
from bpf.kernel.link import XDP_FLAGS_SKB_MODE, attach_xdp, replace_program
from bpf.kernel.pin import pin_object
from bpf.layout.service import Protocol
from bpf.layout.session import SessionState, Tag, TagFlag
from bpf.maps.session_copy import SessionCopy

pytestmark = pytest.mark.slow


def in_service(path: DataPath, stage: NatStage) -> tuple[NatStage, dict[Flow, int]]:
    """Attach a data path and open sessions; return the packets for it and the slots of its sessions."""
    use(stage, SESSIONS, None, both_epochs=False)
    path.attach()
    return stage, opened(stage, 20_000)


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


@pytest.mark.parametrize("target", [Uplink, SessionCopy], ids=["before the program", "after the program"])
def test_no_session_that_has_ended_is_back_after_a_process_was_killed_while_it_copied(
    folder: Path, monkeypatch: pytest.MonkeyPatch, target: type
) -> None:
    with ExitStack() as stack:
        start = partial(opened_stage, stack, folder)
        served, slots = in_service(*start(SESSIONS))
        (freed, closed), refused = list(slots.values())[:2], Flow(4, Protocol.TCP, CLIENTS[4], 19_999)
        killed_at, stage = start(MORE)
        use(stage, SESSIONS, MORE)

        def end() -> None:
            served.sessions.tags[freed] &= np.uint64(0xFFFF_FFFF)  # by an agent, in a thread that outlives its loop
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
        assert following.has_sessions == begun
        in_use = stage if begun else served
        assert request(in_use, refused, packets.SYN) not in {None, *slots.values()} - {freed}
        following.attach()
        assert following.has_sessions
        assert stage.tag(closed).state is SessionState.CLOSED
        assert stage.tag(freed).state is SessionState.FREE
        assert request(stage, Flow(4, Protocol.TCP, CLIENTS[4], 19_998), packets.SYN) is not None
        assert lost(stage, {flow: slot for flow, slot in slots.items() if slot not in (freed, closed)}) == 0
        assert len(list(folder.glob("maps_*"))) == 1


@pytest.mark.parametrize("number", [SESSIONS, MORE, 2 * MORE], ids=["the former", "the same", "another"])
def test_what_the_former_program_did_last_is_not_lost_whatever_number_the_next_process_has(
    folder: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    with ExitStack() as stack:
        start = partial(opened_stage, stack, folder)
        served, slots = in_service(*start(SESSIONS))
        freed, closed, killed_by_operator = list(slots.values())[:3]
        killed_at, stage = start(MORE)
        use(stage, SESSIONS, MORE)

        def go_on() -> None:
            tags = served.sessions.tags
            tags[freed] &= np.uint64(0xFFFF_FFFF)
            tags[closed] = replace(served.tag(closed), state=SessionState.CLOSED).pack()
            tag = served.tag(killed_by_operator)
            tags[killed_by_operator] = Tag(tag.fingerprint & ~1, SessionState.CLOSED, TagFlag.RESET, tag.stamp).pack()
            served.nat.set_moving(False)  # as a CPU that had read the flag before it was set
            assert len(opened(served, 25_000, 1)) == 1
            served.nat.set_moving(True)

        killed(killed_at, monkeypatch, SessionCopy, "finish", go_on)
        late = Flow(4, Protocol.TCP, CLIENTS[4], 25_000)
        slot = request(served, late)
        assert slot is not None
        assert request(stage, late) is None, "the control: it began after the copy"
        following, after = start(number)
        following.resume()
        begun = opened(stage, 26_000, 5)
        assert len(begun) == 5
        use(after, SESSIONS, MORE)
        following.attach()
        assert after.tag(freed).state is SessionState.FREE
        assert [after.tag(slot).state for slot in (closed, killed_by_operator)] == [SessionState.CLOSED] * 2
        ended = {freed, closed, killed_by_operator}
        alive = {flow: slot for flow, slot in slots.items() if slot not in ended} | {late: slot} | begun
        assert len({*alive.values()}) == len(alive) == 203
        assert lost(after, alive) == 0
        assert len(list(folder.glob("maps_*"))) == 1


def test_no_session_begins_while_two_programs_have_maps_of_their_own(folder: Path, runner: Callable[..., None]) -> None:
    with ExitStack() as stack:
        few, served = opened_stage(stack, folder, SESSIONS)
        use(served, SESSIONS, MORE)
        few.attach()
        runner("ip", "link", "add", "fourth", "type", "veth", "peer", "name", "fifth")
        link = attach_xdp(served.fd, socket.if_nametoindex("fourth"), XDP_FLAGS_SKB_MODE)
        stack.callback(os.close, link)
        pin_object(link, PinDir(folder).link(1))
        many, stage = opened_stage(stack, folder, MORE)
        use(stage, SESSIONS, MORE)
        moving = sessions_moved(PinDir(folder), many.maps)
        moving.__enter__()
        many.uplinks[0].attach()
        error = BpfError("fourth: its driver refuses the program")
        assert not moving.__exit__(type(error), error, None)
        flows = [Flow(4, Protocol.TCP, CLIENTS[4], port) for port in (20_000, 20_001)]
        many.resume()
        assert [request(one, flow, packets.SYN) for one, flow in zip((served, stage), flows, strict=True)] == [None] * 2
        with sessions_moved(PinDir(folder), many.maps):
            replace_program(link, stage.fd)
        assert request(stage, flows[0], packets.SYN) is not None


def test_an_agent_that_is_attached_late_removes_nothing_that_the_next_one_has_opened(folder: Path) -> None:
    """A second reload opens its data path beside the agent of the first, which waits for other nodes still."""
    with ExitStack() as stack:
        first, stage = opened_stage(stack, folder, SESSIONS)
        use(stage, SESSIONS, MORE)
        first.attach()
        slots = opened(stage, 20_000, 20)
        second = stack.enter_context(closing(open_nat(folder, MORE)))
        pins = set(folder.rglob("*"))
        discarded = stack.enter_context(closing(open_nat(folder, 2 * MORE)))
        third = stack.enter_context(closing(open_nat(folder, 4 * MORE)))
        both = set(folder.rglob("*")) - pins
        discarded.close()
        second.attach()
        left = {pin for pin in both if pin.exists()}
        assert {pin for pin in both if f"_{4 * MORE}" in str(pin)} == left
        assert len(left) < len(both)
        assert not third.has_sessions
        third.attach()
        after = stack.enter_context(NatStage.of(third, folder))
        use(after, SESSIONS, MORE)
        assert lost(after, slots) == 0
        assert len(list(folder.glob("maps_*"))) == 1


def test_sessions_are_known_to_be_elsewhere_when_the_data_path_was_opened_before_they_moved(folder: Path) -> None:
    """A reload back to the number of before, whose maps are attached while it opens them."""
    with ExitStack() as stack:
        first, stage = opened_stage(stack, folder, SESSIONS)
        use(stage, SESSIONS, MORE)
        first.attach()
        second = stack.enter_context(closing(open_nat(folder, MORE)))
        third = stack.enter_context(closing(open_nat(folder, SESSIONS)))
        assert third.has_sessions
        second.attach()
        assert not third.has_sessions
        third.attach()
        assert third.has_sessions


@pytest.mark.parametrize("delay_s", [0.0, 0.01, 0.05])
@pytest.mark.parametrize("last", [SESSIONS, 2 * MORE], ids=["back", "another"])
def test_two_reloads_in_a_row_break_no_session(
    folder: Path, monkeypatch: pytest.MonkeyPatch, last: int, delay_s: float
) -> None:
    """The data path of the second is opened while that of the first is about to be attached, or is being."""
    with ExitStack() as stack, ThreadPoolExecutor(2) as pool:
        first, stage = opened_stage(stack, folder, SESSIONS)
        use(stage, SESSIONS, MORE)
        first.attach()
        traffic = Traffic(folder, stage, monkeypatch)
        for _ in range(1000):
            traffic.send()
        second = stack.enter_context(closing(open_nat(folder, MORE)))
        traffic.follow(stack, second, MORE)

        def reload() -> DataPath:
            attaching = pool.submit(second.attach)
            time.sleep(delay_s)
            third = stack.enter_context(closing(open_nat(folder, last)))
            attaching.result()
            traffic.follow(stack, third, max(last, MORE))
            third.resume()
            third.attach()
            return third

        reloading = pool.submit(reload)
        while not reloading.done():
            traffic.send()
        assert reloading.result().has_sessions
        assert not traffic.moved
        assert len(set(traffic.slots.values())) == len(traffic.slots) > 1000
        assert lost(traffic._stage, traffic.slots) == 0
        assert [one.name.rpartition("_")[2] for one in folder.glob("maps_*")] == [str(last)]
