# SPDX-License-Identifier: Apache-2.0
"""The listeners of one address and port: taken up into the program's map, and removed from it. I/O only.

A listener is copied from its process, and the copy is closed again before anything else happens: an open copy would
keep a dead server's port open. The kernel removes a closed listener from the map by itself.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Collection, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from agent.address import Address, endpoint
from agent.errors import AgentError
from agent.instances.choice import Share, cells
from agent.instances.processes import PROC, copy_socket, sockets
from agent.model import Listener, Port
from agent.netlink.listener import listeners
from agent.problem import Problem, ProblemLine
from bpf.attach.instance_group import InstanceGroup, detach
from bpf.errors import BpfError
from bpf.kernel.bpf_map import possible_cpus
from bpf.layout.instance import CELLS, SLOTS, Cells

NO_REUSEPORT = Problem(
    "process {pid} listens on {where} without SO_REUSEPORT, so no other can beside it",
    "set it in the server (nginx: `listen ... reuseport`) and start it again",
    "The kernel lets several processes share a port only with this option.",
)
NOT_ATTACHED = Problem(
    "the listener of process {pid} on {where}: {error}",
    "start the server again; if it stays, report it with `lbctl support`",
    "The kernel refused to attach the choice to its socket. It gets connections by the kernel's own choice.",
)
OTHER_PROGRAM = Problem(
    "a listener is in another program's map",
    "end the program that chooses for it",
    "Another BPF program (of kind sk_reuseport) chooses among these listeners.",
)
TOO_MANY = Problem(
    "{where} has more than {most} listeners",
    "use fewer",
    "Those beyond the limit get no new connections.",
)
NO_SLOT = Problem(
    "its listener has no slot: {error}",
    "see whether it has closed its listener; the agent tries again",
    "The kernel refused the listener. The other instances are not affected.",
)
TOO_MANY_FILES = Problem(
    "the listener of process {pid} cannot be taken: {error}",
    "raise LimitNOFILE= in the agent's unit",
    "The agent has as many open files as it may.",
)
NOT_COPIED = Problem(
    "the listener of process {pid} cannot be taken: {error}",
    "the agent needs CAP_SYS_PTRACE: install the drop-in instances.conf (docs/instances.md)",
    "The server does not hand its listener over itself, so the agent has to copy it (pidfd_getfd).",
)


class GroupKey(NamedTuple):
    """What the listeners of a group have in common. `ifindex`: the interface that they are bound to, or 0.

    `steered`: whether connections to other addresses or ports are given to them, which needs maps of another type.
    """

    port: Port
    address: Address
    ifindex: int
    steered: bool

    @classmethod
    def of(cls, listener: Listener, steered: bool) -> GroupKey:
        """Return the key of a listener's group."""
        return cls(listener.port, listener.address, listener.ifindex, steered)

    @property
    def folder(self) -> str:
        """The name of its pins' folder; bpffs has no dots in names."""
        where = f"{self.port.protocol}_{self.port.number}_{self.address.packed.hex()}_{self.ifindex}"
        return f"{where}_steered" if self.steered else where

    @classmethod
    def of_folder(cls, name: str) -> GroupKey:
        """Return the key of a pins' folder. Raises ValueError if it is none."""
        plain = name.removesuffix("_steered")
        protocol, number, address, ifindex = plain.split("_")
        return cls(Port(protocol, int(number)), ip_address(bytes.fromhex(address)), int(ifindex), name != plain)


class NotTaken(AgentError):
    """A listener that cannot be taken up: its text says why, and has the next step."""

    def __init__(self, line: ProblemLine) -> None:
        super().__init__(line)


