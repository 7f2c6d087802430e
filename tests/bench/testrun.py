# SPDX-License-Identifier: Apache-2.0
"""BPF_PROG_TEST_RUN, and a private network namespace and bpffs to use it in, which end with this process."""

import ctypes as ct
import os
import struct
import subprocess
from typing import Final

from support.testrun import Options

from topology.lab import netns

_LIVE_FRAMES: Final = 1 << 1  # BPF_F_TEST_XDP_LIVE_FRAMES, linux/bpf.h


def _run(fd: int, options: Options) -> None:
    error = ct.CDLL("libbpf.so.1").bpf_prog_test_run_opts(fd, ct.byref(options))
    if error:
        raise OSError(-error, f"BPF_PROG_TEST_RUN: {os.strerror(-error)}")


def _address(data: bytes) -> int | None:
    return ct.cast(ct.c_char_p(data), ct.c_void_p).value


def repeat(fd: int, packet: bytes, times: int) -> tuple[int, bytes]:
    """Run a program that often on one packet in memory; return the last verdict and the packet after it."""
    out = ct.create_string_buffer(4096)
    options = Options(sz=ct.sizeof(Options), data_size_in=len(packet), data_size_out=len(out), repeat=times)
    options.data_in = _address(packet)
    options.data_out = ct.addressof(out)
    _run(fd, options)
    return int(options.retval), out.raw[: options.data_size_out]


def live(fd: int, packet: bytes, ifindex: int, times: int) -> None:
    """Send real frames: those with XDP_TX from a program leave by an interface of this network namespace."""
    context = struct.pack("=6I", 0, len(packet), 0, ifindex, 0, 0)
    options = Options(sz=ct.sizeof(Options), data_size_in=len(packet), repeat=times, flags=_LIVE_FRAMES)
    options.data_in = _address(packet)
    options.ctx_in = _address(context)
    options.ctx_size_in = len(context)
    _run(fd, options)


def isolate() -> None:
    """Give this process a network namespace and a /sys/fs/bpf of its own. They end with it."""
    netns.unshare(netns.CLONE_NEWNET | netns.CLONE_NEWNS)
    netns.mount("none", "/", None, netns.MS_REC | netns.MS_PRIVATE)
    netns.mount("bpf", "/sys/fs/bpf", "bpf")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
