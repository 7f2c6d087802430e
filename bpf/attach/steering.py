# SPDX-License-Identifier: Apache-2.0
"""The program that gives VIPs' connections to listeners elsewhere, attached to this network namespace. Pins:

steered, targets       the maps (bpf/layout/steering.py)
steer_BUILD            the program
link                   its attachment: it steers as long as this exists
"""

import contextlib
import os
import shutil
from pathlib import Path
from typing import Final, Self

from bpf.attach.pin_dir import PinDir
from bpf.attach.pinned_program import make_folder, open_program
from bpf.compiler.source import SteerOptions, build_name
from bpf.kernel.link import attach_sk_lookup, detach, netns_link_info, replace_program
from bpf.kernel.pin import open_pin, pin_object
from bpf.kernel.program import program_info
from bpf.maps.steering_maps import SteeringMaps

_NETNS: Final = Path("/proc/thread-self/ns/net")


class Steering:
    """An attached program and its maps, open. It goes on without this process."""

    def __init__(self, folder: Path, maps: SteeringMaps, program: int, link: int) -> None:
        """`program` and `link` are descriptors."""
        self.maps = maps
        self._fds = {folder / build_name(SteerOptions()): program, folder / "link": link}
        self._pinned = {**maps.pins(folder), **self._fds}

    @classmethod
    def open(cls, folder: Path, cache_dir: Path | None = None) -> Self:
        """Attach the program, or what an earlier process left, in place of an older one without losing a connection.

        Raises BpfError: no bpffs there, no rights, no BCC.
        """
        make_folder(folder)
        maps = SteeringMaps.open(folder)
        try:
            program = open_program(folder, maps.map_ids(), SteerOptions(), cache_dir)
            try:
                link = _attach(program, folder / "link")
            except BaseException:
                os.close(program)
                raise
            return cls(folder, maps, program, link)
        except BaseException:
            maps.close()
            raise

    def keep_pinned(self) -> bool:
        """Pin again what has lost its pin; return whether anything had. Without the link's the program would not steer
        after this process. Raises BpfError."""
        return PinDir.keep(self._pinned)

    def close(self) -> None:
        """Close the descriptors; the program still steers."""
        self.maps.close()
        while self._fds:
            os.close(self._fds.popitem()[1])


def _attach(program: int, pin: Path) -> int:
    """Have a program steer this network namespace; return the descriptor of its link."""
    link = open_pin(pin)
    if link is not None and netns_link_info(link).inode != _NETNS.stat().st_ino:  # of another network namespace
        pin.unlink()
        os.close(link)
        link = None
    if link is None:
        netns = os.open(_NETNS, os.O_RDONLY)
        try:
            link = attach_sk_lookup(program, netns)
        finally:
            os.close(netns)
        try:
            pin_object(link, pin)
        except BaseException:
            os.close(link)
            raise
    try:
        if netns_link_info(link).prog_id != program_info(program).id:
            replace_program(link, program)
    except BaseException:
        os.close(link)
        raise
    return link


def remove_steering(folder: Path) -> bool:
    """Detach the program that is pinned in a folder, and remove the pins; return whether there was any.

    Raises BpfError.
    """
    if not folder.is_dir():
        return False
    link = open_pin(folder / "link")
    if link is not None:
        try:
            detach(link)
        finally:
            os.close(link)
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)
    return True
