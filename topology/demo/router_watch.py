# SPDX-License-Identifier: Apache-2.0
"""Follows the next hops of the VIP in the router's kernel over time.

Owns a netlink socket in the router's network namespace and a thread that reads it. Packets follow the kernel's route
table, whichever daemon wrote it; the tables of BIRD and FRR are not read.
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
#: The table is read again after so long without a notification.
REREAD_S = 0.2
START_S = 60.0

NextHops = frozenset[str]


def is_vip_route(route: Any, vip: str) -> bool:
    """Return whether a route is the VIP's host route in the main table."""
    attrs: Mapping[str, Any] = dict(route["attrs"])
    return route["dst_len"] == 32 and attrs.get("RTA_DST") == vip and attrs.get("RTA_TABLE") == RT_TABLE_MAIN


def next_hops_in(routes: Iterable[Any], vip: str) -> NextHops:
    """Return the gateways of a VIP's host route in a route dump, without those over a dead link."""
    gateways: set[str] = set()
    for route in routes:
        if not is_vip_route(route, vip):
            continue
        legs = dict(route["attrs"]).get("RTA_MULTIPATH") or [route]
        gateways |= {dict(leg["attrs"]).get("RTA_GATEWAY", "") for leg in legs if not leg["flags"] & RTNH_F_DEAD}
    return frozenset(gateways - {""})


class NextHopHistory:
    """The next hops over time: each change with its time (CLOCK_MONOTONIC seconds). Pure, thread-safe."""

    def __init__(self) -> None:
        self._changes: list[tuple[float, NextHops]] = []

    def add(self, next_hops: NextHops, now: float) -> None:
        """Record an observation; one equal to the last is no change."""
        if not self._changes or self._changes[-1][1] != next_hops:
            self._changes.append((now, next_hops))

    @property
    def current(self) -> NextHops:
        """The newest observation; empty before the first."""
        return self._changes[-1][1] if self._changes else frozenset()

    def changes(self, since: float) -> list[NextHops]:
        """Return each value that the next hops changed to after `since`, in order."""
        return [next_hops for at, next_hops in list(self._changes) if at >= since]

    def converged_after_ms(self, expected: NextHops, since: float) -> int | None:
        """Return the milliseconds from `since` until they became `expected` and stayed so.

        0 if they were `expected` all the time, None if they are not now.
        """
        changes = list(self._changes)
        if not changes or changes[-1][1] != expected:
            return None
        return max(0, round(1000 * (changes[-1][0] - since)))


class RouterWatch:
    """Follows the next hops of a VIP in the network namespace of process `pid` until `close`."""

    def __init__(self, pid: int, vip: str) -> None:
        self.history = NextHopHistory()
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
        # pyroute2 0.9 has a socket per thread and makes it when the thread first uses it, so this thread opens it.
        with inside_net(self._pid):
            notifications = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
            route = IPRoute(groups=0)
        with notifications, route:
            notifications.bind((0, RTMGRP_IPV4_ROUTE))
            while not self._closing.is_set():
                now = time.monotonic()
                # A dump finds what a dropped notification would have reported.
                dump = route.get_routes(family=socket.AF_INET)
                self.history.add(next_hops_in(dump, self._vip), now)
                self._started.set()
                while select.select([notifications], [], [], REREAD_S)[0] and not self._closing.is_set():
                    self._read_notifications(notifications)

    def _read_notifications(self, notifications: socket.socket) -> None:
        """Record each change that the kernel reports, even a loss that lasts 1 ms."""
        with contextlib.suppress(OSError):  # BlockingIOError: all is read; ENOBUFS: the next dump has it
            while True:
                data = notifications.recv(65536)
                now = time.monotonic()
                for message in MarshalRtnl().parse(data):
                    if is_vip_route(message, self._vip):
                        gone = message["event"] == "RTM_DELROUTE"
                        self.history.add(frozenset() if gone else next_hops_in([message], self._vip), now)
