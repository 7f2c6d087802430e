# SPDX-License-Identifier: Apache-2.0
"""One open map: keys and values as bytes. The other modules of this folder define their meaning."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from bpf.errors import BpfError
from bpf.kernel import bpf_map
from bpf.kernel.pin import open_pin, pin_object
from bpf.layout.map_spec import MapSpec, MapType


def pack_index(number: int) -> bytes:
    """Encode an array's key, or any other 32-bit number of a map."""
    return number.to_bytes(4, "little")


class PinnedMap:
    """An open map. `fd` is its descriptor, valid until `close`; the pin lives on."""

    def __init__(self, fd: int, spec: MapSpec) -> None:
        self.fd = fd
        self.spec = spec
        cpus = bpf_map.possible_cpus() if spec.type is MapType.PERCPU_ARRAY else 1
        self._value_size = spec.value_size * cpus

    @classmethod
    def open(cls, folder: Path, spec: MapSpec) -> Self:
        """Open the map that is pinned in a folder under its name; make and pin it if it is missing.

        Raises BpfError if the pin has another shape: it is not ours, so it is not overwritten.
        """
        path = folder / spec.name
        fd = open_pin(path)
        if fd is None:
            fd = bpf_map.create_map(spec)
            try:
                pin_object(fd, path)
            except BaseException:
                os.close(fd)
                raise
        elif not bpf_map.map_matches(fd, spec):
            os.close(fd)
            raise BpfError(f"{path}: a BPF map of another shape is pinned here; remove it if nothing uses it")
        return cls(fd, spec)

    def close(self) -> None:
        """Close the descriptor."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def id(self) -> int:
        """Return the kernel's id of the map."""
        return bpf_map.map_id(self.fd)

    def read_keys(self) -> list[bytes]:
        """Return all keys of a hash map or a trie."""
        return bpf_map.keys(self.fd, self.spec.key_size)

    def lookup(self, key: bytes) -> bytes | None:
        """Read one entry, of a per-CPU map the values of all possible CPUs; None if there is none."""
        return bpf_map.lookup(self.fd, key, self._value_size)

    def update(self, key: bytes, value: bytes) -> None:
        """Write one entry."""
        bpf_map.update(self.fd, key, value)

    def update_batch(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        """Write many entries with one system call."""
        bpf_map.update_batch(self.fd, keys, values)

    def delete(self, key: bytes) -> None:
        """Remove one entry, if it is there."""
        bpf_map.delete(self.fd, key)

    def entry(self, index: int) -> bytes:
        """Read one entry of an array."""
        value = self.lookup(pack_index(index))
        assert value is not None, "an array has all its entries"
        return value

    def set_entry(self, index: int, value: bytes) -> None:
        """Write one entry of an array."""
        self.update(pack_index(index), value)

    def clear_entry(self, index: int) -> None:
        """Write zeros to one entry of an array."""
        self.set_entry(index, bytes(self._value_size))
