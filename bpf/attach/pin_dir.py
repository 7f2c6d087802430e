# SPDX-License-Identifier: Apache-2.0
"""The pin folder on bpffs: what each pin is named. N is the interface's place in the configured list.

    maps_LAYOUT/NAME            the maps, for one layout (rows, structs, counters); with NAT LAYOUT ends in _SESSIONS
    programN_BUILD              the program of uplink N, for one build (source and options); BUILD likewise
    programs_programN_BUILD     the map of its tail calls, with what they lead to
    linkN                       the attachment of uplink N: packets are handled as long as it exists
    egress_BUILD                the tc egress program; egress.py owns its filters
    clsact_IFINDEX              an interface's clsact qdisc was added for our filter

Names carry digests, so a restarted daemon finds under a name that it computes exactly what it would make. A new layout
or build is pinned next to the old one, which handles packets until the data path is attached. Layouts that differ in
the number of sessions alone share all maps but those of sessions.
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from bpf.compiler.source import EgressOptions, LbOptions, source_digest
from bpf.errors import BpfError
from bpf.kernel.pin import open_pin, pin_object
from bpf.layout import map_spec


class PinDir:
    """The pins of one node's data path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def maps(self, rows: int, nat: map_spec.NatShape | None = None) -> Path:
        """Return the folder of the maps for tables of that many rows, and of NAT."""
        return self.folder / f"maps_{map_spec.digest(rows, nat)}{_of_sessions(nat)}"

    def others_in_sessions(self, rows: int, nat: map_spec.NatShape) -> list[map_spec.NatShape]:
        """Return the layouts that are pinned here too and differ in the number of sessions alone."""
        found = self.folder.glob(f"maps_{map_spec.digest(rows, nat)}_*")
        numbers = sorted(int(path.name.rpartition("_")[2]) for path in found)
        return [replace(nat, sessions=number) for number in numbers if number != nat.sessions]

    def program(self, options: LbOptions, nat: map_spec.NatShape | None = None) -> Path:
        """Return the pin of an uplink's program. Its tail calls have the sessions, so their number is a part of it."""
        return self.folder / f"program{options.uplink}_{source_digest(options)}{_of_sessions(nat)}"

    def programs(self, nat: map_spec.NatShape) -> list[Path]:
        """Return the pins of uplinks' programs, of any build, for that number of sessions."""
        return sorted(self.folder.glob(f"program[0-9]_*{_of_sessions(nat)}"))

    def egress(self) -> Path:
        """Return the pin of the tc egress program."""
        return self.folder / f"egress_{source_digest(EgressOptions())}"

    def link(self, place: int) -> Path:
        """Return the pin of an uplink's attachment."""
        return self.folder / f"link{place}"

    def links(self) -> list[Path]:
        """Return the pins of all attachments."""
        return sorted(self.folder.glob("link[0-9]"))

    def clsact(self, ifindex: int) -> Path:
        """Return the mark that a clsact qdisc is ours: a folder, since bpffs has no plain files."""
        return self.folder / f"clsact_{ifindex}"

    def clsact_marks(self) -> list[Path]:
        """Return the marks that are there."""
        return list(self.folder.glob("clsact_*"))

    @contextlib.contextmanager
    def new_maps(self, rows: int, nat: map_spec.NatShape | None, programs: Iterable[Path]) -> Iterator[Path]:
        """Make the folder of the maps for the body. If it raises, remove the folder that was not there before, and the
        pins of `programs`, which have these maps: their memory may be gigabytes."""
        folder = self.maps(rows, nat)
        was_there = os.path.exists(folder)  # Path.exists raises where a part of the path is a file
        try:
            yield self.make_maps(rows, nat)
        except BaseException:
            if not was_there:
                for path in programs:
                    with contextlib.suppress(OSError):
                        path.unlink()
                shutil.rmtree(folder, ignore_errors=True)
            raise

    def make_maps(self, rows: int, nat: map_spec.NatShape | None = None) -> Path:
        """Make the folder of the maps, with those that another layout shares, and return it. Raises BpfError."""
        folder = self.maps(rows, nat)
        self.make_folder(folder)
        for other in self.others_in_sessions(rows, nat) if nat else ():
            self._share(self.maps(rows, other), folder)
        return folder

    @staticmethod
    def make_folder(folder: Path) -> None:
        """Make a folder of pins unless it is there. Raises BpfError."""
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise BpfError(f"cannot make {folder}: {error.strerror}; BPF needs root", error.errno) from None

    @staticmethod
    def keep(pins: Mapping[Path, int]) -> bool:
        """Pin again what is open and has lost its pin; return whether anything had. `pins`: descriptors by pin.

        Raises BpfError.
        """
        lost = {pin: fd for pin, fd in pins.items() if not os.path.exists(pin)}
        for pin, fd in lost.items():
            PinDir.make_folder(pin.parent)
            pin_object(fd, pin)
        return bool(lost)

    @staticmethod
    def _share(source: Path, folder: Path) -> None:
        """Pin the maps of one folder that are missing in another there too, but for those of sessions."""
        for path in source.iterdir():
            target = folder / path.name
            if path.name in map_spec.SESSION_MAPS or target.exists() or (fd := open_pin(path)) is None:
                continue
            try:
                pin_object(fd, target)
            finally:
                os.close(fd)

    def programs_and_maps(self) -> list[Path]:
        """Return the pins of programs, and the folders of maps."""
        return [path for path in self.folder.glob("*_*") if path.name.startswith(("maps_", "program", "egress_"))]

    @staticmethod
    def remove(some: Iterable[Path]) -> None:
        """Remove pins of programs and folders of maps."""
        for path in some:
            if path.name.startswith("maps_"):
                shutil.rmtree(path)
            else:
                path.unlink()

    def remove_if_empty(self) -> None:
        """Remove the folder, unless another's file is in it."""
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def require_bpffs(self) -> None:
        """Raise BpfError unless the folder is, or would be, on a BPF file system."""
        existing = next(path for path in (self.folder, *self.folder.parents) if path.exists())
        device = existing.stat().st_dev
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            fields, _, source = line.partition(" - ")
            if fields.split()[2] == f"{os.major(device)}:{os.minor(device)}":
                if source.split()[0] == "bpf":
                    return
                break
        message = f"{self.folder}: not on a BPF file system: mount -t bpf bpf /sys/fs/bpf"
        raise BpfError(message, errno.ENOTSUP)


def _of_sessions(nat: map_spec.NatShape | None) -> str:
    return f"_{nat.sessions}" if nat else ""