class Group:
    """An open group, with the slot of each of its listeners by cookie."""

    def __init__(self, key: GroupKey, pins: Path, cache_dir: Path | None) -> None:
        """Open what an earlier agent left, or make it. Raises BpfError."""
        self.key = key
        self._kernel = InstanceGroup.open(pins / key.folder, cache_dir, key.port.protocol == "udp", key.steered)
        self.slots = self._slots_in_kernel()
        self._written: list[Cells] = self._kernel.maps.cells()
        self._shares: Sequence[Share] | None = None
        """The shares that were written last."""
        self._attached: set[int] = set()
        """The listeners that had the program attached by this agent: it may have a newer one than the last agent."""

    def _slots_in_kernel(self) -> dict[int, int]:
        return {cookie: slot for slot, cookie in self._kernel.maps.cookies().items()}

    def lacks(self, cookie: int) -> bool:
        """Return whether a listener must be taken up."""
        return cookie not in self.slots or cookie not in self._attached

    def forget_closed(self, cookies: Collection[int]) -> None:
        """Forget all but these listeners, which are open: the kernel has emptied the slots of the others."""
        self.slots = {cookie: slot for cookie, slot in self.slots.items() if cookie in cookies}
        self._attached.intersection_update(cookies)

    def take_up(self, listener: Listener, copy: socket.socket, pid: int) -> None:
        """Attach the program through a copy of a process's listener, and give it a slot: `choose` counts it then.

        One that connections are steered to may be the only one of its port, without a choice. Raises NotTaken, or
        BpfError.
        """
        where = endpoint(listener.address, listener.port.number)
        if not copy.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT):
            if self.key.steered:
                return
            raise NotTaken(NO_REUSEPORT.line(pid=pid, where=where))
        try:
            self._kernel.attach(copy)
            self._attached.add(listener.cookie)
            if listener.cookie not in self.slots:
                self._put(copy, listener.cookie)
        except OSError as error:
            raise NotTaken(NOT_ATTACHED.line(pid=pid, where=where, error=error.strerror)) from None

    def _put(self, copy: socket.socket, cookie: int) -> None:
        slot = self._free_slot()
        try:
            self._kernel.maps.put(slot, copy.fileno())
        except BpfError as error:
            self.slots = self._slots_in_kernel()
            if cookie in self.slots:  # an agent that has just ended put it there
                return
            if error.errno == errno.EBUSY:
                raise NotTaken(OTHER_PROGRAM.line()) from None
            raise NotTaken(NO_SLOT.line(error=error)) from None  # it was closed meanwhile, for example
        self.slots[cookie] = slot

    def _free_slot(self) -> int:
        """Return a slot that no cell names: its listener would get connections by a choice made for another."""
        used = {slot for cells in self._written for cell in cells for slot in cell} | set(self.slots.values())
        slot = next((one for one in range(SLOTS) if one not in used), None)
        if slot is None:
            where = endpoint(self.key.address, self.key.port.number)
            raise NotTaken(TOO_MANY.line(where=where, most=SLOTS))
        return slot

    def probe(self, port: int, slot: int | None) -> None:
        """Have a health check from a source port reach a slot; None: it is over. Raises BpfError."""
        self._kernel.maps.probe(port, slot)

    def remove(self, cookie: int) -> None:
        """Take a listener out that is no instance's any more; it stays open. Raises BpfError."""
        self._kernel.maps.remove(self.slots.pop(cookie))

    def choose(self, shares: Sequence[Share]) -> None:
        """Write in which order the slots of instances are tried, if it differs. Raises BpfError."""
        if shares == self._shares:
            return
        cpus = possible_cpus() if any(share.by_cpu for share in shares) else 1
        by_cpu: list[Cells] = [cells(shares, cpu) for cpu in range(cpus)]
        if by_cpu != self._written:
            self._kernel.maps.choose(by_cpu)
            self._written = by_cpu
        self._shares = shares

    def keep_pinned(self) -> bool:
        """Pin again what has lost its pin; return whether anything had. Raises BpfError."""
        return self._kernel.keep_pinned()

    def close(self) -> None:
        """Close the descriptors; the choice stays in force."""
        self._kernel.close()

    def release(self) -> None:
        """Leave the choice to the kernel again, and remove the pins. Raises BpfError."""
        self._kernel.maps.choose([[()] * CELLS])
        own = [one for one in listeners(self.key.port) if GroupKey.of(one, self.key.steered) == self.key]
        inodes = {one.inode: one.cookie for one in own}
        copy = _any_copy(inodes)
        if copy is not None:
            with copy:
                detach(copy)
        for cookie in list(self.slots):
            self.remove(cookie)
        self._kernel.unpin()


def copy_listener(listener: Listener, pid: int, fd: int) -> socket.socket | None:
    """Return a copy of a process's listener; None if it was closed meanwhile. Raises NotTaken.

    The copy must be closed at once: open, it keeps a dead server's port open.
    """
    try:
        return copy_socket(pid, fd, listener.cookie)
    except OSError as error:
        few = error.errno in (errno.EMFILE, errno.ENFILE)
        raise NotTaken(
            TOO_MANY_FILES.line(pid=pid, error=error.strerror)
            if few
            else NOT_COPIED.line(pid=pid, error=error.strerror)
        ) from None


def _any_copy(cookies: dict[int, int]) -> socket.socket | None:
    """Return a copy of one of these sockets, given by inode, from whichever process has it; None without the right."""
    for name in os.listdir(PROC) if cookies else ():
        if name.isdigit():
            try:
                for inode, fd in sockets(int(name), cookies.keys()).items():
                    if (copy := copy_socket(int(name), fd, cookies[inode])) is not None:
                        return copy
            except OSError:
                continue
    return None


def release_groups(pins: Path, keep: Collection[tuple[Port, bool]] = ()) -> bool:
    """Release every group that is pinned in a folder; return whether there was any.

    `keep`: the ports of those to keep, and whether they are steered.

    Raises BpfError.
    """
    released = False
    for folder in _group_folders(pins):
        key = GroupKey.of_folder(folder)
        if (key.port, key.steered) not in keep:
            group = Group(key, pins, None)
            try:
                group.release()
            finally:
                group.close()
            released = True
    with contextlib.suppress(OSError):  # there is none, or a group is kept
        pins.rmdir()
    return released


def _group_folders(pins: Path) -> Sequence[str]:
    return sorted(path.name for path in pins.iterdir()) if pins.is_dir() else ()
