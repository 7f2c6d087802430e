# SPDX-License-Identifier: Apache-2.0
"""Pins: names in bpffs, which keep an object alive."""

import errno
import os
from pathlib import Path

from bpf.kernel.libbpf import check, library


def pin_object(fd: int, path: Path) -> None:
    """Pin an open map, program or link at a path in bpffs."""
    check(library().bpf_obj_pin(fd, os.fsencode(path)), f"cannot pin at {path}")


def open_pin(path: Path) -> int | None:
    """Open a pinned object; None if there is none."""
    fd = library().bpf_obj_get(os.fsencode(path))
    return None if fd == -errno.ENOENT else check(fd, f"cannot open the pin {path}")
