# SPDX-License-Identifier: Apache-2.0
"""The listeners of a port, asked of the real kernel."""

import os
import socket
from ipaddress import ip_address

import pytest
from support.instance_servers import ANY

from agent.model import Listener, Port
from agent.netlink.listener import listeners


def test_listeners_of_a_port_in_both_families() -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as one:
        number = one.getsockname()[1]
        port = Port("tcp", number)
        with (
            socket.create_server(("127.0.0.1", number), reuse_port=True) as two,
            socket.create_server(("::1", number), family=socket.AF_INET6) as six,
            socket.create_connection(("127.0.0.1", number)),
        ):
            found = {(str(x.address), x.port, x.ifindex, x.cookie, x.inode) for x in listeners(port)}
            assert found == {
                (s.getsockname()[0], port, 0, cookie(s), os.fstat(s.fileno()).st_ino) for s in (one, two, six)
            }
    assert listeners(port) == frozenset()


def test_an_unconnected_udp_socket_is_one() -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as connected,
    ):
        for each in (one, connected):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            each.bind(("127.0.0.1", one.getsockname()[1] if each is connected else 0))
        connected.connect(("127.0.0.1", 9))
        port = one.getsockname()[1]
        assert [x.cookie for x in listeners(Port("udp", port))] == [cookie(one)]
        assert listeners(Port("tcp", port)) == frozenset()


def cookie(one: socket.socket) -> int:
    return int.from_bytes(one.getsockopt(socket.SOL_SOCKET, 57, 8), "little")


@pytest.mark.parametrize("only6", [True, False])
def test_whether_it_takes_ipv4_too(only6: bool) -> None:
    with socket.socket(socket.AF_INET6) as one:
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(only6))
        one.bind(("::", 0))
        one.listen()
        (found,) = listeners(Port("tcp", one.getsockname()[1]))
        assert found.only6 == only6
        assert found.takes(ip_address("192.0.2.1")) != only6
        assert found.takes(ip_address("2001:db8::1"))


@pytest.mark.parametrize(
    ("bound", "vip", "takes"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.2", "192.0.2.1", False),
        (ANY, "192.0.2.1", True),
        (ANY, "2001:db8::1", False),
        ("::", "192.0.2.1", True),
    ],
)
def test_which_vips_it_takes(bound: str, vip: str, takes: bool) -> None:
    assert Listener(ip_address(bound), Port("tcp", 80), 0, 1, 1).takes(ip_address(vip)) == takes
