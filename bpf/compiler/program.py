# SPDX-License-Identifier: Apache-2.0
"""A compiled program before it is loaded: its instructions, and which of our maps each of them means.

Owns that form and how it is kept on disk, so that a start after a reboot, or after `lbctl agent detach`, needs no
compiler: half a second of it, and 140 MB. compile.py makes programs.
"""

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from bpf.errors import BpfError
from bpf.kernel.pin import open_pin
from bpf.kernel.program import load_program

_LOAD_64: Final = 0x18
_MAP_FD: Final = 1
"""Its source register says that the value is a map's descriptor."""
_KEPT_MOST: Final = 16
"""Files: two builds on all uplinks."""


def map_fds(code: bytes) -> dict[int, int]:
    """Find the maps' descriptors in instructions: by the offset at which each stands."""
    loads = (at for at in range(0, len(code), 8) if code[at] == _LOAD_64 and code[at + 1] >> 4 == _MAP_FD)
    return {at + 4: int.from_bytes(code[at + 4 : at + 8], "little") for at in loads}


@dataclass(frozen=True)
class Program:
    """`kind` is "XDP" or "tc"; `code` is what the kernel loads once each `maps[at]`'s descriptor is written at `at`."""

    kind: str
    name: str
    code: bytes
    maps: Mapping[int, str]

    @classmethod
    def of(cls, kind: str, name: str, code: bytes, maps: Mapping[int, str]) -> Self:
        """Take the maps' descriptors, `maps` by descriptor, out of instructions that were made for this process."""
        blank, fds = bytearray(code), map_fds(code)
        for at in fds:
            blank[at : at + 4] = bytes(4)
        return cls(kind, name, bytes(blank), {at: maps[fd] for at, fd in fds.items()})

    def with_maps(self, fds: Mapping[str, int]) -> bytes:
        """Return the instructions for maps that are open under these descriptors."""
        code = bytearray(self.code)
        for at, name in self.maps.items():
            code[at : at + 4] = fds[name].to_bytes(4, "little")
        return bytes(code)

    def load(self, maps: Path) -> int:
        """Load it with the maps pinned in a folder; return its descriptor. Raises BpfError with what is wrong."""
        with contextlib.ExitStack() as stack:
            fds: dict[str, int] = {}
            for name in set(self.maps.values()):
                fd = open_pin(maps / name)
                if fd is None:
                    raise BpfError(f"{maps / name}: there is no such map")
                stack.callback(os.close, fd)
                fds[name] = fd
            return load_program(self.kind, self.name, self.with_maps(fds))

    def to_json(self) -> dict[str, Any]:
        """Write it down."""
        return {"kind": self.kind, "name": self.name, "code": self.code.hex(), "maps": self.maps}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Read it again. Raises ValueError, KeyError or TypeError."""
        maps = {int(at): name for at, name in data["maps"].items()}
        return cls(data["kind"], data["name"], bytes.fromhex(data["code"]), maps)


class ProgramCache:
    """A folder of programs, each under its name and for one kernel's release.

    Nothing but time can be lost with it: what is not this user's alone to write, or not whole, counts as not there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, name: str) -> Program | None:
        """The program of that name, if it was kept."""
        try:
            descriptor = os.open(self._path(name), os.O_RDONLY | os.O_NOFOLLOW)
            with open(descriptor, encoding="ascii") as file:
                if not _ours(self._folder.stat()) or not _ours(os.fstat(descriptor)):
                    return None
                checksum, text = file.read().split("\n", 1)
            if hashlib.sha256(text.encode()).hexdigest() != checksum:
                return None
            program = Program.from_json(json.loads(text))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return program if program.name == name else None

    def put(self, program: Program) -> None:
        """Keep a program; the oldest ones make room."""
        with contextlib.suppress(OSError):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path, text = self._path(program.name), json.dumps(program.to_json())
            aside = path.with_suffix(f".{os.getpid()}")
            with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "w") as file:
                file.write(f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}")
            aside.rename(path)
            kept = sorted(self._folder.iterdir(), key=lambda path: path.stat().st_mtime)
            for old in kept[:-_KEPT_MOST]:
                old.unlink()

    def remove(self, name: str) -> None:
        """Keep it no longer."""
        with contextlib.suppress(OSError):
            self._path(name).unlink()

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}_{os.uname().release}.json"


def _ours(file: os.stat_result) -> bool:
    return file.st_uid == os.geteuid() and not file.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
