# SPDX-License-Identifier: Apache-2.0
"""A network namespace with two links to a router, for tests of what the agent reads from a real kernel.

       eth0 10.0.0.11 ──── r0 10.0.0.1  MAC 02::01 ┐
here                                                ├ router ── 10.5.0.9 (a node behind it)
       eth1 10.0.1.11 ──── r1 10.0.1.1  MAC 02::02 ┘
       and 2001:db8::11 / ::1 on the first
"""

import contextlib
import subprocess
from collections.abc import Iterator

from support.netns import ip, new_netns


@contextlib.contextmanager
def two_links() -> Iterator[int]:
    """Put this thread into such a namespace; yield the pid of a process in the router's."""
    with new_netns():
        router = subprocess.Popen(["unshare", "-n", "sh", "-c", "echo; read -r _"], stdin=-1, stdout=-1)
        assert router.stdin
        assert router.stdout
        try:
            router.stdout.readline()  # now it is in its own namespace
            for i in (0, 1):
                there = f"r{i}"
                ip(
                    "link",
                    "add",
                    f"eth{i}",
                    "type",
                    "veth",
                    "peer",
                    "name",
                    there,
                    "address",
                    f"02:00:00:00:00:0{i + 1}",
                )
                ip("link", "set", there, "netns", str(router.pid))
                ip("link", "set", there, "up", inside=router.pid)
                ip("addr", "add", f"10.0.{i}.1/24", "dev", there, inside=router.pid)
                ip("link", "set", f"eth{i}", "up")
                ip("addr", "add", f"10.0.{i}.11/24", "dev", f"eth{i}")
            ip("addr", "add", "2001:db8::1/64", "dev", "r0", "nodad", inside=router.pid)
            ip("addr", "add", "2001:db8::11/64", "dev", "eth0", "nodad")
            yield router.pid
        finally:
            router.stdin.close()
            router.wait(60)
            router.stdout.close()
