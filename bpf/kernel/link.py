# SPDX-License-Identifier: Apache-2.0
"""Links: the attachment of an XDP program to an interface. The program stays as long as the link does."""

import ctypes as ct
from dataclasses import dataclass
from typing import Final

from bpf.kernel.libbpf import check, library, read_info

XDP_FLAGS_SKB_MODE: Final = 1 << 1
XDP_FLAGS_DRV_MODE: Final = 1 << 2
_BPF_XDP: Final = 37  # enum bpf_attach_type


class _LinkCreateOpts(ct.Structure):
    _fields_ = [("sz", ct.c_size_t), ("flags", ct.c_uint32)]


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
class LinkInfo:
    """An XDP attachment. `ifindex` is 0 when its interface is gone."""

    prog_id: int
    ifindex: int


def attach_xdp(prog_fd: int, ifindex: int, flags: int) -> int:
    """Attach a program to an interface and return the link's descriptor; `flags` are XDP_FLAGS_*."""
    options = _LinkCreateOpts(sz=ct.sizeof(_LinkCreateOpts), flags=flags)
    fd = library().bpf_link_create(prog_fd, ifindex, _BPF_XDP, ct.byref(options))
    return check(fd, f"cannot attach XDP to interface {ifindex}")


def link_info(fd: int) -> LinkInfo:
    """Return the program and the interface of an XDP link."""
    info = read_info(fd, _LinkInfo())
    return LinkInfo(info.prog_id, info.ifindex)


def replace_program(link_fd: int, prog_fd: int) -> None:
    """Replace a link's program; every packet meets the old or the new one."""
    check(library().bpf_link_update(link_fd, prog_fd, None), "cannot replace the attached XDP program")


def detach(link_fd: int) -> None:
    """Take a link's program off its interface, whoever else holds the link."""
    check(library().bpf_link_detach(link_fd), "cannot detach the XDP program")
