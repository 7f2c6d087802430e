# SPDX-License-Identifier: Apache-2.0
"""A compiled program before it is loaded: its instructions, and which of our maps each of them uses."""

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from bpf.errors import BpfError
from bpf.kernel.bpf_map import create_map, update
from bpf.kernel.pin import open_pin
from bpf.kernel.program import load_program
from bpf.layout.map_spec import TAIL_CALLS, tail_calls

_LOAD_64: Final = 0x18
"""The opcode that loads a 64-bit value."""
_MAP_FD: Final = 1
"""The source register of such an instruction whose value is a map's descriptor."""


def map_fds(code: bytes) -> dict[int, int]:
    """Return the maps' descriptors in instructions, by their offset in bytes."""
    loads = (at for at in range(0, len(code), 8) if code[at] == _LOAD_64 and code[at + 1] >> 4 == _MAP_FD)
    return {at + 4: int.from_bytes(code[at + 4 : at + 8], "little") for at in loads}


@dataclass(frozen=True)
class Loaded:
    """Descriptors of a loaded program, and of the map of its tail calls (None: it has none)."""

    fd: int
    tail_calls: int | None = None

    def close(self) -> None:
        """Close both; what is pinned stays."""
        for fd in (self.fd, self.tail_calls):
            if fd is not None:
                os.close(fd)


@dataclass(frozen=True)
class Program:
    """The kernel loads `code` once each `maps[at]`'s descriptor is written at offset `at`.

    `kind` is "XDP", "tc", "sk_reuseport" or "sk_lookup".

    Its tail calls lead to `tails`, which it shares a map of its own with (TAIL_CALLS): never to another build's.
    """

    kind: str
    name: str
    code: bytes
    maps: Mapping[int, str]
    tails: tuple[Self, ...] = ()

    @classmethod
    def of(cls, kind: str, name: str, code: bytes, maps: Mapping[int, str], tails: tuple[Self, ...] = ()) -> Self:
        """Return the program of instructions that were made for this process, whose maps have names by descriptor."""
        blank, fds = bytearray(code), map_fds(code)
        for at in fds:
            blank[at : at + 4] = bytes(4)
        return cls(kind, name, bytes(blank), {at: maps[fd] for at, fd in fds.items()}, tails)

    def with_maps(self, fds: Mapping[str, int]) -> bytes:
        """Return the instructions for maps that are open under these descriptors."""
        code = bytearray(self.code)
        for at, name in self.maps.items():
            code[at : at + 4] = fds[name].to_bytes(4, "little")
        return bytes(code)

    def load(self, maps: Path) -> Loaded:
        """Load the program with the maps pinned in a folder. Raises BpfError."""
        with contextlib.ExitStack() as stack:
            fds: dict[str, int] = {}
            used = set(self.maps.values()).union(*(tail.maps.values() for tail in self.tails))
            for name in used - {TAIL_CALLS.name}:
                fd = open_pin(maps / name)
                if fd is None:
                    raise BpfError(f"{maps / name}: there is no such map")
                stack.callback(os.close, fd)
                fds[name] = fd
            return self.load_with(fds)

    def load_with(self, fds: Mapping[str, int]) -> Loaded:
        """Load the program with maps that are open under these descriptors, after what its tail calls lead to."""
        if not self.tails:
            return Loaded(load_program(self.kind, self.name, self.with_maps(fds)))
        calls = create_map(tail_calls(len(self.tails)))
        fds = {**fds, TAIL_CALLS.name: calls}
        try:
            for place, tail in enumerate(self.tails):
                loaded = tail.load_with(fds)
                try:
                    update(calls, place.to_bytes(4, "little"), loaded.fd.to_bytes(4, "little"))
                finally:
                    loaded.close()
            return Loaded(load_program(self.kind, self.name, self.with_maps(fds)), calls)
        except BaseException:
            os.close(calls)
            raise

    def to_json(self) -> dict[str, Any]:
        """Return the program as JSON values."""
        tails = [tail.to_json() for tail in self.tails]
        return {"kind": self.kind, "name": self.name, "code": self.code.hex(), "maps": self.maps, "tails": tails}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Return the program of JSON values. Raises ValueError, KeyError or TypeError."""
        maps = {int(at): name for at, name in data["maps"].items()}
        tails = tuple(cls.from_json(tail) for tail in data["tails"])
        return cls(data["kind"], data["name"], bytes.fromhex(data["code"]), maps, tails)
