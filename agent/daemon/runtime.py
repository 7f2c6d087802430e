# SPDX-License-Identifier: Apache-2.0
"""The settings of the interpreter and of glibc's allocator for the daemon."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8

SWITCH_S: Final = 0.0005


def tune() -> None:
    """Set what the daemon needs: timers on time beside threads that build tables, and freed memory returned.

    The event loop waits for the interpreter's lock after each system call, up to the switch interval, while a thread
    computes. With Python's 5 ms that is 50 ms for a dozen calls; 0.5 ms cost the thread nothing that can be measured.
    """
    sys.setswitchinterval(SWITCH_S)
    _release_freed_memory()


def defer_collection() -> None:
    """Collect no garbage until `freeze_heap`: imports make next to none, and a tenth of their time is collections."""
    gc.disable()


def freeze_heap() -> None:
    """Collect garbage from now on, but not what there is now: the modules and the configuration stay.

    A full collection visits every object, which takes 60 ms with all that is imported, and the event loop waits. After
    a reload there is one at once, of what was exempt before too: the last agent is garbage, with its tables.
    """
    if gc.get_freeze_count():
        gc.unfreeze()
        gc.collect()
    gc.freeze()
    gc.enable()


def _release_freed_memory() -> None:
    """Make malloc return large arrays to the kernel when they are freed (mallopt(3)).

    glibc raises its own threshold with each large block that is freed, up to 32 MB, and then keeps the memory that a
    table was built in: 10 MB and more for the rest of the daemon's life. Another libc ignores this.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_ARENA_MAX, 2)
        libc.mallopt(_M_MMAP_THRESHOLD, 128 << 10)
        libc.mallopt(_M_TRIM_THRESHOLD, 128 << 10)
