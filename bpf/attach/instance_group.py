# SPDX-License-Identifier: Apache-2.0
"""The program that chooses among listeners, for one reuseport group: those that share an address and port.

The program is attached to the group through any of its listeners, and stays until the group's last one is closed; then
the next group with the address needs it again. Pins, one folder for each group:

    listeners, choices, ...        the maps (bpf/layout/instance.py)
    hot_standby_BUILD              the program
"""

import contextlib
import os
import shutil
import socket
from pathlib import Path
from typing import Final, Self

from bpf.attach.pin_dir import PinDir
from bpf.compiler.build import build_program
from bpf.compiler.source import InstanceOptions, build_name
from bpf.errors import BpfError
from bpf.kernel.pin import open_pin
from bpf.kernel.program import program_info
from bpf.maps.instance_maps import InstanceMaps

_SO_ATTACH_REUSEPORT_EBPF: Final = 52
_SO_DETACH_REUSEPORT_BPF: Final = 68


class InstanceGroup:
    """An open group. It goes on without this process."""

    def __init__(self, folder: Path, maps: InstanceMaps, prog_fd: int) -> None:
        self.maps = maps
        self._folder, self._prog_fd = folder, prog_fd

    @classmethod
    def open(cls, folder: Path, cache_dir: Path | None = None, udp: bool = False) -> Self:
        """Open the group that is pinned in a folder, or make it, of TCP or UDP. `cache_dir` has compiled programs.

        Nothing changes for connections before `attach`. Raises BpfError: no bpffs there, no rights, no BCC.
        """
        PinDir(folder).require_bpffs()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise BpfError(f"cannot make {folder}: {error.strerror}; BPF needs root", error.errno) from None
        maps = InstanceMaps.open(folder, udp)
        try:
            return cls(folder, maps, _open_program(folder, maps, InstanceOptions(udp), cache_dir))
        except BaseException:
            maps.close()
            raise

    def attach(self, listener: socket.socket) -> None:
        """Have the program choose for the group that this listener is in, in place of an older one of any owner.

        Raises OSError: with EINVAL the listener has no SO_REUSEPORT.
        """
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_EBPF, self._prog_fd)

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


def _open_program(folder: Path, maps: InstanceMaps, options: InstanceOptions, cache_dir: Path | None) -> int:
    path = folder / build_name(options)
    fd = open_pin(path)
    if fd is not None and program_info(fd).map_ids <= maps.map_ids():
        return fd
    if fd is not None:  # its maps were removed
        os.close(fd)
    for old in folder.glob(f"{options.prefix}_*"):
        old.unlink()
    build_program(folder, path, options, cache_dir=cache_dir)
    fd = open_pin(path)
    if fd is None:
        raise BpfError(f"{path}: the program that was just pinned here is gone")
    return fd
