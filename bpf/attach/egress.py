# SPDX-License-Identifier: Apache-2.0
"""The tc egress program on interfaces: one filter of ours on each, among the filters of others.

Owns the filters, and the clsact qdiscs that were added for them; the agent decides on interfaces and limits. A
filter's text contains the kernel's id of its program, so a restarted daemon recognizes its own filter and replaces an
older one at once.

Calls block and run an event loop of pyroute2's own: a daemon must call them from a thread. pyroute2 is imported where
it is used, because a start must not wait for it before it compiles.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bpf.attach.pin_dir import PinDir
from bpf.errors import BpfError
from bpf.kernel.program import program_info

if TYPE_CHECKING:
    from pyroute2 import IPRoute

_NAME: Final = "anylb egress"
_HANDLE: Final = 0x616C
"""The filter's handle among those of one preference: an arbitrary number ("al")."""
_EGRESS: Final = 0xFFFFFFF3
_INGRESS: Final = 0xFFFFFFF2
_ALL: Final = socket.htons(3)
"""ETH_P_ALL, as a filter's `info` has it."""


class EgressFilter:
    """The program, and the filters that run it. Without a program, `error` has the reason."""

    def __init__(self, pins: PinDir, prog_fd: int | None, error: BpfError | None = None) -> None:
        self.error = error
        self._pins = pins
        self._prog_fd = prog_fd
        self._name = f"{_NAME} {program_info(prog_fd).id}" if prog_fd is not None else ""
        self._cleaned = False
        """Filters of earlier processes on other interfaces are removed."""
        self._marks: frozenset[Path] = frozenset()
        """Of the clsact qdiscs that are ours, since `attach`."""

    def attach(self, interfaces: Iterable[str]) -> dict[str, str | None]:
        """Add the filter to each of these interfaces that lacks it; return the error, or None, by interface.

        Filters that an earlier process left on other interfaces are removed; those of this process stay.
        """
        from pyroute2 import IPRoute

        wanted = list(interfaces) if self._prog_fd is not None else []
        with IPRoute() as netlink:
            if not self._cleaned:
                _remove(netlink, self._pins, wanted)
                self._marks = frozenset(self._pins.clsact_marks())
                self._cleaned = True
            return {name: self._attach(netlink, name) for name in wanted}

    def keep_marks(self) -> bool:
        """Make the marks again that were removed; return whether any was."""
        lost = [mark for mark in self._marks if not mark.exists()]
        for mark in lost:
            mark.mkdir(mode=0o700, parents=True, exist_ok=True)
        return bool(lost)

    def close(self) -> None:
        """Close the program's descriptor; the filters still run it."""
        if self._prog_fd is not None:
            os.close(self._prog_fd)
            self._prog_fd = None

    def _attach(self, netlink: IPRoute, interface: str) -> str | None:
        from pyroute2.netlink.exceptions import NetlinkError

        doing = "read its filters"
        try:
            index = socket.if_nametoindex(interface)
            present = _filters(netlink, index, _EGRESS)
            if any(text == self._name for _, _, text in present):
                return None
            doing = "add a clsact qdisc"
            self._make_clsact(netlink, index)
            doing = "add a bpf filter"
            netlink.tc(
                "replace-filter", "bpf", index, _HANDLE, parent=_EGRESS, prio=_preference(present), protocol=3,
                fd=self._prog_fd, name=self._name, classid=1, direct_action=True,
            )  # fmt: skip
        except (NetlinkError, OSError) as error:
            reason = os.strerror(error.code) if isinstance(error, NetlinkError) else error.strerror or str(error)
            return f"{interface}: cannot {doing}: {reason}"
        return None

    def _make_clsact(self, netlink: IPRoute, index: int) -> None:
        from pyroute2.netlink.exceptions import NetlinkError

        try:
            netlink.tc("add", "clsact", index)
        except NetlinkError as error:
            if error.code != errno.EEXIST:
                raise
            if any(qdisc.get("kind") == "ingress" for qdisc in netlink.get_qdiscs(index)):
                # It has clsact's place: it would accept our filter and run it on incoming packets.
                raise OSError(errno.EEXIST, "an ingress qdisc is there") from None
            return
        mark = self._pins.clsact(index)
        mark.mkdir(exist_ok=True)
        self._marks |= {mark}


def remove_filters(pins: PinDir) -> bool:
    """Remove our filters from every interface of this network namespace, and the qdiscs that only they used.

    Return whether there were any filters. Raises BpfError without the rights to do it.
    """
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        with IPRoute() as netlink:
            return _remove(netlink, pins, ())
    except NetlinkError as error:
        raise BpfError(f"cannot remove the egress filters: {os.strerror(error.code)}; run it as root") from None


def _remove(netlink: IPRoute, pins: PinDir, keep: Iterable[str]) -> bool:
    """Remove our filters from all interfaces except those to keep; return whether there were any."""
    from pyroute2.netlink.exceptions import NetlinkError

    removed = False
    for index, name in socket.if_nameindex():
        if name in keep:
            continue
        for preference, handle, text in _filters(netlink, index, _EGRESS):
            if text.startswith(_NAME):
                netlink.tc("del-filter", "bpf", index, handle, parent=_EGRESS, prio=preference, protocol=3)
                removed = True
        mark = pins.clsact(index)
        if mark.exists():
            mark.rmdir()
            if not _filters(netlink, index, _EGRESS) and not _filters(netlink, index, _INGRESS):
                with contextlib.suppress(NetlinkError):  # it is already gone
                    netlink.tc("del", "clsact", index)
    return removed


def _filters(netlink: IPRoute, index: int, parent: int) -> list[tuple[int, int, str]]:
    """Return an interface's filters: preference, handle, and text, empty where ours cannot share the preference."""
    return list(_read(netlink.get_filters(index, parent=parent)))


def _read(messages: Iterable[Any]) -> Iterator[tuple[int, int, str]]:
    for message in messages:
        preference, protocol = message["info"] >> 16, message["info"] & 0xFFFF
        if message.get("kind") != "bpf" or protocol != _ALL:
            yield preference, message["handle"], ""
        elif message["handle"]:  # else the head of a preference that bpf filters share
            yield preference, message["handle"], message.get("options").get_attr("TCA_BPF_NAME") or "?"


def _preference(present: list[tuple[int, int, str]]) -> int:
    """Return the lowest free preference for our filter: a filter before it may end the walk."""
    for preference, _, text in present:
        if text.startswith(_NAME):
            return preference
    taken = {preference for preference, handle, text in present if not text or handle == _HANDLE}
    return next(preference for preference in range(1, 0xFFFF) if preference not in taken)
