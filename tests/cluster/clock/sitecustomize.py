# SPDX-License-Identifier: Apache-2.0
"""An agent whose wall clock is off by the seconds in a file: CLOCK_REALTIME has no namespace.

Python imports it at its start, from PYTHONPATH (tests/cluster/node_agent/test_night.py).
"""

import time
from pathlib import Path

OFFSET = Path("/run/clock-offset")
_kernels = time.time


def shifted() -> float:
    """Return the time by the node's own clock."""
    return _kernels() + (float(OFFSET.read_text()) if OFFSET.exists() else 0.0)


time.time = shifted
