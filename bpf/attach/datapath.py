# SPDX-License-Identifier: Apache-2.0
"""The programs and maps of a node's interfaces: opened, attached, replaced, detached. pin_dir.py names their pins."""

import contextlib
import os
import shutil
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Self

from bpf.attach import egress, uplink
from bpf.attach.egress import EgressFilter
from bpf.attach.pin_dir import PinDir
from bpf.attach.session_move import has_all_sessions, resume_sessions, sessions_moved
from bpf.attach.uplink import Mode, Uplink
from bpf.compiler.build import build_programs, tail_calls_pin
from bpf.compiler.source import EgressOptions, LbOptions, Options
from bpf.errors import BpfError
from bpf.kernel.bpf_map import lookup, map_id, wait_for_running_programs
from bpf.kernel.link import detach, link_info
from bpf.kernel.pin import open_pin
from bpf.kernel.program import ProgramInfo, program_info
from bpf.layout.limits import ROWS_MAX, ROWS_MIN, UPLINKS
from bpf.layout.map_spec import NatShape
from bpf.layout.uplink import UplinkEntry
from bpf.maps.maps import Maps
from bpf.maps.pinned_map import pack_index

_ATTACHING: Final = threading.Lock()
"""Held while programs are attached, and while pins are found or made: what is copied or removed meanwhile is not to be
opened for the next agent."""
_NEXT: Final = Counter[Path]()
"""The pins of data paths that this process has opened and not attached yet: those of the next agent. The data path of
the present one may be attached later than that, and removes what is not its own."""


