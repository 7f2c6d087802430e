# SPDX-License-Identifier: Apache-2.0
"""What the router's kernel has as next hops for the VIP, and since when.

Owns a netlink socket in the router's network namespace and a thread that reads it. The kernel's route table is the
truth that packets follow, whichever daemon wrote it; BIRD's and FRR's own words are not asked.
"""

import contextlib
import select
import socket
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any, Self

from pyroute2 import IPRoute
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

from topology.errors import LabError
from topology.lab.netns import inside_net

RTMGRP_IPV4_ROUTE = 0x40
RTNH_F_DEAD = 1
RT_TABLE_MAIN = 254
#: The table is looked at when there was no notice for so long.
LOOK_AGAIN_S = 0.2
START_S = 5.0

Hops = frozenset[str]


def concerns(route: Any, vip: str) -> bool:
    """True if a route is the VIP's host route in the main table."""
    attrs: Mapping[str, Any] = dict(route["attrs"])
    return route["dst_len"] == 32 and attrs.get("RTA_DST") == vip and attrs.get("RTA_TABLE") == RT_TABLE_MAIN


def hops_in(routes: Iterable[Any], vip: str) -> Hops:
    """Return the gateways of a VIP's host route in a route dump, those over a dead link left out."""
    hops: set[str] = set()
    for route in routes:
        if not concerns(route, vip):
            continue
        legs = dict(route["attrs"]).get("RTA_MULTIPATH") or [route]
        hops |= {dict(leg["attrs"]).get("RTA_GATEWAY", "") for leg in legs if not leg["flags"] & RTNH_F_DEAD}
    return frozenset(hops - {""})


class Timeline:
    """The next hops over time: each change with its moment (CLOCK_MONOTONIC seconds). Pure, and safe across threads."""

    def __init__(self) -> None:
        self._changes: list[tuple[float, Hops]] = []

    def saw(self, hops: Hops, now: float) -> None:
        """Note what was seen; the same again is no change."""
        if not self._changes or self._changes[-1][1] != hops:
            self._changes.append((now, hops))

    @property
    def now(self) -> Hops:
        """The newest."""
        return self._changes[-1][1] if self._changes else frozenset()

    def changes(self, since: float) -> list[Hops]:
        """What the next hops changed to after `since`, in order."""
        return [hops for at, hops in list(self._changes) if at >= since]

    def right_after_ms(self, expected: Hops, since: float) -> int | None:
        """Milliseconds from `since` until they became `expected` and stayed so; 0 if they always were; None if not."""
        changes = list(self._changes)
        if not changes or changes[-1][1] != expected:
            return None
        return max(0, round(1000 * (changes[-1][0] - since)))


class RouterWatch:
    """Follows the next hops of a VIP in the network namespace of process `pid` until `close`."""

    def __init__(self, pid: int, vip: str) -> None:
        self.timeline = Timeline()
        self._pid = pid
        self._vip = vip
        self._started = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="router-watch", daemon=True)
        self._thread.start()
        if not self._started.wait(START_S):
            raise LabError(f"cannot read the routes of the router (process {pid}); is it alive?")

    def close(self) -> None:
        """Stop following."""
        self._closing.set()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _follow(self) -> None:
        # pyroute2 0.9 has a socket per thread and makes it when the thread first uses it, so all happens in this one.
        with inside_net(self._pid):
            notices = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
            route = IPRoute(groups=0)
        with notices, route:
            notices.bind((0, RTMGRP_IPV4_ROUTE))
            while not self._closing.is_set():
                now = time.monotonic()
                # What no notice told, should the kernel ever have dropped one.
                dump = route.get_routes(family=socket.AF_INET)
                self.timeline.saw(hops_in(dump, self._vip), now)
                self._started.set()
                while select.select([notices], [], [], LOOK_AGAIN_S)[0] and not self._closing.is_set():
                    self._take(notices)

    def _take(self, notices: socket.socket) -> None:
        """Note each change that the kernel tells of; a loss that lasts 1 ms is one too."""
        with contextlib.suppress(OSError):  # BlockingIOError: nothing is left; ENOBUFS: the next dump has it
            while True:
                data = notices.recv(65536)
                now = time.monotonic()
                for message in MarshalRtnl().parse(data):
                    if concerns(message, self._vip):
                        gone = message["event"] == "RTM_DELROUTE"
                        self.timeline.saw(frozenset() if gone else hops_in([message], self._vip), now)
