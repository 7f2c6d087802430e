# SPDX-License-Identifier: Apache-2.0
"""bpf(2) for this package: maps, pins, links and what the kernel says about them, by ctypes on libbpf.

libbpf comes with python3-bpfcc and does not load LLVM, which a daemon could not afford (~120 MB). Knows nothing
of anylb: callers pass sizes and bytes. File descriptors are plain ints that the caller closes.
"""

import ctypes as ct
import errno
import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from bpf.errors import BpfError
from bpf.layout.map_spec import MapSpec

_Struct = TypeVar("_Struct", bound=ct.Structure)

XDP_FLAGS_SKB_MODE: Final = 1 << 1
XDP_FLAGS_DRV_MODE: Final = 1 << 2
_BPF_XDP: Final = 37  # enum bpf_attach_type
_PROG_TYPES: Final = {"XDP": 6, "tc": 3}  # enum bpf_prog_type; tc: BPF_PROG_TYPE_SCHED_CLS
_XDP_HAS_FRAGS: Final = 1 << 5  # BPF_F_XDP_HAS_FRAGS: takes frames in several pieces (Linux 5.18)
_LOG_SIZE: Final = 1 << 20
_ATTACHED_MODE: Final = {1: "native", 2: "generic", 3: "offload", 4: "several"}  # XDP_ATTACHED_* of linux/if_link.h


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


class _ProgLoadOpts(ct.Structure):
    _fields_ = [
        ("sz", ct.c_size_t),
        ("attempts", ct.c_int),
        ("expected_attach_type", ct.c_uint32),
        ("prog_btf_fd", ct.c_uint32),
        ("prog_flags", ct.c_uint32),
        ("prog_ifindex_to_attach_btf_obj_fd", ct.c_uint32 * 5),
        ("fd_array", ct.c_void_p),
        ("func_info", ct.c_void_p),
        ("func_info_cnt", ct.c_uint32),
        ("func_info_rec_size", ct.c_uint32),
        ("line_info", ct.c_void_p),
        ("line_info_cnt", ct.c_uint32),
        ("line_info_rec_size", ct.c_uint32),
        ("log_level", ct.c_uint32),
        ("log_size", ct.c_uint32),
        ("log_buf", ct.c_void_p),
    ]


class _LinkCreateOpts(ct.Structure):
    _fields_ = [("sz", ct.c_size_t), ("flags", ct.c_uint32)]


