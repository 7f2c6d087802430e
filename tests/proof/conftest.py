# SPDX-License-Identifier: Apache-2.0
"""The fixtures of the proofs: a bpffs and a network namespace of their own, with the program and sockets."""

import ctypes as ct
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.proof.stage import Sockets, Stage

CLONE_NEWNET = 0x40000000
MOUNTS = Path("/tmp")  # noqa: S108 - the name has our pid, and we mount what it names


@pytest.fixture(scope="session")
def proof_bpffs() -> Iterator[Path]:
    if os.geteuid():
        pytest.fail("BPF tests need root")
    for stale in MOUNTS.glob("anylb-proof-*"):  # of runs that were killed
        if not Path("/proc", stale.name.rsplit("-", 1)[1]).exists():
            subprocess.run(["umount", "--lazy", stale], check=False, capture_output=True)
            stale.rmdir()
    mount = MOUNTS / f"anylb-proof-{os.getpid()}"
    mount.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "bpf", "bpf", mount], check=True)
    yield mount
    subprocess.run(["umount", "--lazy", mount], check=True)
    mount.rmdir()


@pytest.fixture(scope="module")
def proof_netns() -> Iterator[None]:
    """Run this thread in a network namespace that ends with the module's sockets."""
    libc = ct.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    if libc.unshare(CLONE_NEWNET):
        raise OSError(ct.get_errno(), "unshare")
    try:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        yield
    finally:
        libc.setns(before, CLONE_NEWNET)
        os.close(before)


@pytest.fixture(scope="module")
def stage(proof_bpffs: Path, proof_netns: None, request: pytest.FixtureRequest) -> Iterator[Stage]:
    """The whole program or, by a parameter, one without IPv6."""
    folder = proof_bpffs / "stage"
    made = Stage(folder, **getattr(request, "param", {}))
    yield made
    made.close()
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def sockets(proof_netns: None) -> Iterator[Sockets]:
    with Sockets() as made:
        yield made
