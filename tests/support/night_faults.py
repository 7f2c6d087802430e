# SPDX-License-Identifier: Apache-2.0
"""Faults that an operator meets, each a context that undoes it at its end: of routers, networks, nodes, operators."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.cluster_lab import FOUR, ClusterLab, edit, server_of
from support.waiting import wait_for

from topology.demo.daemon import COMMANDS


@contextmanager
def router_has(cluster: ClusterLab, *replacement: str) -> Iterator[None]:
    """Have the router run another configuration, by replacements of texts in turn: old, new."""
    text = (cluster.lab.root("router") / "etc/bird/bird.conf").read_text()
    changed = text
    for old, new in zip(replacement[::2], replacement[1::2], strict=True):
        assert old in changed
        changed = changed.replace(old, new)
    other = cluster.lab.root("router") / "tmp/bird.conf"
    other.write_text(changed)
    cluster.lab.exec("router", ["birdc", 'configure "/tmp/bird.conf"'])
    try:
        yield
    finally:
        cluster.lab.exec("router", ["birdc", 'configure "/etc/bird/bird.conf"'])


@contextmanager
def other_password(cluster: ClusterLab, node: str) -> Iterator[None]:
    """Have the router ask a node for TCP MD5. BIRD may keep the session that is up, and asks for it in the next."""
    session = f"protocol bgp {node} from nodes {{"
    with router_has(cluster, session, f'{session} password "x";'):
        cluster.lab.exec("router", ["birdc", "restart", node])
        yield


@contextmanager
def between(cluster: ClusterLab, node: str, fault: list[str], repair: list[str]) -> Iterator[None]:
    """Run a command on a node, and another one at the end."""
    cluster.lab.exec(node, fault)
    try:
        yield
    finally:
        cluster.lab.exec(node, repair)


@contextmanager
def link_down(cluster: ClusterLab, node: str) -> Iterator[None]:
    cluster.lab.link(node, "eth1", False)
    try:
        yield
    finally:
        cluster.lab.link(node, "eth1", True)


@contextmanager
def own_file(cluster: ClusterLab, node: str, *replacements: tuple[str, str], code: int = 0) -> Iterator[None]:
    """Have one node take another lb.yml, which is mounted over the one that all read."""
    place, other = "/etc/anylb/lb.yml", "/run/other.yml"
    cluster.lab.exec(node, ["cp", place, other])
    edit(cluster.lab.root(node) / other[1:], *replacements)
    cluster.lab.exec(node, ["mount", "--bind", other, place])
    try:
        cluster.lbctl(node, "reload", code=code)
        yield
    finally:
        cluster.lab.exec(node, ["umount", place])
        cluster.lbctl(node, "reload")


@contextmanager
def own_key(cluster: ClusterLab, node: str) -> Iterator[None]:
    key = "umask 077; echo 00112233445566778899aabbccddeeff >/etc/anylb/cluster.key"
    cluster.lab.exec(node, ["sh", "-c", key])
    with own_file(cluster, node, ("key: none", "key_file: cluster.key")):
        yield


@contextmanager
def new_connections(cluster: ClusterLab, ended: bool = False) -> Iterator[None]:
    """Open connections all the time, each for one request; `ended`: some may fail."""
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.005):
            with cluster.connect() as connection:
                connection.sendall(b"1\n")
                connection.recv(10)

    def work_on() -> None:
        while not stop.is_set():
            try:
                work()
            except OSError:
                assert ended

    thread = threading.Thread(target=work_on)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def two_next_hops(cluster: ClusterLab) -> Iterator[None]:
    with router_has(cluster, "merge paths on limit 64", "merge paths on limit 2"), new_connections(cluster):
        yield


RESETTING = """
import socket, struct
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("0.0.0.0", 7000))
s.listen(100)
while True:
    c, _ = s.accept()
    c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    c.close()
