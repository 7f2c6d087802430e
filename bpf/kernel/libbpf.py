# SPDX-License-Identifier: Apache-2.0
"""libbpf: loading it, its error numbers, and BPF_OBJ_GET_INFO_BY_FD, which all objects share.

libbpf comes with python3-bpfcc and does not load LLVM, which would cost a daemon 120 MB.
"""

import ctypes as ct
import errno
import functools
import os
from typing import TypeVar

from bpf.errors import BpfError

_Struct = TypeVar("_Struct", bound=ct.Structure)


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


def check(result: int, doing: str) -> int:
    """Return a call's result. Raises BpfError if it is a negative errno; `doing` begins the message."""
    if result >= 0:
        return result
    message = f"{doing}: {os.strerror(-result)}"
    if -result == errno.EPERM:
        message += "; BPF needs root (or CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON and CAP_SYS_ADMIN)"
    raise BpfError(message, -result)


def read_info(fd: int, info: _Struct) -> _Struct:
    """Fill as much of `info` as the kernel knows of an open object, and return it."""
    size = ct.c_uint32(ct.sizeof(info))
    result = library().bpf_obj_get_info_by_fd(fd, ct.byref(info), ct.byref(size))
    check(result, f"cannot read the info of descriptor {fd}")
    return info
