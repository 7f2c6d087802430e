# SPDX-License-Identifier: Apache-2.0
"""Whether sockets are in this network namespace, as a real kernel answers: listeners, and the ends of connections."""

import errno
import logging
import os
import socket
import subprocess
from collections.abc import Iterator
from ipaddress import ip_address

import pytest
from support.netns import ip, new_netns

from agent.health import local_socket
from agent.health.local_socket import missing_listener, remote_end

LOCAL, LOCAL6 = ip_address("127.0.0.1"), ip_address("::1")


@pytest.mark.parametrize("bound", ["127.0.0.1", "0.0.0.0", "::"])  # noqa: S104
def test_listener_of_any_form_counts(bound: str) -> None:
    family = socket.AF_INET6 if ":" in bound else socket.AF_INET
    with socket.create_server((bound, 0), family=family, dualstack_ipv6=bound == "::") as server:
        port = server.getsockname()[1]
        assert missing_listener(LOCAL, "tcp", port) is None
        assert (missing_listener(LOCAL6, "tcp", port) is None) == (bound == "::")
        assert "listens on UDP 127.0.0.1" in str(missing_listener(LOCAL, "udp", port))
    assert f"nothing in this network namespace listens on TCP 127.0.0.1:{port}" in str(
        missing_listener(LOCAL, "tcp", port)
    )


def test_udp_socket_counts() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        assert missing_listener(LOCAL, "udp", server.getsockname()[1]) is None


def test_end_of_a_connection_is_here() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert remote_end(client) is None, "not yet accepted"
        accepted, _ = server.accept()
        with accepted:
            assert remote_end(client) is None


def test_kernel_that_cannot_be_asked_is_reported_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unknown(*_: object) -> None:
        raise OSError(errno.EPROTONOSUPPORT, os.strerror(errno.EPROTONOSUPPORT))

    monkeypatch.setattr(local_socket, "find_socket", unknown)
    local_socket._report.cache_clear()
    with caplog.at_level(logging.WARNING, "anylb"):
        assert missing_listener(LOCAL, "tcp", 1) is None
        assert missing_listener(LOCAL, "tcp", 2) is None
    assert len(caplog.records) == 1


# A proxy listens here, but what reaches the port is passed on: the client's end is here, the server's is not.


@pytest.fixture
def other_namespace() -> Iterator[int]:
    """A process in a namespace behind a veth, at 172.31.0.2, whose server listens on port 7000."""
    code = "import socket,sys; s=socket.create_server(('0.0.0.0',7000)); print(flush=True); sys.stdin.read()"
    with new_netns():
        shell = f'echo; read -r _; exec python3 -c "{code}"'
        inner = subprocess.Popen(["unshare", "-n", "sh", "-c", shell], stdin=-1, stdout=-1)
        assert inner.stdin
        assert inner.stdout
        try:
            inner.stdout.readline()
            ip("link", "add", "veth0", "type", "veth", "peer", "name", "ceth0")
            ip("link", "set", "ceth0", "netns", str(inner.pid))
            ip("addr", "add", "172.31.0.1/24", "dev", "veth0")
            ip("link", "set", "veth0", "up")
            ip("addr", "add", "172.31.0.2/24", "dev", "ceth0", inside=inner.pid)
            ip("link", "set", "ceth0", "up", inside=inner.pid)
            inner.stdin.write(b"\n")
            inner.stdin.flush()
            inner.stdout.readline()
            yield inner.pid
        finally:
            inner.stdin.close()
            inner.wait(60)
            inner.stdout.close()


@pytest.mark.lab
def test_end_of_a_connection_in_another_namespace(other_namespace: int) -> None:
    with socket.create_connection(("172.31.0.2", 7000), timeout=60) as client:
        why = str(remote_end(client))
        assert why.startswith("connections to 172.31.0.2:7000 end in another network namespace, where clients' packets")
        with socket.create_server(("172.31.0.1", 0)):
            assert remote_end(client), "whatever listens here"