class DataPath:
    """The programs and maps of a node's interfaces: `open` makes them, `attach` lets packets in.

    They stay in the kernel after `close`, or when this process ends; `detach` removes them.
    """

    def __init__(
        self,
        pins: PinDir,
        maps: Maps,
        uplinks: Sequence[Uplink],
        egress_filter: EgressFilter,
        programs: Mapping[Path, int],
        moved: Mapping[int, UplinkEntry],
        following: Sequence[Path],
    ) -> None:
        """`programs` has their descriptors, and those of the maps of their tail calls, by pin; the uplinks and the
        egress filter own them. `following` are its pins in `_NEXT`."""
        self.maps = maps
        self.uplinks = tuple(uplinks)
        self.egress = egress_filter
        """Handles packets that leave. It is attached by itself, and an error of it stops nothing else."""
        self._pins = pins
        folder = pins.maps(maps.row_count, maps.nat_shape)
        self._own = {folder.name} | {path.name for path in programs}
        self._pinned = {**{folder / name: one.fd for name, one in maps.pinned.items()}, **programs}
        """What is pinned for as long as it is open, but for the attachments: descriptors by pin."""
        self._following = following
        self._moved = dict(moved)
        """The uplinks, by place, that are written when packets of the place's previous interface no longer come."""
        self._is_in_use = False
        """Whether it was attached."""

    @classmethod
    def open(
        cls,
        pin_dir: Path,
        interfaces: str | Sequence[str],
        mode: Mode = "auto",
        rows: int = 65_536,
        ipv6: bool = True,
        cache_dir: Path | None = None,
        nat: NatShape | None = None,
    ) -> Self:
        """Open the data path of one or more interfaces; make the programs and maps that are not pinned yet.

        Nothing changes for packets before `attach`: fill the maps first. `rows` (of each service) is a power of two.
        Without `ipv6` the program does not handle IPv6; it is smaller then. `cache_dir` is a folder for compiled
        programs. `nat`: there are services of mode nat. Raises BpfError: no such interface, another's XDP program on
        it, no bpffs at `pin_dir`, no rights, no BCC.
        """
        names = [interfaces] if isinstance(interfaces, str) else list(interfaces)
        _check_arguments(rows, names)
        entries = [uplink.read_entry(name) for name in names]
        with contextlib.ExitStack() as attaching:
            attaching.enter_context(_ATTACHING)
            pins = PinDir(pin_dir)
            pins.require_bpffs()
            for name, entry in zip(names, entries, strict=True):
                uplink.require_no_foreign_program(name, entry.ifindex, pins.links())
            nat6 = nat is not None and nat.ipv6
            builds = [LbOptions(rows, place, ipv6, nat=nat is not None, nat6=nat6) for place in range(len(names))]
            programs = [pins.program(build, nat) for build in builds]
            egress_pin = pins.egress()
            wanted: dict[Path, Options] = {**dict(zip(programs, builds, strict=True)), egress_pin: EgressOptions()}
            pinned = [*programs, *map(tail_calls_pin, programs)]
            following = [pins.maps(rows, nat), egress_pin, *pinned]
            with _kept(following), pins.new_maps(rows, nat, pinned) as folder, contextlib.ExitStack() as on_error:
                maps = Maps.open(folder, rows, nat)
                on_error.callback(maps.close)
                attaching.close()  # to compile takes long, and its pins are kept
                moved = _write_uplinks(maps, pins, entries)
                fds, errors = _open_programs(folder, wanted, maps, cache_dir)
                for fd in fds.values():
                    on_error.callback(os.close, fd)
                if faults := [errors[path] for path in programs if path in errors]:
                    raise faults[0]
                on_error.pop_all()
        tail_calls = {pin: tails for pin in map(tail_calls_pin, programs) if (tails := open_pin(pin)) is not None}
        uplinks = [
            Uplink(name, entry.ifindex, mode, fds[path], tail_calls.get(tail_calls_pin(path)), pins.link(place))
            for place, (name, entry, path) in enumerate(zip(names, entries, programs, strict=True))
        ]
        egress_filter = EgressFilter(pins, fds.get(egress_pin), errors.get(egress_pin))
        return cls(pins, maps, uplinks, egress_filter, fds | tail_calls, moved, following)

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
        """By interface, how its program is attached: "native" or "generic"; None if it is not."""
        return {one.interface: one.mode for one in self.uplinks}

    @property
    def mode(self) -> str | None:
        """How all are attached: "native", or "generic" if any is; None if not all are."""
        modes = set(self.modes.values())
        return None if None in modes else "generic" if "generic" in modes else modes.pop()

    @property
    def fallback_reason(self) -> str | None:
        """Why "auto" is generic mode now, with the next step; None if it is not."""
        return "; ".join(one.fallback_reason for one in self.uplinks if one.fallback_reason) or None

    def attached(self) -> bool:
        """Return whether the kernel runs these very programs on all interfaces."""
        return all(one.attached for one in self.uplinks)

    @property
    def has_sessions(self) -> bool:
        """Whether the maps have all sessions of this node: otherwise `resume` and `attach` bring them, and nothing is
        to change sessions here before."""
        return self._is_in_use or has_all_sessions(self._pins, self.maps)

    def keep_pinned(self) -> bool:
        """Pin again what has lost its pin; return whether anything had. All must outlive this process: without pins the
        kernel would detach the programs, and forget maps with their sessions. Raises BpfError."""
        attachments = {one.link_pin: one.link_fd for one in self.uplinks if one.link_fd >= 0}
        repinned = self._pins.keep(self._pinned | attachments)
        return self.egress.keep_marks() or repinned

    def resume(self) -> None:
        """Have the program make sessions again that an earlier process had it not make, while it copied some, unless
        `attach` is needed for that. For a thread: what two programs have may have to be merged first."""
        with _ATTACHING:
            resume_sessions(self._pins, self.maps)

    def attach(self) -> None:
        """Let packets in: attach the programs, or replace older ones of ours without losing a packet. The first time it
        may run in a thread: sessions are copied.

        Raises BpfError if the maps are not filled: a program without them passes every packet to the wrong kernel.
        """
        with _ATTACHING:
            self._attach()

    def _attach(self) -> None:
        if missing := self.maps.missing():
            raise BpfError(f"{self.interface}: cannot attach XDP: the maps lack {', '.join(missing)}")
        for one in self.uplinks:
            uplink.require_no_foreign_program(one.interface, one.ifindex, self._pins.links())
        self._is_next_no_more()
        pinned = self._pins.programs_and_maps()
        replaced = [path for path in pinned if path.name not in self._own and not _NEXT[path]]
        listed = {self._pins.link(place) for place in range(len(self.uplinks))}
        for path in self._pins.links():
            if path not in listed:
                uplink.detach_link(path)
        for one in self.uplinks:  # all first: interfaces may have changed places
            one.detach_stale_link()
        for place, entry in self._moved.items():
            self.maps.uplinks.write(place, entry)
        self._moved = {}
        with sessions_moved(self._pins, self.maps):
            for one in self.uplinks:
                one.attach()
            wait_for_running_programs()  # of packets that a replaced program handles; its tail calls are removed now
        self._is_in_use = True
        self._pins.remove(replaced)  # what the next process has pinned meanwhile stays

    def detach(self) -> None:
        """Detach the programs and remove all pins. The open maps stay readable until `close`."""
        egress.remove_filters(self._pins)
        for path in self._pins.links():
            uplink.detach_link(path)
        self._pins.remove(self._pins.programs_and_maps())
        self._pins.remove_if_empty()

    def close(self) -> None:
        """Close all descriptors; packets are still handled."""
        self._is_next_no_more()
        self.maps.close()
        self.egress.close()
        for one in self.uplinks:
            one.close()

    def _is_next_no_more(self) -> None:
        _NEXT.subtract(self._following)
        self._following = []


