# SPDX-License-Identifier: Apache-2.0
"""Another number of sessions, and the one before again: each session lives on in the next program's maps, both ways."""

import errno
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import pytest
from support import packets
from support.nat_stage import (
    CLIENTS,
    SESSIONS,
    TABLE,
    Flow,
    NatStage,
    open_nat,
)
from support.session_moves import MORE, answer, frame, lost, opened, opened_stage, request, use

from bpf.errors import BpfError
from bpf.kernel import bpf_map
from bpf.layout.map_spec import SESSION_MAPS, MapSpec
from bpf.layout.service import Protocol
from bpf.layout.session import SessionState

pytestmark = pytest.mark.slow


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
