# SPDX-License-Identifier: Apache-2.0
"""The kernel's events about links, addresses, routes, neighbors and settings, as they happen. I/O only."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntFlag
from typing import Final, Self

from agent.address import Network
from agent.netlink.message import (
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_DELNEIGH,
    RTM_DELNETCONF,
    RTM_DELROUTE,
    RTM_DELRULE,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWNEIGH,
    RTM_NEWNETCONF,
    RTM_NEWROUTE,
    RTM_NEWRULE,
    Message,
    messages,
)
from agent.netlink.neighbor import NeighborEntry, neighbor_from
from agent.netlink.route import destination_of

log = logging.getLogger("anylb")

PAUSE_S: Final = 0.02
"""The time between two reads: the kernel reports each state of each neighbor, for 1,000 of them 70 times a second."""
_READ: Final = 256
"""Datagrams in one read, so that a flood of events does not occupy the event loop."""
_OTHERS: Final = frozenset(
    (
        *(RTM_NEWLINK, RTM_DELLINK, RTM_NEWADDR, RTM_DELADDR),
        *(RTM_NEWRULE, RTM_DELRULE, RTM_NEWNETCONF, RTM_DELNETCONF),
    )
)
"""Messages that mean only that something has changed."""
_SO_RCVBUFFORCE: Final = 33
_BUFFER_BYTES: Final = 4 << 20
"""An event takes about 1 KB of it."""


class Group(IntFlag):
    """What events are about (RTNLGRP_* of linux/rtnetlink.h, as bits)."""

    LINKS = 1 << 0
    NEIGHBORS = 1 << 2
    ADDRESSES = 1 << 4 | 1 << 8
    ROUTES = 1 << 6 | 1 << 10
    RULES = 1 << 7 | 1 << 18
    SETTINGS = 1 << 23 | 1 << 24
    """Some of each interface: of IPv4 forwarding and rp_filter, but neither arp_ignore nor arp_announce."""


@dataclass(frozen=True, slots=True)
class NetlinkEvent:
    """A neighbor changed, or routes to a destination did. With neither, links or anything else may have."""

    neighbor: NeighborEntry | None = None
    destination: Network | None = None


class NetlinkMonitor:
    """A socket that receives the kernel's events, and calls `on_event` with each from the event loop."""

    def __init__(self, on_event: Callable[[NetlinkEvent], None], groups: Group) -> None:
        self._on_event, self._groups = on_event, groups
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        self._pause: asyncio.TimerHandle | None = None
        self._lost: OSError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pause is not None:
            self._pause.cancel()
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    def listen(self) -> None:
        """Receive events from now on."""
        self._socket.bind((0, self._groups))
        self._resume()

    def _resume(self) -> None:
        asyncio.get_running_loop().add_reader(self._socket, self._read)

    def _read(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._socket)
        self._pause = loop.call_later(PAUSE_S, self._resume)
        for _ in range(_READ):
            try:
                datagram = self._socket.recv(1 << 16)
            except BlockingIOError:
                self._report_loss()
                return
            except OSError as error:  # ENOBUFS: the buffer was full
                self._lost = error
                continue
            for message in messages(datagram):
                if event := _event(message):
                    self._on_event(event)

    def _report_loss(self) -> None:
        """Have everything looked up again if events were lost: once the buffer is empty, for until then more may be."""
        if self._lost is not None:
            log.warning("events of the kernel's network state: %s; looking everything up again", self._lost.strerror)
            self._lost = None
            self._on_event(NetlinkEvent())


def _event(message: Message) -> NetlinkEvent | None:
    match message.kind:
        case kind if kind in (RTM_NEWNEIGH, RTM_DELNEIGH):
            found = neighbor_from(message.body)
            if found and kind == RTM_DELNEIGH:
                found = replace(found, mac=None, maintained=False, idle=False)
            return NetlinkEvent(neighbor=found) if found else None
        case kind if kind in (RTM_NEWROUTE, RTM_DELROUTE):
            destination = destination_of(message.body)
            return NetlinkEvent(destination=destination) if destination is not None else None
        case kind if kind in _OTHERS:
            return NetlinkEvent()
        case _:
            return None
