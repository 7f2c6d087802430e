# SPDX-License-Identifier: Apache-2.0
"""A BPF file system of a test run's own."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

MOUNTS = Path("/tmp")  # noqa: S108 - the name has our pid, and we mount what it names


@contextlib.contextmanager
def new_bpffs(name: str) -> Iterator[Path]:
    """Mount one for this process and unmount it; those of killed runs are removed."""
    if os.geteuid():
        pytest.fail("BPF tests need root")
    for stale in MOUNTS.glob(f"anylb-{name}-*"):
        if not Path("/proc", stale.name.rsplit("-", 1)[1]).exists():
            _remove(stale)
    mount = MOUNTS / f"anylb-{name}-{os.getpid()}"
    mount.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "bpf", "bpf", mount], check=True)
    try:
        yield mount
    finally:
        _remove(mount)


def _remove(mount: Path) -> None:
    if mount.is_mount():
        subprocess.run(["umount", "--lazy", mount], check=True)
    mount.rmdir()
