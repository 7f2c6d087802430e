# SPDX-License-Identifier: Apache-2.0
"""The kernel's limits on the number of neighbors, raised to what a large cluster needs. I/O only.

Beyond gc_thresh2 neighbors, 512 by default, a new one makes the kernel remove those that it has not updated for 5 s;
beyond gc_thresh3, 1,024, it accepts none. A node that follows 1,000 others would have to resolve half of them again, by
broadcasts, whenever it meets one more. Only the initial network namespace has these settings; they hold for all.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from agent.errors import AgentError
from agent.netlink.setting_record import change

_OF_COUNT: Final = {"gc_thresh1": 1, "gc_thresh2": 4, "gc_thresh3": 8}
"""Each limit as a multiple of the first, as in the kernel's defaults. Below the first nothing is ever removed."""


def raise_neighbor_limits(version: int, count: int, root: Path = Path("/proc/sys")) -> list[str]:
    """Make room for that many neighbors of an IP version; return the settings that it changed. AgentError: it cannot.

    Nothing is lowered. The limits grow in powers of two.
    """
    changed, room = [], 1 << max(0, count - 1).bit_length()
    for name, times in reversed(_OF_COUNT.items()):  # the kernel expects them to be in order at all times
        key = f"net.ipv{version}.neigh.default.{name}"
        path = root / key.replace(".", "/")
        try:
            if int(path.read_text()) < room * times:
                change(path, str(room * times))
                changed.append(f"{key} = {room * times}")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise AgentError(f"{key}: {error.strerror}; set it to {room * times}, for {count} neighbors") from None
    return changed
