# SPDX-License-Identifier: Apache-2.0
"""The kernel's events about links, routes and neighbors, as they happen. I/O only."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from pyroute2.netlink.rtnl import RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_ROUTE, RTMGRP_LINK, RTMGRP_NEIGH
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

from agent.address import Network
from agent.netlink.neighbor import NeighborEntry, neighbor_from
from agent.netlink.route import destination_of

_GROUPS = RTMGRP_LINK | RTMGRP_NEIGH | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE


@dataclass(frozen=True, slots=True)
class NetlinkEvent:
    """A neighbor was resolved, or routes to a destination changed. With neither, links or anything else may have."""

    neighbor: NeighborEntry | None = None
    destination: Network | None = None


class NetlinkMonitor:
    """A socket that receives the kernel's events, and calls `on_event` with each from the event loop."""

    def __init__(self, on_event: Callable[[NetlinkEvent], None]) -> None:
        self._on_event = on_event
        self._marshal = MarshalRtnl()
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    def listen(self) -> None:
        """Receive events from now on."""
        self._socket.bind((0, _GROUPS))
        asyncio.get_running_loop().add_reader(self._socket, self._read)

    def _read(self) -> None:
        try:
            while True:
                for message in self._marshal.parse(self._socket.recv(1 << 16)):
                    if event := _event(message):
                        self._on_event(event)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            self._on_event(NetlinkEvent())  # some were lost: everything must be looked up again


def _event(message: Any) -> NetlinkEvent | None:
    match message["event"]:
        case "RTM_NEWNEIGH":
            found = neighbor_from(message)
            return NetlinkEvent(neighbor=found) if found else None
        case "RTM_NEWROUTE" | "RTM_DELROUTE":
            destination = destination_of(message)
            return NetlinkEvent(destination=destination) if destination is not None else None
        case "RTM_NEWLINK" | "RTM_DELLINK":
            return NetlinkEvent()
        case _:
            return None
