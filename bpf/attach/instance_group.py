# SPDX-License-Identifier: Apache-2.0
"""The program that chooses among listeners, for one reuseport group: those that share an address and port.

The program is attached to the group through any of its listeners, and stays until the group's last one is closed; then
the next group with the address needs it again. Pins, one folder for each group:

    listeners, cpu_choices, ...    the maps (bpf/layout/instance.py)
    hot_standby_BUILD              the program
"""

import contextlib
import os
import shutil
import socket
from pathlib import Path
from typing import Final, Self

from bpf.attach.pin_dir import PinDir
from bpf.attach.pinned_program import make_folder, open_program
from bpf.compiler.source import InstanceOptions, build_name
from bpf.maps.instance_maps import InstanceMaps

_SO_ATTACH_REUSEPORT_EBPF: Final = 52
_SO_DETACH_REUSEPORT_BPF: Final = 68


class InstanceGroup:
    """An open group. It goes on without this process."""

    def __init__(self, folder: Path, maps: InstanceMaps, prog_fd: int, options: InstanceOptions) -> None:
        self.maps = maps
        self._folder, self._prog_fd = folder, prog_fd
        self._pinned = maps.pins(folder) | {folder / build_name(options): prog_fd}

    @classmethod
    def open(cls, folder: Path, cache_dir: Path | None = None, udp: bool = False, steered: bool = False) -> Self:
        """Open the group that is pinned in a folder, or make it, of TCP or UDP. `cache_dir` has compiled programs.

        `steered`: steer.c finds its listeners too.

        Nothing changes for connections before `attach`. Raises BpfError: no bpffs there, no rights, no BCC.
        """
        make_folder(folder)
        maps, options = InstanceMaps.open(folder, udp, steered), InstanceOptions(udp)
        try:
            return cls(folder, maps, open_program(folder, maps.map_ids(), options, cache_dir), options)
        except BaseException:
            maps.close()
            raise

    def attach(self, listener: socket.socket) -> None:
        """Have the program choose for the group that this listener is in, in place of an older one of any owner.

        Raises OSError: with EINVAL the listener has no SO_REUSEPORT.
        """
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_EBPF, self._prog_fd)

    def keep_pinned(self) -> bool:
        """Pin again what has lost its pin; return whether anything had. Without pins the next process would not find
        the choice that is in force. Raises BpfError."""
        return PinDir.keep(self._pinned)

    def close(self) -> None:
        """Close the descriptors; the program still chooses."""
        self.maps.close()
        os.close(self._prog_fd)

    def unpin(self) -> None:
        """Remove the pins: a group that the program is still attached to keeps it until its last listener is closed."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self._folder)


def detach(listener: socket.socket) -> None:
    """Leave the choice among the listener's group to the kernel. No program is no error."""
    with contextlib.suppress(FileNotFoundError):
        listener.setsockopt(socket.SOL_SOCKET, _SO_DETACH_REUSEPORT_BPF, 0)
