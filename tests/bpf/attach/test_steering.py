# SPDX-License-Identifier: Apache-2.0
"""The program that gives a VIP's connections to listeners elsewhere, with sockets of this process."""

import contextlib
import os
import shutil
import socket
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from support.netns import add_address6, ip
from support.programs import PROGRAMS

from agent.model import Flow, LocalSocket
from agent.netlink.sock_diag import find_socket
from bpf.attach.steering import Steering, remove_steering
from bpf.compiler.build import build_program
from bpf.compiler.source import SteerOptions
from bpf.errors import BpfError
from bpf.kernel.pin import open_pin
from bpf.kernel.program import program_info
from bpf.layout.steering import PLACES
from bpf.maps.steering_maps import SteeringMaps

VIP, VIP6 = ip_address("192.0.2.10"), ip_address("2001:db8::10")
PORT = 443


@pytest.fixture
def steering(bpffs: Path, netns: None) -> Iterator[Steering]:
    ip("address", "add", f"{VIP}/32", "dev", "lo")
    add_address6(str(VIP6), "lo")
    made = Steering.open(bpffs / "steering", PROGRAMS)
    yield made
    made.close()
    remove_steering(bpffs / "steering")


@pytest.fixture
def servers(netns: None) -> Iterator[list[socket.socket]]:
    """Two listeners that share 127.0.0.1:8080."""
    with contextlib.ExitStack() as stack:
        made = []
        for _ in range(2):
            made.append(stack.enter_context(socket.create_server(("127.0.0.1", 8080), reuse_port=True)))
        yield made


def ends(listeners: list[socket.socket], vip: str = str(VIP), port: int = PORT) -> tuple[int, str, int]:
    """Connect; return which listener got it, and what the server's end is."""
    with socket.create_connection((vip, port), timeout=10):
        for number, one in enumerate(listeners):
            with contextlib.suppress(OSError):
                one.setblocking(False)
                accepted, _ = one.accept()
                with accepted:
                    return number, *accepted.getsockname()[:2]
    raise AssertionError("none of them got it")


def test_the_first_place_that_is_open_gets_it_and_answers_as_the_vip(
    steering: Steering, servers: list[socket.socket]
) -> None:
    with pytest.raises(ConnectionRefusedError):
        ends(servers)
    other = socket.create_server(("127.0.0.1", 9090))
    number = steering.maps.steer(VIP, PORT)
    with pytest.raises(ConnectionRefusedError):
        ends(servers)
    steering.maps.put(number, 3, servers[0].fileno())
    steering.maps.put(number, PLACES - 1, other.fileno())
    taken = {ends(servers) for _ in range(40)}
    assert taken == {(0, str(VIP), PORT), (1, str(VIP), PORT)}, "the kernel chooses among those that share the port"
    assert len(steering.maps.cookies(number)) == 2
    servers[0].close()
    assert ends([other])[1:] == (str(VIP), PORT), "a closed listener has left its place"
    steering.maps.put(number, 0, servers[1].fileno())
    assert ends(servers) == (1, str(VIP), PORT)
    assert steering.maps.cookies(number).keys() == {0, PLACES - 1}
    other.close()


def test_ipv6_and_any_port_but_one(steering: Steering) -> None:
    number = steering.maps.steer(VIP6, 0)
    with (
        socket.create_server(("::1", 8080), family=socket.AF_INET6) as server,
        socket.create_server((str(VIP6), 22), family=socket.AF_INET6) as alone,
    ):
        steering.maps.put(number, 0, server.fileno())
        for port in (1, 22, 80, 65_535):
            assert ends([server, alone], str(VIP6), port) == (0, str(VIP6), port)
        steering.maps.exempt(VIP6, 22)
        assert ends([server, alone], str(VIP6), 22) == (1, str(VIP6), 22)
        assert ends([server, alone], str(VIP6), 23) == (0, str(VIP6), 23)
        steering.maps.keep_only({(VIP6, 0)})
        assert ends([server, alone], str(VIP6), 22) == (0, str(VIP6), 22)
        steering.maps.keep_only(set())
        with pytest.raises(ConnectionRefusedError):
            ends([server], str(VIP6), 23)
        assert steering.maps.steer(VIP6, 80) == number
        assert not steering.maps.cookies(number), "a number that is free has no listeners"


def test_an_ipv4_listener_cannot_have_an_ipv6_connection(steering: Steering, servers: list[socket.socket]) -> None:
    steering.maps.put(steering.maps.steer(VIP6, PORT), 0, servers[0].fileno())
    with pytest.raises(ConnectionRefusedError):
        ends(servers, str(VIP6))


def test_the_kernel_finds_the_same_listener_and_connection_when_it_is_asked(
    steering: Steering, servers: list[socket.socket]
) -> None:
    """So do the health check's look for a listener, and the search for connections that others ask this node about."""
    steering.maps.put(steering.maps.steer(VIP, PORT), 0, servers[0].fileno())
    assert find_socket(Flow("tcp", ip_address("203.0.113.1"), 1, VIP, PORT)) is LocalSocket.LISTENER
    assert find_socket(Flow("tcp", ip_address("203.0.113.1"), 1, VIP, 80)) is LocalSocket.NONE
    with socket.create_connection((str(VIP), PORT), timeout=10) as one:
        flow = Flow("tcp", ip_address(one.getsockname()[0]), one.getsockname()[1], VIP, PORT)
        assert find_socket(flow) is LocalSocket.CONNECTION


def test_the_next_process_finds_the_same_and_removes_it(
    steering: Steering, servers: list[socket.socket], bpffs: Path
) -> None:
    steering.maps.put(steering.maps.steer(VIP, PORT), 0, servers[0].fileno())
    folder = bpffs / "steering"
    (pin,) = folder.glob("steer_*")
    pin.unlink()  # so the next one makes another program
    steering.close()
    again = Steering.open(folder, PROGRAMS)
    assert ends(servers)[1:] == (str(VIP), PORT)
    assert again.maps.steer(VIP, PORT) == 0
    again.close()
    assert ends(servers)[1:] == (str(VIP), PORT), "without a process"
    assert remove_steering(folder)
    with pytest.raises(ConnectionRefusedError):
        ends(servers)
    assert not folder.exists()
    assert not remove_steering(folder)


def test_removed_pins_are_made_again(steering: Steering, servers: list[socket.socket], bpffs: Path) -> None:
    steering.maps.put(steering.maps.steer(VIP, PORT), 0, servers[0].fileno())
    folder = bpffs / "steering"
    before = sorted(folder.rglob("*"))
    assert len(before) == 4
    assert not steering.keep_pinned()
    (folder / "link").unlink()
    assert steering.keep_pinned()
    shutil.rmtree(folder)
    assert ends(servers)[1:] == (str(VIP), PORT)
    assert steering.keep_pinned()
    assert not steering.keep_pinned()
    assert sorted(folder.rglob("*")) == before
    steering.close()
    assert ends(servers)[1:] == (str(VIP), PORT), "without a process"


@pytest.mark.slow
def test_the_program_compiles_without_warnings(bpffs: Path) -> None:
    folder = bpffs / "steering"
    folder.mkdir()
    SteeringMaps.open(folder).close()
    build_program(folder, folder / "program", SteerOptions(), warnings_are_errors=True)
    program = open_pin(folder / "program")
    assert program is not None
    assert program_info(program).name == "steer"
    os.close(program)
    shutil.rmtree(folder)


def test_a_folder_that_is_on_no_bpffs(tmp_path: Path) -> None:
    with pytest.raises(BpfError, match="not on a BPF file system"):
        Steering.open(tmp_path / "steering")
