# SPDX-License-Identifier: Apache-2.0
"""A network namespace for the thread that runs a test."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from ipaddress import IPv6Address
from typing import Final

from support.waiting import wait_for

from topology.lab.netns import CLONE_NEWNET, setns, unshare

_RTF_LOCAL: Final = 0x80000000
"""linux/ipv6_route.h"""


def ip(*words: str, inside: int | None = None) -> None:
    """Run ip(8) here or in the network namespace of a process."""
    enter = ["nsenter", "-t", str(inside), "-n"] if inside else []
    subprocess.run([*enter, "ip", *words], check=True, capture_output=True, text=True)


def add_address6(address: str, interface: str) -> None:
    """Add an IPv6 address here and wait until it is reached: the kernel adds its route later, also with `nodad`."""
    ip("address", "add", f"{address}/128", "dev", interface, "nodad")
    wait_for(lambda: _is_local(address), f"a route to {address}")


def _is_local(address: str) -> bool:
    """Not whether connect() finds a route: until the local one is there, it finds that to the prefix, which ends in an
    ICMPv6 error."""
    start = f"{int(IPv6Address(address)):032x} 80 "
    with open("/proc/thread-self/net/ipv6_route") as routes:
        return any(one.startswith(start) and int(one.split()[8], 16) & _RTF_LOCAL for one in routes)


@contextlib.contextmanager
def new_netns() -> Iterator[None]:
    """Run the calling thread in a network namespace that ends with the context, with all that was made in it."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    unshare(CLONE_NEWNET)
    try:
        ip("link", "set", "lo", "up")
        yield
    finally:
        setns(before, CLONE_NEWNET)
        os.close(before)
