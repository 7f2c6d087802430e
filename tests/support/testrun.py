# SPDX-License-Identifier: Apache-2.0
"""BPF_PROG_TEST_RUN: a loaded program on a packet in memory. Nothing is attached; maps and sockets are real."""

import ctypes as ct
import os


class Options(ct.Structure):
    """struct bpf_test_run_opts of libbpf's bpf.h."""

    _fields_ = [
        ("sz", ct.c_size_t),
        ("data_in", ct.c_char_p),
        ("data_out", ct.c_void_p),
        ("data_size_in", ct.c_uint32),
        ("data_size_out", ct.c_uint32),
        ("ctx_in", ct.c_void_p),
        ("ctx_out", ct.c_void_p),
        ("ctx_size_in", ct.c_uint32),
        ("ctx_size_out", ct.c_uint32),
        ("retval", ct.c_uint32),
        ("repeat", ct.c_int),
        ("duration", ct.c_uint32),
        ("flags", ct.c_uint32),
        ("cpu", ct.c_uint32),
        ("batch_size", ct.c_uint32),
    ]


class Runner:
    """Runs one program, by its descriptor."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._test_run = ct.CDLL("libbpf.so.1").bpf_prog_test_run_opts
        self._out = ct.create_string_buffer(4096)
        self._options = Options(sz=ct.sizeof(Options), data_out=ct.addressof(self._out))
        self._arguments = fd, ct.byref(self._options)

    def run(self, packet: bytes, repeat: int = 1) -> tuple[int, bytes]:
        """Return the program's return value and the packet after it."""
        options = self._options
        options.data_in = packet
        options.data_size_in = len(packet)
        options.data_size_out = len(self._out)
        options.repeat = repeat
        error = self._test_run(*self._arguments)
        assert error == 0, os.strerror(-error)
        return options.retval, ct.string_at(self._out, options.data_size_out)

    @property
    def duration_ns(self) -> int:
        """The mean time of one round of the last run."""
        return int(self._options.duration)
