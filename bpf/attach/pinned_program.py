# SPDX-License-Identifier: Apache-2.0
"""A program of one folder of pins, beside its maps: opened if an earlier process left it, else built."""

import os
from pathlib import Path

from bpf.attach.pin_dir import PinDir
from bpf.compiler.build import build_program
from bpf.compiler.source import InstanceOptions, SteerOptions, build_name
from bpf.errors import BpfError
from bpf.kernel.pin import open_pin
from bpf.kernel.program import program_info


def make_folder(folder: Path) -> None:
    """Make a folder of pins unless it is there. Raises BpfError: no bpffs there, no rights."""
    PinDir(folder).require_bpffs()
    PinDir.make_folder(folder)


def open_program(
    folder: Path, map_ids: frozenset[int], options: InstanceOptions | SteerOptions, cache_dir: Path | None
) -> int:
    """Return the descriptor of the program of these maps, `map_ids`. Raises BpfError: no rights, no BCC.

    Other builds of it are no longer pinned then.
    """
    path = folder / build_name(options)
    fd = open_pin(path)
    if fd is not None and program_info(fd).map_ids <= map_ids:
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
