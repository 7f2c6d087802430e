# SPDX-License-Identifier: Apache-2.0
"""The program that chooses among listeners, and its maps, with sockets of this process."""

import contextlib
import errno
import os
import shutil
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.programs import PROGRAMS

from bpf.attach.instance_group import InstanceGroup, detach
from bpf.compiler.build import build_program
from bpf.compiler.source import InstanceOptions
from bpf.errors import BpfError
from bpf.kernel.pin import open_pin
from bpf.kernel.program import program_info
from bpf.layout.instance import CELLS
from bpf.maps.instance_maps import InstanceMaps

SO_COOKIE = 57
LISTENERS = 10


@pytest.fixture
def group(bpffs: Path, netns: None) -> Iterator[InstanceGroup]:
    made = InstanceGroup.open(bpffs / "group", PROGRAMS)
    yield made
    made.unpin()
    made.close()


@pytest.fixture
def listeners(netns: None) -> Iterator[list[socket.socket]]:
    """Listeners of one address and port."""
    with contextlib.ExitStack() as stack:
        made: list[socket.socket] = []
        for _ in range(LISTENERS):
            one = stack.enter_context(socket.socket())
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            one.bind(("127.0.0.1", made[0].getsockname()[1] if made else 0))
            one.listen(1000)
            one.setblocking(False)
            made.append(one)
        yield made


def cookie(one: socket.socket) -> int:
    return int.from_bytes(one.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8), "little")


def takers(listeners: list[socket.socket], count: int = 100) -> Counter[int]:
    """Open connections; return how many each listener got."""
    found: Counter[int] = Counter()
    port = next(one for one in listeners if one.fileno() >= 0).getsockname()[1]
    for _ in range(count):
        with socket.create_connection(("127.0.0.1", port), timeout=10):
            for number, one in enumerate(listeners):
                with contextlib.suppress(BlockingIOError, OSError):
                    one.accept()[0].close()
                    found[number] += 1
    return found


def filled(group: InstanceGroup, listeners: list[socket.socket]) -> None:
    for slot, one in enumerate(listeners):
        group.maps.put(slot, one.fileno())
    group.attach(listeners[0])


def test_places_are_tried_in_order_and_a_closed_listener_is_passed_over(
    group: InstanceGroup, listeners: list[socket.socket]
) -> None:
    filled(group, listeners)
    assert group.maps.cookies() == {slot: cookie(one) for slot, one in enumerate(listeners)}
    group.maps.choose([[(3, 5, 7)] * CELLS])
    assert group.maps.cells() == [[(3, 5, 7)] * CELLS]
    assert takers(listeners) == {3: 100}
    listeners[3].close()
    assert takers(listeners) == {5: 100}
    group.maps.remove(5)
    assert takers(listeners) == {7: 100}
    assert group.maps.cookies().keys() == set(range(LISTENERS)) - {3, 5}


def test_all_eight_places_are_tried(group: InstanceGroup, listeners: list[socket.socket]) -> None:
    filled(group, listeners)
    group.maps.choose([[tuple(range(LISTENERS))] * CELLS])
    for one in listeners[:7]:
        one.close()
    assert takers(listeners) == {7: 100}


def test_cells_divide_by_the_hash(group: InstanceGroup, listeners: list[socket.socket]) -> None:
    filled(group, listeners)
    group.maps.choose([[(0,) if cell < CELLS // 2 else (1,) for cell in range(CELLS)]])
    found = takers(listeners, 400)
    assert found.keys() == {0, 1}
    assert min(found.values()) > 100, "400 coins, and 100 heads at most, have a probability of 1e-24"


def test_without_a_choice_the_kernel_chooses(group: InstanceGroup, listeners: list[socket.socket]) -> None:
    filled(group, listeners)
    assert len(takers(listeners)) > 2
    group.maps.choose([[(200,)] * CELLS])
    assert len(takers(listeners)) > 2, "a slot that is empty is no choice"
    group.maps.choose([[(0,)] * CELLS])
    assert takers(listeners) == {0: 100}
    detach(listeners[4])
    assert len(takers(listeners)) > 2
    detach(listeners[4])


def test_a_check_reaches_one_listener_and_only_from_the_same_address(
    group: InstanceGroup, listeners: list[socket.socket]
) -> None:
    filled(group, listeners)
    group.maps.choose([[(0,)] * CELLS])
    assert taker(group, listeners, "127.0.0.1", 4) == 4
    assert taker(group, listeners, "127.0.0.2", 4) == 0, "not this address: it might come from outside"
    listeners[4].close()
    assert taker(group, listeners, "127.0.0.1", 4) == 0
    assert taker(group, listeners, "127.0.0.1", None) == 0


def taker(group: InstanceGroup, listeners: list[socket.socket], source: str, slot: int | None) -> int:
    """Return the listener that gets a connection which is a check of this slot."""
    with socket.socket() as client:
        client.bind((source, 0))
        group.maps.probe(client.getsockname()[1], slot)
        client.connect(("127.0.0.1", listeners[0].getsockname()[1]))
        group.maps.probe(client.getsockname()[1], None)
        for number, one in enumerate(listeners):
            with contextlib.suppress(OSError):
                one.accept()[0].close()
                return number
    raise AssertionError("nobody got it")


def test_what_the_kernel_refuses(group: InstanceGroup, listeners: list[socket.socket]) -> None:
    group.maps.put(0, listeners[0].fileno())
    with pytest.raises(BpfError) as busy:
        group.maps.put(1, listeners[0].fileno())
    assert busy.value.errno == errno.EBUSY
    with socket.create_server(("127.0.0.1", 0)) as alone:
        with pytest.raises(BpfError) as refused:
            group.maps.put(1, alone.fileno())
        assert refused.value.errno == errno.EINVAL
        with pytest.raises(OSError, match="Invalid argument"):
            group.attach(alone)


def test_the_next_process_finds_the_same(group: InstanceGroup, listeners: list[socket.socket], bpffs: Path) -> None:
    filled(group, listeners)
    group.maps.choose([[(2,)] * CELLS])
    again = InstanceGroup.open(bpffs / "group", PROGRAMS)
    assert again.maps.cookies() == group.maps.cookies()
    assert again.maps.cells() == [[(2,)] * CELLS]
    again.attach(listeners[0])
    assert takers(listeners) == {2: 100}
    again.close()


@pytest.mark.parametrize("udp", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_program_compiles_without_warnings(bpffs: Path, udp: bool) -> None:
    folder = bpffs / "group"
    folder.mkdir()
    InstanceMaps.open(folder, udp).close()
    build_program(folder, folder / "program", InstanceOptions(udp), warnings_are_errors=True)
    program = open_pin(folder / "program")
    assert program is not None
    assert program_info(program).name == "hot_standby"
    os.close(program)
    shutil.rmtree(folder)


def test_a_folder_that_is_on_no_bpffs(tmp_path: Path) -> None:
    with pytest.raises(BpfError, match="not on a BPF file system"):
        InstanceGroup.open(tmp_path / "group")
