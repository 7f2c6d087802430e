# SPDX-License-Identifier: Apache-2.0
"""The programs on a node's interfaces: compiled, pinned, attached, replaced, taken off.

Owns what lies in the pin folder on bpffs, N being the interface's number in the list that was given:

    maps_LAYOUT/NAME    the maps, for one layout (rows, structs, counters)
    programN_BUILD      the program of uplink N, for one build (source and options)
    linkN               the attachment of uplink N: packets are handled as long as it is there
    clamp_BUILD         the tc egress program; its filters are mss_clamp.py's
    clsact_IFINDEX      says that an interface's clsact qdisc was made for it

Names carry digests, so what a restarted daemon finds under the name it computes is what it would make. A new
layout or build is made beside the old one, which goes on handling packets until `attach` replaces it at once.
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Self

from bpf.attach import mss_clamp, uplink
from bpf.attach.mss_clamp import MssClampFilter
from bpf.attach.uplink import Mode, Uplink
from bpf.compiler.build import build_programs
from bpf.compiler.source import LbOptions, MssClampOptions, Options, source_digest
from bpf.errors import BpfError
from bpf.kernel.link import detach, link_info
from bpf.kernel.pin import open_pin
from bpf.kernel.program import ProgramInfo, program_info
from bpf.layout import map_spec
from bpf.layout.limits import ROWS_MAX, ROWS_MIN, UPLINKS
from bpf.layout.uplink import UplinkEntry
from bpf.maps.maps import Maps


class DataPath:
    """The programs and maps of a node's interfaces: `open` makes them, `attach` lets packets in.

    All of it lives on in the kernel after `close`, or without this process; `detach` takes it away.
    """

    def __init__(
        self,
        pin_dir: Path,
        maps: Maps,
        uplinks: Sequence[Uplink],
        lowering: MssClampFilter,
        programs: Iterable[Path],
        moved: Mapping[int, UplinkEntry],
    ) -> None:
        self.maps = maps
        self._moved = dict(moved)
        """What to write of interfaces in whose place another one's packets are still handled."""
        self.uplinks = tuple(uplinks)
        self.clamp = lowering
        """Lowers the MSS of SYN-ACKs. It is attached for itself, and what hinders it hinders nothing else."""
        self._pin_dir = pin_dir
        self._programs = {path.name for path in programs}

    @classmethod
    def open(
        cls,
        pin_dir: Path,
        interfaces: str | Sequence[str],
        mode: Mode = "auto",
        rows: int = 65_536,
        ipv6: bool = True,
        cache_dir: Path | None = None,
    ) -> Self:
        """Open the data path of an interface or several; compile the programs and make the maps unless they are pinned.

        Nothing changes for packets before `attach`: fill the tables first. `rows` (of each service) is a power of two.
        Without `ipv6` the program knows no IPv6 at all; it is smaller then. `cache_dir` is a folder for compiled programs.
        Raises BpfError: no such interface, another's XDP program on it, no bpffs at `pin_dir`, no rights, no BCC.
        """
        if rows & (rows - 1) or not ROWS_MIN <= rows <= ROWS_MAX:
            raise BpfError(f"rows: {rows} is not a power of two in {ROWS_MIN}-{ROWS_MAX}")
        names = [interfaces] if isinstance(interfaces, str) else list(interfaces)
        if not 0 < len(names) <= UPLINKS or len(set(names)) < len(names):
            raise BpfError(f"interfaces: {', '.join(names) or 'none'}: 1 to {UPLINKS} are wanted, each once")
        entries = [uplink.entry_of(name) for name in names]
        _require_bpffs(pin_dir)
        for name, entry in zip(names, entries, strict=True):
            uplink.refuse_foreign(name, entry.ifindex, _links(pin_dir))
        folder = pin_dir / f"maps_{map_spec.digest(rows)}"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise BpfError(f"cannot make {folder}: {error.strerror}; BPF needs root", error.errno) from None
        maps = Maps.open(folder, rows)
        choices = [LbOptions(rows, number, ipv6) for number in range(len(names))]
        programs = [pin_dir / f"program{one.uplink}_{source_digest(one)}" for one in choices]
        lowering = pin_dir / f"clamp_{source_digest(MssClampOptions())}"
        wanted: dict[Path, Options] = {**dict(zip(programs, choices, strict=True)), lowering: MssClampOptions()}
        fds: dict[Path, int] = {}
        try:
            moved = {}
            for number, entry in enumerate(entries):
                if uplink.interface_of(pin_dir / f"link{number}") in (None, entry.ifindex):
                    maps.uplinks.write(number, entry)
                else:
                    moved[number] = entry
            fds, errors = _programs(folder, wanted, maps, cache_dir)
            for path in programs:
                if path in errors:
                    raise errors[path]
        except BaseException:
            for fd in fds.values():
                os.close(fd)
            maps.close()
            raise
        opened = [
            Uplink(name, entry.ifindex, mode, fds[path], pin_dir / f"link{number}")
            for number, (name, entry, path) in enumerate(zip(names, entries, programs, strict=True))
        ]
        return cls(
            pin_dir, maps, opened, MssClampFilter(pin_dir, fds.get(lowering), errors.get(lowering)), wanted, moved
        )

    @property
    def interface(self) -> str:
        """The first interface."""
        return self.uplinks[0].interface

    @property
    def program(self) -> ProgramInfo:
        """The first interface's program."""
        return self.uplinks[0].program

    @property
    def modes(self) -> dict[str, str | None]:
        """How each interface's program is attached: "native", "generic", or None if it is not."""
        return {one.interface: one.mode for one in self.uplinks}

    @property
    def mode(self) -> str | None:
        """How all are attached: "native", or "generic" if any is; None if not all are."""
        modes = set(self.modes.values())
        return None if None in modes else "generic" if "generic" in modes else modes.pop()

    @property
    def fallback_reason(self) -> str | None:
        """Why "auto" attached in generic mode; None if it did not, or an earlier process attached."""
        return "; ".join(one.fallback_reason for one in self.uplinks if one.fallback_reason) or None

    def attached(self) -> bool:
        """Ask the kernel whether these very programs handle the interfaces' packets."""
        return None not in self.modes.values()

    def attach(self) -> None:
        """Let packets in: attach the programs, or replace older ones of ours without losing a packet.

        Raises BpfError if the tables are not filled: a program without them gives every packet to the wrong kernel.
        """
        if missing := self.maps.missing():
            raise BpfError(f"{self.interface}: not attaching XDP, tables are not filled: no {', no '.join(missing)}")
        for one in self.uplinks:
            uplink.refuse_foreign(one.interface, one.ifindex, _links(self._pin_dir))
        for path in _links(self._pin_dir):
            if path.name not in {f"link{number}" for number in range(len(self.uplinks))}:
                uplink.drop(path)  # of an interface that is no longer listed
        for one in self.uplinks:  # all first: interfaces may have changed places
            one.let_go()
        for number, entry in self._moved.items():
            self.maps.uplinks.write(number, entry)
        self._moved = {}
        for one in self.uplinks:
            one.attach()
        self._remove_pins(keep={f"maps_{map_spec.digest(self.maps.row_count)}"} | self._programs)

    def detach(self) -> None:
        """Take the programs off the interfaces and remove all pins. The open tables stay readable until `close`."""
        mss_clamp.take_away(self._pin_dir)
        for path in _links(self._pin_dir):
            uplink.drop(path)
        self._remove_pins(keep=set())
        with contextlib.suppress(OSError):  # not empty: something of another's
            self._pin_dir.rmdir()

    def close(self) -> None:
        """Close descriptors; packets go on being handled."""
        self.maps.close()
        self.clamp.close()
        for one in self.uplinks:
            one.close()

    def _remove_pins(self, keep: set[str]) -> None:
        """Remove programs and maps but those to keep; never a link."""
        for entry in self._pin_dir.glob("*_*"):
            if entry.name in keep:
                continue
            if entry.name.startswith("maps_"):
                shutil.rmtree(entry)
            elif entry.name.startswith(("program", "clamp_")):
                entry.unlink()


