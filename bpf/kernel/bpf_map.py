# SPDX-License-Identifier: Apache-2.0
"""Maps: making, opening, reading and writing them."""

import ctypes as ct
import errno
import os
from collections.abc import Sequence
from typing import Final

from bpf.errors import BpfError
from bpf.kernel.libbpf import check, library, read_info
from bpf.layout.map_spec import SESSION_MAPS, MapSpec, MapType

_SMALL: Final = MapSpec("inner", MapType.ARRAY, 4, 4, 1)


class _MapCreateOpts(ct.Structure):
    _fields_ = [
        ("sz", ct.c_size_t),
        ("btf_fd", ct.c_uint32),
        ("btf_key_type_id", ct.c_uint32),
        ("btf_value_type_id", ct.c_uint32),
        ("btf_vmlinux_value_type_id", ct.c_uint32),
        ("inner_map_fd", ct.c_uint32),
        ("map_flags", ct.c_uint32),
    ]


class _MapInfo(ct.Structure):
    """Head of struct bpf_map_info."""

    _fields_ = [
        ("type", ct.c_uint32),
        ("id", ct.c_uint32),
        ("key_size", ct.c_uint32),
        ("value_size", ct.c_uint32),
        ("max_entries", ct.c_uint32),
        ("map_flags", ct.c_uint32),
    ]


def create_map(spec: MapSpec) -> int:
    """Make a map and return its descriptor."""
    options = _MapCreateOpts(sz=ct.sizeof(_MapCreateOpts), map_flags=spec.flags)
    inner = create_map(spec.inner) if spec.inner else None  # a template: the kernel keeps only its shape
    try:
        options.inner_map_fd = inner or 0
        fd = library().bpf_map_create(
            int(spec.type), spec.name.encode(), spec.key_size, spec.value_size, spec.entries, ct.byref(options)
        )
    finally:
        if inner is not None:
            os.close(inner)
    if fd == -errno.ENOMEM:
        few = "lower nat.sessions or free memory" if spec.name in SESSION_MAPS else "free memory"
        size = f"{spec.entries * spec.value_size / 1e6:,.0f} MB"
        raise BpfError(f"cannot make the BPF map {spec.name}: there is no memory for its {size}; {few}", errno.ENOMEM)
    return check(fd, f"cannot make the BPF map {spec.name}")


def map_id(fd: int) -> int:
    """Return the kernel's id of an open map."""
    return int(read_info(fd, _MapInfo()).id)


def map_matches(fd: int, spec: MapSpec) -> bool:
    """Return whether an open map has the type and sizes of `spec`; the kernel does not show an inner map's."""
    info = read_info(fd, _MapInfo())
    return (info.type, info.key_size, info.value_size, info.max_entries, info.map_flags) == (
        spec.type,
        spec.key_size,
        spec.value_size,
        spec.entries,
        spec.flags,
    )


def update(fd: int, key: bytes, value: bytes) -> None:
    """Write one entry."""
    check(library().bpf_map_update_elem(fd, key, value, 0), "cannot write to a BPF map")


class _BatchOpts(ct.Structure):
    _fields_ = [("sz", ct.c_size_t), ("elem_flags", ct.c_uint64), ("flags", ct.c_uint64)]


def update_batch(fd: int, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
    """Write many entries with one system call (BPF_MAP_UPDATE_BATCH)."""
    count = ct.c_uint32(len(keys))
    options = _BatchOpts(sz=ct.sizeof(_BatchOpts))
    result = library().bpf_map_update_batch(fd, b"".join(keys), b"".join(values), ct.byref(count), ct.byref(options))
    check(result, f"cannot write to a BPF map (entry {count.value + 1} of {len(keys)})")


def lookup(fd: int, key: bytes, value_size: int) -> bytes | None:
    """Read one entry; None if there is none. `value_size` of a per-CPU map covers all possible CPUs."""
    value = ct.create_string_buffer(value_size)
    result = library().bpf_map_lookup_elem(fd, key, value)
    if result == -errno.ENOENT:
        return None
    check(result, "cannot read a BPF map")
    return value.raw


def delete(fd: int, key: bytes) -> None:
    """Remove one entry, if it is there."""
    result = library().bpf_map_delete_elem(fd, key)
    if result != -errno.ENOENT:
        check(result, "cannot delete from a BPF map")


def keys(fd: int, key_size: int) -> list[bytes]:
    """Return all keys of a hash map."""
    found: list[bytes] = []
    key = ct.create_string_buffer(key_size)
    while (result := library().bpf_map_get_next_key(fd, found[-1] if found else None, key)) == 0:
        found.append(key.raw)
    if result != -errno.ENOENT:
        check(result, "cannot list the keys of a BPF map")
    return found


def wait_for_running_programs() -> None:
    """Return when every program that runs now has ended, on all CPUs: a write into a map of maps waits for that."""
    inner = create_map(_SMALL)
    outer = create_map(MapSpec("outer", MapType.ARRAY_OF_MAPS, 4, 4, 1, inner=_SMALL))
    try:
        update(outer, bytes(4), inner.to_bytes(4, "little"))
    finally:
        os.close(outer)
        os.close(inner)


def open_map(number: int) -> int:
    """Open a map by the kernel's id (CAP_SYS_ADMIN)."""
    return check(library().bpf_map_get_fd_by_id(number), f"cannot open BPF map {number}")


def possible_cpus() -> int:
    """Return the number of CPUs that a per-CPU map has values for."""
    return check(library().libbpf_num_possible_cpus(), "cannot count the CPUs")