def detach_all(pin_dir: Path) -> bool:
    """Detach every program of ours that is pinned in a folder, on any interface; return whether there was anything.

    Packets then meet the kernel alone. Raises BpfError without the rights to do it.
    """
    pins = PinDir(pin_dir)
    filters = egress.remove_filters(pins)
    if not pin_dir.is_dir():
        return filters
    try:
        for path in pins.links():
            link = open_pin(path)
            if link is not None:
                try:
                    if link_info(link).ifindex:  # else the interface is gone, and its attachment with it
                        detach(link)
                finally:
                    os.close(link)
            path.unlink()
        shutil.rmtree(pin_dir)
    except OSError as error:
        raise BpfError(f"{pin_dir}: {error.strerror}; run it as root", error.errno) from None
    return True


@contextlib.contextmanager
def _kept(following: Sequence[Path]) -> Iterator[None]:
    """Have these pins among those of the next agent, unless the body raises."""
    _NEXT.update(following)
    try:
        yield
    except BaseException:
        _NEXT.subtract(following)
        raise


def _check_arguments(rows: int, names: Sequence[str]) -> None:
    if rows & (rows - 1) or not ROWS_MIN <= rows <= ROWS_MAX:
        raise BpfError(f"rows: {rows} is not a power of two in {ROWS_MIN}-{ROWS_MAX}")
    if not 0 < len(names) <= UPLINKS or len(set(names)) < len(names):
        raise BpfError(f"interfaces: {', '.join(names) or 'none'}: 1 to {UPLINKS} are wanted, each once")


def _write_uplinks(maps: Maps, pins: PinDir, entries: Sequence[UplinkEntry]) -> dict[int, UplinkEntry]:
    """Write the uplinks; return those, by place, where packets of another interface are still handled."""
    moved = {}
    for place, entry in enumerate(entries):
        if uplink.ifindex_of_link(pins.link(place)) in (None, entry.ifindex):
            maps.uplinks.write(place, entry)
        else:
            moved[place] = entry
    return moved


def _open_programs(
    folder: Path, wanted: Mapping[Path, Options], maps: Maps, cache_dir: Path | None
) -> tuple[dict[Path, int], dict[Path, BpfError]]:
    """Open the pinned programs of these builds, and build the missing ones; return descriptors and errors by path."""
    fds = {path: fd for path, options in wanted.items() if (fd := _open_pinned(path, options, maps)) is not None}
    missing = {path: options for path, options in wanted.items() if path not in fds}
    errors = build_programs(folder, missing, cache_dir=cache_dir) if missing else {}
    for path in missing.keys() - errors.keys():
        fd = open_pin(path)
        if fd is None:
            raise BpfError(f"{path}: the program that was just pinned here is gone")
        fds[path] = fd
    return fds, errors


def _open_pinned(path: Path, options: Options, maps: Maps) -> int | None:
    """Open a pinned program; None if there is none for these maps, with its tail calls."""
    fd = open_pin(path)
    if fd is None or program_info(fd).map_ids <= maps.map_ids() | _tail_calls(path, len(options.tails)):
        return fd
    os.close(fd)  # its maps were removed
    path.unlink()
    return None


def _tail_calls(path: Path, count: int) -> frozenset[int]:
    """Return the kernel's id of the map of a pinned program's tail calls; nothing if it is missing or not full."""
    fd = open_pin(tail_calls_pin(path))
    if fd is None:
        return frozenset()
    try:
        filled = all(lookup(fd, pack_index(place), 4) for place in range(count))
        return frozenset([map_id(fd)] if filled else [])
    finally:
        os.close(fd)
