# SPDX-License-Identifier: Apache-2.0
"""Busy processes, which leave a test's daemons little of the machine."""

from __future__ import annotations

import subprocess
import sys


class Load:
    """Busy processes, `per_core` of them for each core."""

    def __init__(self, per_core: int, cores: int) -> None:
        argv = [sys.executable, "-S", "-c", "while True: pass"]
        self._processes = [subprocess.Popen(argv) for _ in range(per_core * cores)]

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