"""


@contextmanager
def resetting_server(cluster: ClusterLab, node: str) -> Iterator[None]:
    """Deploy a server that accepts connections, and resets each."""

    def healthy() -> bool:
        return bool(cluster.status(node)["services"][0]["healthy"])

    cluster.stop(node, "server")
    wait_for(lambda: not healthy(), "the old server's end to be seen")
    server = cluster.lab.spawn(node, [sys.executable, "-c", RESETTING])
    try:
        wait_for(healthy, "it to be taken for healthy: it accepts connections")
        with new_connections(cluster, ended=True):
            yield
    finally:
        server.kill()
        server.wait()
        cluster.start(node, "server")


DETACH = """
import ctypes, os, struct
libbpf = ctypes.CDLL("libbpf.so.1", use_errno=True)
fd = libbpf.bpf_obj_get(b"PATH")
assert fd >= 0 and libbpf.bpf_link_detach(fd) == 0, os.strerror(ctypes.get_errno())
"""


@contextmanager
def detached(cluster: ClusterLab, node: str) -> Iterator[None]:
    """Detach XDP behind the agent's back, as `bpftool link detach` does; `ip link set xdp off` is refused."""
    refused = cluster.lab.exec(node, ["ip", "link", "set", "eth1", "xdp", "off"], check=False)
    assert "Can't replace active BPF XDP link" in refused.stderr
    detach(cluster, node)
    yield
    wait_for(lambda: attached_as(cluster, node) is not None, "XDP again")


def detach(cluster: ClusterLab, node: str) -> None:
    links = cluster.lab.exec(node, ["sh", "-c", "find /sys/fs/bpf/anylb -name '*link*'"]).stdout.split()
    cluster.lab.exec(node, [sys.executable, "-c", DETACH.replace("PATH", links[0])])


def attached_as(cluster: ClusterLab, node: str) -> str | None:
    """Return how the kernel runs a program on a node's interface: "xdp" (native), "xdpgeneric"; None without one."""
    shown = cluster.lab.exec(node, ["ip", "-d", "link", "show", "eth1"]).stdout
    return next((mode for mode in ("xdpgeneric", "xdp") if f" {mode} " in shown), None)


@contextmanager
def native_refused(cluster: ClusterLab, node: str, port: str) -> Iterator[None]:
    """Have XDP detached while the driver refuses native mode: a veth does if its peer, which is a port of the segment,
    sends by more queues than it receives from. The agent is stopped meanwhile: it would attach again at once."""

    def detach_with(queues: int, mode: str) -> None:
        cluster.kill(node, "agent", signal.SIGSTOP)
        try:
            detach(cluster, node)
            cluster.lab.exec("segment", ["ethtool", "-L", port, "tx", str(queues)])
        finally:
            cluster.kill(node, "agent", signal.SIGCONT)
        wait_for(lambda: attached_as(cluster, node) == mode, f"{mode} on {node}")

    detach_with(2, "xdpgeneric")
    try:
        yield
    finally:
        detach_with(1, "xdp")


@contextmanager
def full_disk(cluster: ClusterLab, node: str) -> Iterator[None]:
    folder = "/var/lib/anylb"
    fill = f"mount -t tmpfs -o size=16k tmpfs {folder}; head -c 1M /dev/zero >{folder}/x 2>/dev/null; true"
    cluster.lab.exec(node, ["sh", "-c", fill])
    try:
        cluster.lbctl(node, "backend", "weight", "50")  # the state goes on
        yield
    finally:
        cluster.lab.exec(node, ["umount", folder])
        cluster.lbctl(node, "backend", "weight", "nominal")


CLOCK = Path(__file__).parents[1] / "cluster/clock"


@contextmanager
def clock_jumps(cluster: ClusterLab, node: str) -> Iterator[None]:
    """Set the wall clock of a node's agent an hour forward. It breaks no connection, and no node is lost for it."""
    cluster.stop_agent(node, signal.SIGKILL)
    log = cluster.lab.root(node) / "var/log/anylb/agent.log"
    cluster.lab.spawn(node, COMMANDS["agent"], log, {"PYTHONPATH": str(CLOCK)})
    wait_for(lambda: cluster.tables_agree() and cluster.next_hops() == set(FOUR), "the agent to be back")
    connections, offset = cluster.connect_many(20), cluster.lab.root(node) / "run/clock-offset"
    _put(offset, "3600")
    yield
    assert cluster.tables_agree()
    assert cluster.next_hops() == set(FOUR)
    for connection in connections:
        server_of(connection)
        connection.close()
    _put(offset, "0")


def _put(file: Path, text: str) -> None:
    """Write a file that is read all the time: it is never empty."""
    new = file.with_name(f"{file.name}.new")
    new.write_text(text)
    new.rename(file)
