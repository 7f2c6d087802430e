# SPDX-License-Identifier: Apache-2.0
"""The data path taken over by the next process, and replaced under traffic: another program, build or layout."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from support.programs import PROGRAMS
from support.veth_datapath import PACKETS, ROWS, Repinned, Sender, fill, opened, seen
from support.waiting import wait_for

from bpf.attach.datapath import DataPath
from bpf.errors import BpfError
from bpf.kernel import bpf_map
from bpf.kernel.pin import open_pin
from bpf.kernel.xdp import xdp_state
from bpf.layout.map_spec import TAIL_CALLS
from bpf.maps.pinned_map import pack_index

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("veth")]

ROOT = Path(__file__).parents[3]


def test_restarted_process_takes_over(pins: Path) -> None:
    """Packets are handled after the process is killed, and the next process takes over without compiling."""
    code = (
        "import os, sys; from pathlib import Path; sys.path[:0] = ['tests']\n"
        "from support.veth_datapath import opened\n"
        "path = opened(Path(sys.argv[1])); path.attach(); print(path.program.id, flush=True)\n"
        "os.kill(os.getpid(), 9)"
    )
    command = [sys.executable, "-c", code, str(pins)]
    killed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert killed.returncode == -9, killed.stderr
    before = sorted(pin.name for pin in pins.iterdir())

    with closing(DataPath.open(pins, "node", rows=ROWS, cache_dir=PROGRAMS)) as path:
        assert path.program.id == int(killed.stdout)
        assert path.attached()
        assert path.maps.missing() == []
        with Sender() as sender:
            wait_for(lambda: seen(path) > 100)
            path.attach()
        wait_for(lambda: seen(path) == sender.sent)
        assert sorted(pin.name for pin in pins.iterdir()) == before


@pytest.mark.parametrize("kind", PACKETS)
def test_replaced_under_traffic_without_loss(pins: Path, kind: str) -> None:
    """Same maps, another program of the same build, ten times: two programs in turn."""
    path = opened(pins)
    path.attach()
    programs = [path.program.id]
    with ExitStack() as stack:
        held = [stack.enter_context(closing(Repinned(pins)))]
        sender = stack.enter_context(Sender(kind))
        for turn in range(10):
            next(pins.glob("program0_*")).unlink()
            if turn:
                held[(turn + 1) % 2].pin()
            sent = sender.sent
            wait_for(lambda: sender.sent > sent + 100)  # noqa: B023
            successor = DataPath.open(pins, "node", rows=ROWS, cache_dir=PROGRAMS)
            assert not successor.attached()
            successor.attach()
            assert successor.attached()
            assert not path.attached()
            path.close()
            path = successor
            if not turn:
                held.append(stack.enter_context(closing(Repinned(pins))))
            programs.append(path.program.id)
    assert len(set(programs)) == 2
    assert programs == programs[:2] * 5 + programs[:1]
    assert sender.sent > 1000
    wait_for(lambda: seen(path) == sender.sent)
    path.close()


@pytest.mark.parametrize("kind", PACKETS)
def test_removed_pins_are_made_again_under_traffic_without_loss(pins: Path, kind: str) -> None:
    """The process holds all that was pinned; the next one takes over the same program and maps."""
    with closing(opened(pins)) as path:
        path.attach()
        path.egress.attach(["node"])
        assert not path.keep_pinned()
        before = sorted(pins.rglob("*"))
        with Sender(kind) as sender:
            shutil.rmtree(pins)
            sent = sender.sent
            wait_for(lambda: sender.sent > sent + 100)
            assert path.keep_pinned()
            assert not path.keep_pinned()
            assert sorted(pins.rglob("*")) == before
            path.close()
            with closing(DataPath.open(pins, "node", rows=ROWS, cache_dir=PROGRAMS)) as successor:
                assert successor.attached()
                successor.attach()
                sent = sender.sent
                wait_for(lambda: sender.sent > sent + 100)
                sender.stop()
                wait_for(lambda: seen(successor) == sender.sent)
    assert xdp_state(socket.if_nametoindex("node")).prog_id, "it is pinned"


def test_another_build_replaces_the_old_one_and_its_tail_calls_under_traffic(pins: Path) -> None:
    path = opened(pins)
    path.attach()
    with ExitStack() as stack:
        held = {True: stack.enter_context(closing(Repinned(pins)))}
        sender = stack.enter_context(Sender("general"))
        for ipv6 in (False, True) * 5:
            if ipv6 in held:
                held[ipv6].pin()
            sent = sender.sent
            wait_for(lambda: sender.sent > sent + 100)  # noqa: B023
            successor = DataPath.open(pins, "node", rows=ROWS, ipv6=ipv6, cache_dir=PROGRAMS)
            assert len(list(pins.glob("programs_*"))) == 2
            successor.attach()
            assert successor.attached()
            assert len(list(pins.glob("programs_*"))) == 1
            path.close()
            path = successor
            if ipv6 not in held:
                held[ipv6] = stack.enter_context(closing(Repinned(pins)))
    wait_for(lambda: seen(path) == sender.sent)
    path.close()


@pytest.mark.parametrize("place", range(TAIL_CALLS.entries))
def test_program_without_its_tail_calls_is_built_again(pins: Path, place: int) -> None:
    """Their map is gone, or not full: then packets that are not plain would pass to the kernel."""
    with closing(opened(pins)) as path:
        path.attach()
        first = path.program.id
    (calls,) = pins.glob("programs_*")
    calls.unlink()
    with closing(opened(pins)) as path:
        assert path.program.id != first
        path.attach()
        second = path.program.id
    (calls,) = pins.glob("programs_*")
    fd = open_pin(calls)
    assert fd is not None
    bpf_map.delete(fd, pack_index(place))
    os.close(fd)
    with closing(opened(pins)) as path, Sender("general") as sender:
        assert path.program.id not in (first, second)
        path.attach()
        before = seen(path), sender.sent
        wait_for(lambda: seen(path) > before[0] + 100)


def test_pins_of_a_version_without_tail_calls_are_replaced(pins: Path) -> None:
    """It had one program for each uplink, under the same kind of name."""
    with closing(opened(pins)) as path:
        path.attach()
    (program,) = pins.glob("program0_*")
    program.rename(pins / "program0_0123456789ab")
    (calls,) = pins.glob("programs_*")
    calls.unlink()
    with closing(opened(pins)) as path, Sender() as sender:
        wait_for(lambda: seen(path) > 100)
        path.attach()
        assert path.attached()
        sender.stop()
        wait_for(lambda: seen(path) == sender.sent)
    kinds = sorted(pin.name.split("_")[0] for pin in pins.iterdir())
    assert kinds == ["egress", "link0", "maps", "program0", "programs"]


def test_maps_of_another_layout_replace_the_old_ones_under_traffic(pins: Path) -> None:
    """Each packet meets the old or the new maps: the old ones until the new ones are filled and attached."""
    with closing(opened(pins)) as old:
        old.attach()
        with Sender() as sender, closing(DataPath.open(pins, "node", rows=2 * ROWS, cache_dir=PROGRAMS)) as new:
            with pytest.raises(BpfError, match="the maps lack"):
                new.attach()
            fill(new)
            wait_for(lambda: seen(old) > 100)
            assert (old.attached(), seen(new)) == (True, 0)
            new.attach()
            assert (old.attached(), new.attached()) == (False, True)
            sender.stop()
            wait_for(lambda: seen(old) + seen(new) == sender.sent > seen(old))
        assert sorted(pin.name.split("_")[0] for pin in pins.iterdir()) == [
            "egress",
            "link0",
            "maps",
            "program0",
            "programs",
        ]


def test_interface_that_was_deleted_and_added(pins: Path, runner: Callable[..., None]) -> None:
    """The attachment is gone with the old interface, and its pin is of no use."""
    with closing(opened(pins)) as path:
        path.attach()
    runner("ip", "link", "delete", "node")
    runner("ip", "link", "add", "node", "type", "veth", "peer", "name", "wire")
    with closing(opened(pins)) as path:
        assert not path.attached()
        path.attach()
        assert path.attached()
        assert path.maps.uplinks.read(0).ifindex == socket.if_nametoindex("node")
