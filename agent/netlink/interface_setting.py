# SPDX-License-Identifier: Apache-2.0
"""The IPv4 settings of interfaces that VIPs need, /proc/sys/net/ipv4/conf: set, and watched. I/O only.

rtnetlink reports few of them, and no ARP setting. inotify reports each that is written through the same mount of /proc;
a container's own mount is another one.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, Self

from agent.errors import AgentError
from agent.netlink.setting_record import change

_CONF: Final = Path("/proc/sys/net/ipv4/conf")
_ARP: Final = {
    # No node may claim a VIP of lo on the segment: answer ARP only for addresses of the interface that was asked ...
    "arp_ignore": "1",
    # ... and never use the VIP as the sender of an ARP request.
    "arp_announce": "2",
}
_FILTER: Final = "rp_filter"
_STRICT, _LOOSE = "1", "2"
_IN_MODIFY: Final = 0x2


def set_for_vips(interfaces: Iterable[str], loosen: Iterable[str]) -> list[str]:
    """Set what the ARP of interfaces needs where it differs, and make the strict filters of those to `loosen` loose.

    Returns what was changed. Raises AgentError.
    """
    wanted = [(name, key, value) for name in ("all", *interfaces) for key, value in _ARP.items()]
    wanted += [(name, _FILTER, _LOOSE) for name in sorted(strict_filters(loosen))]
    changed = []
    for name, key, value in wanted:
        path = _CONF / name / key
        try:
            if path.read_text().strip() != value:
                change(path, value)
                changed.append(f"net.ipv4.conf.{name}.{key} = {value}")
        except OSError as error:
            raise AgentError(f"{path}: {error.strerror}; the agent needs to set it to {value}") from None
    return changed


def strict_filters(interfaces: Iterable[str]) -> frozenset[str]:
    """Return the interfaces whose reverse path filter is strict, which the kernel takes from the higher of two values:
    a packet is dropped there if its sender has no route by the same interface."""
    return frozenset(name for name in interfaces if max(_filter_of("all"), _filter_of(name)) == _STRICT)


def _filter_of(name: str) -> str:
    try:
        return (_CONF / name / _FILTER).read_text().strip()
    except OSError:  # the interface is disappearing right now
        return "0"


class SettingWatch:
    """Calls `on_change` from the event loop when somebody writes one of these settings of some interfaces."""

    def __init__(self, interfaces: Iterable[str], on_change: Callable[[], None]) -> None:
        """A kernel without inotify, or an interface that does not exist, is no error: there is no notice of it."""
        self._on_change = on_change
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        for name in ("all", *interfaces):
            for key in (*_ARP, _FILTER):
                self._libc.inotify_add_watch(self._descriptor, bytes(_CONF / name / key), _IN_MODIFY)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor >= 0:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)

    def listen(self) -> None:
        """Report changes from now on."""
        if self._descriptor >= 0:
            asyncio.get_running_loop().add_reader(self._descriptor, self._read)

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._descriptor, 1 << 16)
        self._on_change()