def take_away(pin_dir: Path) -> bool:
    """Detach whatever a data path of ours has left pinned in `pin_dir`, on any interface; whether there was anything.

    Packets then meet the kernel alone. Raises BpfError if the kernel does not let us.
    """
    filters = mss_clamp.take_away(pin_dir)
    if not pin_dir.is_dir():
        return filters
    try:
        for pin in _links(pin_dir):
            link = open_pin(pin)
            if link is not None:
                try:
                    if link_info(link).ifindex:  # else the interface is gone, and its attachment with it
                        detach(link)
                finally:
                    os.close(link)
            pin.unlink()
        shutil.rmtree(pin_dir)
    except OSError as error:
        raise BpfError(f"{pin_dir}: {error.strerror}; run it as root", error.errno) from None
    return True


def _links(pin_dir: Path) -> list[Path]:
    return sorted(pin_dir.glob("link[0-9]"))


def _programs(
    folder: Path, wanted: Mapping[Path, Options], maps: Maps, cache_dir: Path | None
) -> tuple[dict[Path, int], dict[Path, BpfError]]:
    """Open the pinned programs of these builds, and compile the missing ones; descriptors, and what went wrong."""
    fds = {path: fd for path in wanted if (fd := _pinned(path, maps)) is not None}
    missing = {path: options for path, options in wanted.items() if path not in fds}
    errors = build_programs(folder, missing, cache_dir=cache_dir) if missing else {}
    for path in missing.keys() - errors.keys():
        fd = open_pin(path)
        if fd is None:
            raise BpfError(f"{path}: the program that was just pinned here is gone")
        fds[path] = fd
    return fds, errors


def _pinned(path: Path, maps: Maps) -> int | None:
    """Open a pinned program; None if there is none for these maps."""
    fd = open_pin(path)
    if fd is None or program_info(fd).map_ids <= maps.map_ids():
        return fd
    os.close(fd)  # made for maps that were removed since
    path.unlink()
    return None


def _require_bpffs(folder: Path) -> None:
    """Raise unless the folder lies, or would lie, on a BPF file system."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    device = there.stat().st_dev
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, source = line.partition(" - ")
        if fields.split()[2] == f"{os.major(device)}:{os.minor(device)}":
            if source.split()[0] == "bpf":
                return
            break
    raise BpfError(f"{folder}: not on a BPF file system: mount -t bpf bpf /sys/fs/bpf", errno.ENOTSUP)
