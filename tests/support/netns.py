# SPDX-License-Identifier: Apache-2.0
"""A network namespace for the thread that runs a test."""

import contextlib
import os
import subprocess
from collections.abc import Iterator

from topology.lab.netns import CLONE_NEWNET, setns, unshare


def ip(*words: str, inside: int | None = None) -> None:
    """Run ip(8) here or in the network namespace of a process."""
    enter = ["nsenter", "-t", str(inside), "-n"] if inside else []
    subprocess.run([*enter, "ip", *words], check=True, capture_output=True, text=True)


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