class _XdpQueryOpts(ct.Structure):
    _fields_ = [
        ("sz", ct.c_size_t),
        ("prog_id", ct.c_uint32),
        ("drv_prog_id", ct.c_uint32),
        ("hw_prog_id", ct.c_uint32),
        ("skb_prog_id", ct.c_uint32),
        ("attach_mode", ct.c_uint8),
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


class _ProgInfo(ct.Structure):
    """Struct bpf_prog_info up to verified_insns (Linux 5.16); what lies between is skipped."""

    _fields_ = [
        ("type", ct.c_uint32),
        ("id", ct.c_uint32),
        ("tag_to_uid", ct.c_uint8 * 44),
        ("nr_map_ids", ct.c_uint32),
        ("map_ids", ct.c_uint64),
        ("name", ct.c_char * 16),
        ("ifindex_to_misses", ct.c_uint8 * 136),
        ("verified_insns", ct.c_uint32),
    ]


class _LinkInfo(ct.Structure):
    """Head of struct bpf_link_info, with the part of an XDP link."""

    _fields_ = [
        ("type", ct.c_uint32),
        ("id", ct.c_uint32),
        ("prog_id", ct.c_uint32),
        ("pad", ct.c_uint32),
        ("ifindex", ct.c_uint32),
        ("pad2", ct.c_uint32),
    ]


@dataclass(frozen=True)
class ProgInfo:
    """A loaded program. `verified_insns`: steps of the verifier (its limit is a million); 0 before Linux 5.16."""

    id: int
    name: str
    map_ids: frozenset[int]
    verified_insns: int


@dataclass(frozen=True)
class LinkInfo:
    """An XDP attachment. `ifindex` is 0 when its interface is gone."""

    prog_id: int
    ifindex: int


@dataclass(frozen=True)
class XdpState:
    """What is attached to an interface: `mode` is None when nothing is."""

    mode: str | None
    prog_id: int


@functools.cache
def library() -> ct.CDLL:
    """Load libbpf, once."""
    try:
        lib = ct.CDLL("libbpf.so.1", use_errno=True)
    except OSError as error:
        raise BpfError(f"libbpf.so.1 cannot be loaded ({error}): apt install python3-bpfcc") from None
    # All calls return a negative errno on failure (libbpf 1.0); ints are the default restype and argtypes.
    lib.bpf_map_update_elem.argtypes = [ct.c_int, ct.c_void_p, ct.c_void_p, ct.c_uint64]
    return lib


def _checked(result: int, doing: str) -> int:
    if result >= 0:
        return result
    message = f"{doing}: {os.strerror(-result)}"
    if -result == errno.EPERM:
        message += "; BPF needs root (or CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON and CAP_SYS_ADMIN)"
    raise BpfError(message, -result)


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
    return _checked(fd, f"cannot make the BPF map {spec.name}")


def map_id(fd: int) -> int:
    """Return the kernel's number of a map."""
    return int(_info(fd, _MapInfo()).id)


def map_matches(fd: int, spec: MapSpec) -> bool:
    """Tell whether an open map has the type and sizes of `spec`. (Of an inner map the kernel does not tell.)"""
    info = _info(fd, _MapInfo())
    return (info.type, info.key_size, info.value_size, info.max_entries, info.map_flags) == (
        spec.type,
        spec.key_size,
        spec.value_size,
        spec.entries,
        spec.flags,
    )


def update(fd: int, key: bytes, value: bytes) -> None:
    """Write one entry."""
    _checked(library().bpf_map_update_elem(fd, key, value, 0), "cannot write to a BPF map")


def lookup(fd: int, key: bytes, value_size: int) -> bytes | None:
    """Read one entry; None if there is none. `value_size` of a per-CPU map covers all possible CPUs."""
    value = ct.create_string_buffer(value_size)
    result = library().bpf_map_lookup_elem(fd, key, value)
    if result == -errno.ENOENT:
        return None
    _checked(result, "cannot read a BPF map")
    return value.raw


def delete(fd: int, key: bytes) -> None:
    """Remove one entry, if it is there."""
    result = library().bpf_map_delete_elem(fd, key)
    if result != -errno.ENOENT:
        _checked(result, "cannot delete from a BPF map")


def keys(fd: int, key_size: int) -> list[bytes]:
    """Return all keys of a hash map."""
    found: list[bytes] = []
    key = ct.create_string_buffer(key_size)
    while (result := library().bpf_map_get_next_key(fd, found[-1] if found else None, key)) == 0:
        found.append(key.raw)
    if result != -errno.ENOENT:
        _checked(result, "cannot walk a BPF map")
    return found


def map_fd_by_id(number: int) -> int:
    """Open a map by the kernel's number (CAP_SYS_ADMIN)."""
    return _checked(library().bpf_map_get_fd_by_id(number), f"cannot open BPF map {number}")


def possible_cpus() -> int:
    """Return for how many CPUs a per-CPU map holds values."""
    return _checked(library().libbpf_num_possible_cpus(), "cannot count the CPUs")


def pin(fd: int, path: Path) -> None:
    """Give an object a name in bpffs, which keeps it alive."""
    _checked(library().bpf_obj_pin(fd, os.fsencode(path)), f"cannot pin at {path}")


def open_pin(path: Path) -> int | None:
    """Open a pinned object; None if nothing is there."""
    fd = library().bpf_obj_get(os.fsencode(path))
    return None if fd == -errno.ENOENT else _checked(fd, f"cannot open the pin {path}")


def load_program(kind: str, name: str, instructions: bytes) -> int:
    """Load a program, "XDP" or "tc", and return its descriptor. BpfError has the end of what the verifier says."""
    flags = _XDP_HAS_FRAGS if kind == "XDP" else 0
    options = _ProgLoadOpts(sz=ct.sizeof(_ProgLoadOpts), attempts=5, prog_flags=flags)
    count = ct.c_size_t(len(instructions) // 8)
    arguments = (_PROG_TYPES[kind], name.encode(), b"GPL", instructions, count, ct.byref(options))
    fd = int(library().bpf_prog_load(*arguments))
    if fd == -errno.EPERM:
        return _checked(fd, f"cannot load the {kind} program")
    if fd < 0:
        log = ct.create_string_buffer(_LOG_SIZE)
        options.log_level, options.log_size, options.log_buf = 1, _LOG_SIZE, ct.addressof(log)
        library().bpf_prog_load(*arguments)
        lines = [line.strip() for line in log.value.decode(errors="replace").splitlines() if line.strip()]
        said = "; ".join([line for line in lines if not line.startswith("processed ")][-2:])
        raise BpfError(f"the kernel does not take the {kind} program: {said or os.strerror(-fd)}", -fd)
    return fd


def prog_info(fd: int) -> ProgInfo:
    """Return what the kernel knows of an open program."""
    ids = (ct.c_uint32 * 64)()
    info = _info(fd, _ProgInfo(nr_map_ids=len(ids), map_ids=ct.addressof(ids)))
    return ProgInfo(info.id, info.name.decode(), frozenset(ids[: info.nr_map_ids]), info.verified_insns)


def prog_name(number: int) -> str:
    """Return the name of a loaded program by the kernel's number, or "?" if it is gone or may not be asked."""
    fd = library().bpf_prog_get_fd_by_id(number)
    if fd < 0:
        return "?"
    try:
        return prog_info(fd).name
    finally:
        os.close(fd)


def xdp_state(ifindex: int) -> XdpState:
    """Ask the kernel what XDP program an interface of this network namespace has."""
    options = _XdpQueryOpts(sz=ct.sizeof(_XdpQueryOpts))
    _checked(library().bpf_xdp_query(ifindex, 0, ct.byref(options)), f"cannot ask for the XDP of interface {ifindex}")
    mode = _ATTACHED_MODE.get(options.attach_mode)
    number = options.prog_id or options.drv_prog_id or options.skb_prog_id or options.hw_prog_id
    return XdpState(mode, number)


def attach_xdp(prog_fd: int, ifindex: int, flags: int) -> int:
    """Attach by a BPF link and return its descriptor; the program stays as long as the link does."""
    options = _LinkCreateOpts(sz=ct.sizeof(_LinkCreateOpts), flags=flags)
    fd = library().bpf_link_create(prog_fd, ifindex, _BPF_XDP, ct.byref(options))
    return _checked(fd, f"cannot attach XDP to interface {ifindex}")


def link_info(fd: int) -> LinkInfo:
    """Return where an XDP link is and what runs on it."""
    info = _info(fd, _LinkInfo())
    return LinkInfo(info.prog_id, info.ifindex)


def replace_program(link_fd: int, prog_fd: int) -> None:
    """Put another program on a link; no packet sees neither."""
    _checked(library().bpf_link_update(link_fd, prog_fd, None), "cannot replace the attached XDP program")


def detach(link_fd: int) -> None:
    """Take a link's program off its interface, whoever else holds the link."""
    _checked(library().bpf_link_detach(link_fd), "cannot detach the XDP program")


def _info(fd: int, info: _Struct) -> _Struct:
    """BPF_OBJ_GET_INFO_BY_FD: fills as much of `info` as the kernel knows."""
    size = ct.c_uint32(ct.sizeof(info))
    result = library().bpf_obj_get_info_by_fd(fd, ct.byref(info), ct.byref(size))
    _checked(result, f"cannot ask about descriptor {fd}")
    return info
