# SPDX-License-Identifier: Apache-2.0
"""Links: the attachment of an XDP program to an interface, or of an sk_lookup program to a network namespace.

The program stays as long as the link does.
"""

import ctypes as ct
from dataclasses import dataclass
from typing import Final

from bpf.kernel.libbpf import check, library, read_info

XDP_FLAGS_SKB_MODE: Final = 1 << 1
XDP_FLAGS_DRV_MODE: Final = 1 << 2
_BPF_XDP: Final = 37  # enum bpf_attach_type
_BPF_SK_LOOKUP: Final = 36


class _LinkCreateOpts(ct.Structure):
    _fields_ = [("sz", ct.c_size_t), ("flags", ct.c_uint32)]


class _LinkInfo(ct.Structure):
    """Head of struct bpf_link_info, with the part of a link: an XDP link's interface, an sk_lookup link's namespace."""

    _fields_ = [
        ("type", ct.c_uint32),
        ("id", ct.c_uint32),
        ("prog_id", ct.c_uint32),
        ("pad", ct.c_uint32),
        ("where", ct.c_uint32),
        ("pad2", ct.c_uint32),
    ]


@dataclass(frozen=True)
class LinkInfo:
    """An XDP attachment. `ifindex` is 0 when its interface is gone."""

    prog_id: int
    ifindex: int


@dataclass(frozen=True)
class NetnsLinkInfo:
    """An sk_lookup attachment. `inode`: the network namespace's, 0 when that is gone."""

    prog_id: int
    inode: int


def attach_xdp(prog_fd: int, ifindex: int, flags: int) -> int:
    """Attach a program to an interface and return the link's descriptor; `flags` are XDP_FLAGS_*."""
    options = _LinkCreateOpts(sz=ct.sizeof(_LinkCreateOpts), flags=flags)
    fd = library().bpf_link_create(prog_fd, ifindex, _BPF_XDP, ct.byref(options))
    return check(fd, f"cannot attach XDP to interface {ifindex}")


def attach_sk_lookup(prog_fd: int, netns_fd: int) -> int:
    """Attach a program to a network namespace and return the link's descriptor."""
    options = _LinkCreateOpts(sz=ct.sizeof(_LinkCreateOpts))
    fd = library().bpf_link_create(prog_fd, netns_fd, _BPF_SK_LOOKUP, ct.byref(options))
    return check(fd, "cannot attach the sk_lookup program to the network namespace")


def link_info(fd: int) -> LinkInfo:
    """Return the program and the interface of an XDP link."""
    info = read_info(fd, _LinkInfo())
    return LinkInfo(info.prog_id, info.where)


def netns_link_info(fd: int) -> NetnsLinkInfo:
    """Return the program and the network namespace of an sk_lookup link."""
    info = read_info(fd, _LinkInfo())
    return NetnsLinkInfo(info.prog_id, info.where)


def replace_program(link_fd: int, prog_fd: int) -> None:
    """Replace a link's program; every packet meets the old or the new one."""
    check(library().bpf_link_update(link_fd, prog_fd, None), "cannot replace the attached program")


def detach(link_fd: int) -> None:
    """Take a link's program off what it is attached to, whoever else holds the link."""
    check(library().bpf_link_detach(link_fd), "cannot detach the program")
