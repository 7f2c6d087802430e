# SPDX-License-Identifier: Apache-2.0
"""Since when this node is known to hold each of its connections. Pure.

The kernel does not record when a connection began. But it gives each socket a number of its own, the cookie, and never
gives it again; so a connection is at least as old as the first dump that its cookie is in.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class Ages:
    """The sockets of the last dump, with the time of the first dump that had them: 12 bytes for each."""

    def __init__(self) -> None:
        self._cookies = np.empty(0, np.uint64)
        self._since = np.empty(0, np.uint32)

    def update(self, cookies: NDArray[np.uint64], now: int) -> NDArray[np.uint32]:
        """Return since when each socket is known (seconds, as `now`), and forget all others. `cookies` are sorted."""
        since = np.full(len(cookies), now, np.uint32)
        if len(self._cookies):
            at = np.searchsorted(self._cookies, cookies)
            np.minimum(at, len(self._cookies) - 1, out=at)
            known = self._cookies[at] == cookies
            since[known] = self._since[at[known]]
        self._cookies, self._since = cookies, since
        return since
