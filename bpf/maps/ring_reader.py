# SPDX-License-Identifier: Apache-2.0
"""The reading end of a ring buffer of the program."""

import ctypes as ct
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from bpf.errors import BpfError
from bpf.kernel.libbpf import library

_CALLBACK: Final = ct.CFUNCTYPE(ct.c_int, ct.c_void_p, ct.c_void_p, ct.c_size_t)
_Record = TypeVar("_Record")


class RingReader(Generic[_Record]):
    """`fileno` is readable when there are records, `read` takes them out. One reader at a time.

    Of each record `unpack` gets the first `size` bytes; `name` is the buffer's, for the error.
    """

    def __init__(self, fd: int, name: str, size: int, unpack: Callable[[bytes], _Record]) -> None:
        self._size, self._unpack = size, unpack
        self._found: list[_Record] = []
        self._callback = _CALLBACK(self._take)  # must live as long as the ring
        self._lib = library()
        self._lib.ring_buffer__new.restype = ct.c_void_p
        self._ring = ct.c_void_p(self._lib.ring_buffer__new(fd, self._callback, None, None))
        if not self._ring:
            raise BpfError(f"cannot open the ring buffer of {name}")

    def fileno(self) -> int:
        """Return a descriptor for select() and the like."""
        return int(self._lib.ring_buffer__epoll_fd(self._ring))

    def read(self) -> list[_Record]:
        """Return the records since the last call."""
        self._found = []
        self._lib.ring_buffer__consume(self._ring)
        return self._found

    def close(self) -> None:
        """Free the reading end; the program goes on writing."""
        self._lib.ring_buffer__free(self._ring)
        self._ring = ct.c_void_p()

    def _take(self, _: int, data: int, size: int) -> int:
        self._found.append(self._unpack(ct.string_at(data, self._size)))
        return 0
