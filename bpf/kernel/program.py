# SPDX-License-Identifier: Apache-2.0
"""Programs: loading them, and what the kernel knows of a loaded one."""

import ctypes as ct
import errno
import os
from dataclasses import dataclass
from typing import Final

from bpf.errors import BpfError
from bpf.kernel.libbpf import check, library, read_info

_PROG_TYPES: Final = {"XDP": 6, "tc": 3, "sk_reuseport": 21, "sk_lookup": 30}
"""Of enum bpf_prog_type; tc: BPF_PROG_TYPE_SCHED_CLS."""
_ATTACH_TYPES: Final = {"sk_reuseport": 40, "sk_lookup": 36}
"""Of enum bpf_attach_type. BPF_SK_REUSEPORT_SELECT_OR_MIGRATE: also for what waits in a listener that closes (Linux
5.14)."""
_XDP_HAS_FRAGS: Final = 1 << 5  # BPF_F_XDP_HAS_FRAGS: takes frames in several pieces (Linux 5.18)
_LOG_SIZE: Final = 1 << 20


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


class _ProgInfo(ct.Structure):
    """Struct bpf_prog_info up to verified_insns (Linux 5.16); the fields between are skipped."""

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


@dataclass(frozen=True)
class ProgramInfo:
    """A loaded program. `verified_insns`: steps of the verifier (its limit is a million); 0 before Linux 5.16."""

    id: int
    name: str
    map_ids: frozenset[int]
    verified_insns: int


def load_program(kind: str, name: str, instructions: bytes) -> int:
    """Load a program, "XDP", "tc", "sk_reuseport" or "sk_lookup", and return its descriptor.

    Raises BpfError; its message ends with the verifier's last lines.
    """
    flags = _XDP_HAS_FRAGS if kind == "XDP" else 0
    attach_type = _ATTACH_TYPES.get(kind, 0)
    options = _ProgLoadOpts(sz=ct.sizeof(_ProgLoadOpts), attempts=5, prog_flags=flags, expected_attach_type=attach_type)
    count = ct.c_size_t(len(instructions) // 8)
    arguments = (_PROG_TYPES[kind], name.encode(), b"GPL", instructions, count, ct.byref(options))
    fd = int(library().bpf_prog_load(*arguments))
    if fd == -errno.EPERM:
        return check(fd, f"cannot load the {kind} program")
    if fd < 0:
        log = ct.create_string_buffer(_LOG_SIZE)
        options.log_level, options.log_size, options.log_buf = 1, _LOG_SIZE, ct.addressof(log)
        library().bpf_prog_load(*arguments)
        lines = [line.strip() for line in log.value.decode(errors="replace").splitlines() if line.strip()]
        reason = "; ".join([line for line in lines if not line.startswith("processed ")][-2:])
        raise BpfError(f"the kernel refuses the {kind} program: {reason or os.strerror(-fd)}", -fd)
    return fd


def program_info(fd: int) -> ProgramInfo:
    """Return what the kernel knows of an open program."""
    ids = (ct.c_uint32 * 64)()
    info = read_info(fd, _ProgInfo(nr_map_ids=len(ids), map_ids=ct.addressof(ids)))
    return ProgramInfo(info.id, info.name.decode(), frozenset(ids[: info.nr_map_ids]), info.verified_insns)


def program_name_by_id(number: int) -> str:
    """Return a loaded program's name by the kernel's id; "?" if it is gone or may not be read."""
    fd = library().bpf_prog_get_fd_by_id(number)
    if fd < 0:
        return "?"
    try:
        return program_info(fd).name
    finally:
        os.close(fd)
