# SPDX-License-Identifier: Apache-2.0
"""A network namespace with two links to a router, for tests of what the agent reads from a real kernel.

       eth0 10.0.0.11 ──── r0 10.0.0.1  MAC 02::01 ┐
here                                                ├ router ── 10.5.0.9 (a node behind it)
       eth1 10.0.1.11 ──── r1 10.0.1.1  MAC 02::02 ┘
       and 2001:db8::11 / ::1 on the first
"""

import contextlib
import os
import subprocess
from collections.abc import Iterator

from topology.lab.netns import CLONE_NEWNET, setns, unshare


def ip(*words: str, inside: int | None = None) -> None:
    enter = ["nsenter", "-t", str(inside), "-n"] if inside else []
    subprocess.run([*enter, "ip", *words], check=True, capture_output=True, text=True)


@contextlib.contextmanager
def two_links() -> Iterator[int]:
    """Put this thread into such a namespace; yield the pid of a process in the router's."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    unshare(CLONE_NEWNET)
    router = subprocess.Popen(["unshare", "-n", "sh", "-c", "echo; read -r _"], stdin=-1, stdout=-1)
    assert router.stdin
    assert router.stdout
    try:
        router.stdout.readline()  # now it is in its own namespace
        for i in (0, 1):
            ip("link", "add", f"eth{i}", "type", "veth", "peer", "name", f"r{i}", "address", f"02:00:00:00:00:0{i + 1}")
            ip("link", "set", f"r{i}", "netns", str(router.pid))
            ip("link", "set", f"r{i}", "up", inside=router.pid)
            ip("addr", "add", f"10.0.{i}.1/24", "dev", f"r{i}", inside=router.pid)
            ip("link", "set", f"eth{i}", "up")
            ip("addr", "add", f"10.0.{i}.11/24", "dev", f"eth{i}")
        ip("addr", "add", "2001:db8::1/64", "dev", "r0", "nodad", inside=router.pid)
        ip("addr", "add", "2001:db8::11/64", "dev", "eth0", "nodad")
        yield router.pid
    finally:
        router.stdin.close()
        router.wait(10)
        router.stdout.close()
        setns(before, CLONE_NEWNET)
        os.close(before)
