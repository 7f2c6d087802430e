# SPDX-License-Identifier: Apache-2.0
"""The settings of glibc's allocator for the daemon."""

from __future__ import annotations

import contextlib
import ctypes
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8


def release_freed_memory() -> None:
    """Make malloc return large arrays to the kernel when they are freed (mallopt(3)).

    glibc raises its own threshold with each large block that is freed, up to 32 MB, and then keeps the memory that a
    table was built in: 10 MB and more for the rest of the daemon's life. Another libc ignores this.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_ARENA_MAX, 2)
        libc.mallopt(_M_MMAP_THRESHOLD, 128 << 10)
        libc.mallopt(_M_TRIM_THRESHOLD, 128 << 10)
