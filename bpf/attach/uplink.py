# SPDX-License-Identifier: Apache-2.0
"""One interface's part of the data path: its program, and the link that attaches it.

Owns what the kernel says of an interface, and attaching, replacing and taking off. Where the pins lie is datapath.py's.
"""

import ctypes
import errno
import fcntl
import os
import socket
import struct
from pathlib import Path
from typing import Final, Literal

from bpf.errors import BpfError
from bpf.kernel.link import (
    XDP_FLAGS_DRV_MODE,
    XDP_FLAGS_SKB_MODE,
    LinkInfo,
    attach_xdp,
    detach,
    link_info,
    replace_program,
)
from bpf.kernel.pin import open_pin, pin_object
from bpf.kernel.program import program_info, program_name
from bpf.kernel.xdp import xdp_state
from bpf.layout.uplink import UplinkEntry

Mode = Literal["auto", "native", "generic"]

_SIOCGIFHWADDR: Final = 0x8927  # linux/sockios.h
_SIOCETHTOOL: Final = 0x8946
_ETHTOOL_GDRVINFO: Final = 3  # linux/ethtool.h
_NOT_FOR_LACK_OF_DRIVER: Final = {errno.EPERM, errno.EBUSY, errno.EEXIST, errno.ENODEV}
_FLAGS: Final = {"native": XDP_FLAGS_DRV_MODE, "generic": XDP_FLAGS_SKB_MODE}


class Uplink:
    """A program and the interface that it is for; `attach` lets packets in."""

    def __init__(self, interface: str, ifindex: int, wanted: Mode, prog_fd: int, link_pin: Path) -> None:
        self.interface = interface
        self.program = program_info(prog_fd)
        self.fallback_reason: str | None = None
        """Why "auto" attached in generic mode; None if it did not, or an earlier process attached."""
        self.ifindex = ifindex
        self._wanted = wanted
        self._prog_fd = prog_fd
        self._link_pin = link_pin

    @property
    def mode(self) -> str | None:
        """How it is attached: "native", "generic", or None if it is not."""
        state = xdp_state(self.ifindex)
        return state.mode if state.prog_id == self.program.id else None

    def let_go(self) -> None:
        """Drop the attachment that an earlier process left at this place, if it does not serve."""
        link = open_pin(self._link_pin)
        if link is None:
            return
        try:
            serves = self._keeps(link)
        finally:
            os.close(link)
        if not serves:
            drop(self._link_pin)

    def attach(self) -> None:
        """Attach the program, or replace an older one of ours without losing a packet; after `let_go`."""
        link = open_pin(self._link_pin)
        if link is None:
            self._attach_anew()
            return
        try:
            if link_info(link).prog_id != self.program.id:
                replace_program(link, self._prog_fd)
        finally:
            os.close(link)

    def close(self) -> None:
        """Close the program's descriptor; packets go on being handled."""
        if self._prog_fd >= 0:
            os.close(self._prog_fd)
            self._prog_fd = -1

    def _keeps(self, link: int) -> bool:
        """Whether a link of an earlier attach serves: on this interface, and in the mode that is wanted."""
        state = xdp_state(self.ifindex)
        here = link_info(link)
        on_this = (here.ifindex, here.prog_id) == (self.ifindex, state.prog_id)
        return on_this and self._wanted in ("auto", state.mode)

    def _attach_anew(self) -> None:
        native_error = None
        modes = ("native", "generic") if self._wanted == "auto" else (self._wanted,)
        for mode in modes:
            try:
                link = attach_xdp(self._prog_fd, self.ifindex, _FLAGS[mode])
                break
            except BpfError as error:
                if mode == modes[-1] or error.errno in _NOT_FOR_LACK_OF_DRIVER:
                    raise BpfError(self._explained(mode, error), error.errno) from None
                native_error = error
        try:
            pin_object(link, self._link_pin)
        finally:
            os.close(link)
        self.fallback_reason = self._explained("native", native_error) if native_error else None

    def _explained(self, mode: str, error: BpfError) -> str:
        told = f"{self.interface}: cannot attach XDP in {mode} mode: {os.strerror(error.errno or 0)}"
        if mode == "native" and error.errno not in _NOT_FOR_LACK_OF_DRIVER:
            told += "; the driver cannot, or not at this MTU (XDP frags): lower it, or use xdp mode auto"
        return told


def drop(link_pin: Path) -> None:
    """Take off what a pinned link attaches, if there is one, and remove its pin."""
    link = open_pin(link_pin)
    if link is None:
        return
    try:
        if link_info(link).ifindex:  # else the interface is gone, and its attachment with it
            detach(link)
        link_pin.unlink()
    finally:
        os.close(link)


def interface_of(link_pin: Path) -> int | None:
    """The index of the interface that a pinned link is on; None if there is no such link, or no such interface."""
    link = open_pin(link_pin)
    if link is None:
        return None
    try:
        return link_info(link).ifindex or None
    finally:
        os.close(link)


def entry_of(interface: str) -> UplinkEntry:
    """Ask the kernel for an interface of this network namespace (not /sys, which may show another's)."""
    try:
        ifindex = socket.if_nametoindex(interface)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            mac = fcntl.ioctl(sock, _SIOCGIFHWADDR, struct.pack("16s24x", interface.encode()))[18:24]
            return UplinkEntry(mac, ifindex, redirect=_driver(sock, interface) == "veth")
    except OSError:
        known = ", ".join(name for _, name in socket.if_nameindex())
        raise BpfError(f"no interface {interface} here (there are: {known})", errno.ENODEV) from None


def _driver(sock: socket.socket, interface: str) -> str:
    """Return the name of an interface's driver; empty for those that tell none, like lo."""
    info = ctypes.create_string_buffer(struct.pack("I", _ETHTOOL_GDRVINFO), 196)  # struct ethtool_drvinfo
    request = struct.pack("16sP16x", interface.encode(), ctypes.addressof(info))
    try:
        fcntl.ioctl(sock, _SIOCETHTOOL, request)
    except OSError:
        return ""
    return info.raw[4:36].rstrip(b"\0").decode()


def refuse_foreign(interface: str, ifindex: int, links: list[Path]) -> None:
    """Raise if the interface has an XDP program that none of our own links put there."""
    state = xdp_state(ifindex)
    if not state.prog_id:
        return
    for path in links:
        link = open_pin(path)
        if link is not None:
            try:
                if link_info(link) == LinkInfo(state.prog_id, ifindex):
                    return
            finally:
                os.close(link)
    raise BpfError(
        f"{interface}: another XDP program is attached ({program_name(state.prog_id)}, id {state.prog_id}, "
        f"{state.mode}); it is not replaced: take it off (ip link set {interface} xdp off) or use another interface",
        errno.EEXIST,
    )
