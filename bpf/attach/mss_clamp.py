# SPDX-License-Identifier: Apache-2.0
"""The tc egress program on interfaces: a filter of ours on each, beside whatever others have put there.

Owns the filters, and the clsact qdiscs that were made for them. Which interfaces, and what limits lie in the map, is
the agent's business. A filter's text names the program by the kernel's number, so a restarted daemon knows its own,
and replaces an older one at once.

Calls are blocking and run an event loop of pyroute2's own: from a daemon's loop they belong into a thread. It is
imported where it is used: a start must not wait for it before it compiles.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bpf.errors import BpfError
from bpf.kernel.program import program_info

if TYPE_CHECKING:
    from pyroute2 import IPRoute

_NAME: Final = "anylb clamp"
_HANDLE: Final = 0x616C
"""Of the filter, among those of one preference; the number means nothing ("al")."""
_EGRESS: Final = 0xFFFFFFF3
_INGRESS: Final = 0xFFFFFFF2
_ALL: Final = socket.htons(3)
"""ETH_P_ALL, as it lies in a filter's `info`."""


class MssClampFilter:
    """The program, and the filters that run it; `put` lets packets meet it. Without a program, `error` says why."""

    def __init__(self, pin_dir: Path, prog_fd: int | None, error: BpfError | None = None) -> None:
        self.error = error
        self._pin_dir = pin_dir
        self._prog_fd = prog_fd
        self._name = f"{_NAME} {program_info(prog_fd).id}" if prog_fd is not None else ""
        self._swept = False

    def put(self, interfaces: Iterable[str]) -> dict[str, str | None]:
        """Have the filter on each of these interfaces: by interface what hinders it, None if nothing.

        Filters that an earlier process left on other interfaces are removed; those that this one put stay.
        """
        from pyroute2 import IPRoute

        wanted = list(interfaces) if self._prog_fd is not None else []
        with IPRoute() as netlink:
            if not self._swept:
                _remove(netlink, self._pin_dir, wanted)
                self._swept = True
            return {name: self._put(netlink, name) for name in wanted}

    def close(self) -> None:
        """Close the program's descriptor; packets go on being handled."""
        if self._prog_fd is not None:
            os.close(self._prog_fd)
            self._prog_fd = None

    def _put(self, netlink: IPRoute, interface: str) -> str | None:
        from pyroute2.netlink.exceptions import NetlinkError

        doing = "look at its filters"
        try:
            index = socket.if_nametoindex(interface)
            there = _filters(netlink, index, _EGRESS)
            if any(text == self._name for _, _, text in there):
                return None
            doing = "add a clsact qdisc"
            self._make_clsact(netlink, index)
            doing = "add a bpf filter"
            netlink.tc(
                "replace-filter", "bpf", index, _HANDLE, parent=_EGRESS, prio=_preference(there), protocol=3,
                fd=self._prog_fd, name=self._name, classid=1, direct_action=True,
            )  # fmt: skip
        except (NetlinkError, OSError) as error:
            said = os.strerror(error.code) if isinstance(error, NetlinkError) else error.strerror or str(error)
            return f"{interface}: cannot {doing}: {said}"
        return None

    def _make_clsact(self, netlink: IPRoute, index: int) -> None:
        from pyroute2.netlink.exceptions import NetlinkError

        try:
            netlink.tc("add", "clsact", index)
        except NetlinkError as error:
            if error.code != errno.EEXIST:
                raise
            if any(qdisc.get("kind") == "ingress" for qdisc in netlink.get_qdiscs(index)):
                # In clsact's place; it would take our filter, and run it on what comes in.
                raise OSError(errno.EEXIST, "an ingress qdisc is there") from None
            return
        _mark(self._pin_dir, index).mkdir(exist_ok=True)


def take_away(pin_dir: Path) -> bool:
    """Remove our filters from every interface of this network namespace, and the qdiscs that they alone needed.

    Whether there were any. Raises BpfError if the kernel does not let us.
    """
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        with IPRoute() as netlink:
            return _remove(netlink, pin_dir, ())
    except NetlinkError as error:
        raise BpfError(f"cannot remove the MSS clamp's filters: {os.strerror(error.code)}; run it as root") from None


def _remove(netlink: IPRoute, pin_dir: Path, keep: Iterable[str]) -> bool:
    """Remove our filters from all interfaces but those to keep; whether there were any."""
    from pyroute2.netlink.exceptions import NetlinkError

    removed = False
    for index, name in socket.if_nameindex():
        if name in keep:
            continue
        for preference, handle, text in _filters(netlink, index, _EGRESS):
            if text.startswith(_NAME):
                netlink.tc("del-filter", "bpf", index, handle, parent=_EGRESS, prio=preference, protocol=3)
                removed = True
        mark = _mark(pin_dir, index)
        if mark.exists():
            mark.rmdir()
            if not _filters(netlink, index, _EGRESS) and not _filters(netlink, index, _INGRESS):
                with contextlib.suppress(NetlinkError):  # it is gone already
                    netlink.tc("del", "clsact", index)
    return removed


def _mark(pin_dir: Path, index: int) -> Path:
    """There if the clsact qdisc of an interface was made for our filter. A folder: bpffs has no plain files."""
    return pin_dir / f"clsact_{index}"


def _filters(netlink: IPRoute, index: int, parent: int) -> list[tuple[int, int, str]]:
    """The filters of an interface: preference, handle and text. A preference that is no place for ours has no text."""
    return list(_read(netlink.get_filters(index, parent=parent)))


def _read(messages: Iterable[Any]) -> Iterator[tuple[int, int, str]]:
    for message in messages:
        preference, protocol = message["info"] >> 16, message["info"] & 0xFFFF
        if message.get("kind") != "bpf" or protocol != _ALL:
            yield preference, message["handle"], ""
        elif message["handle"]:  # else the head of a preference that bpf filters share
            yield preference, message["handle"], message.get("options").get_attr("TCA_BPF_NAME") or "?"


def _preference(there: list[tuple[int, int, str]]) -> int:
    """Where ours goes: as far to the front as there is room, since a filter before it may end the walk."""
    for preference, _, text in there:
        if text.startswith(_NAME):
            return preference
    taken = {preference for preference, handle, text in there if not text or handle == _HANDLE}
    return next(preference for preference in range(1, 0xFFFF) if preference not in taken)
