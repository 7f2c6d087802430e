# SPDX-License-Identifier: Apache-2.0
"""One interface of the data path: its program, and the link that attaches it.

Owns reading an interface's state from the kernel, and attaching, replacing and detaching. pin_dir.py names the pins.
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
from bpf.kernel.program import program_info, program_name_by_id
from bpf.kernel.xdp import xdp_state
from bpf.layout.uplink import UplinkEntry

Mode = Literal["auto", "native", "generic"]

_SIOCGIFHWADDR: Final = 0x8927  # linux/sockios.h
_SIOCETHTOOL: Final = 0x8946
_ETHTOOL_GDRVINFO: Final = 3  # linux/ethtool.h
_NOT_THE_DRIVER: Final = {errno.EPERM, errno.EBUSY, errno.EEXIST, errno.ENODEV}
"""Errors that generic mode would give too."""
_FLAGS: Final = {"native": XDP_FLAGS_DRV_MODE, "generic": XDP_FLAGS_SKB_MODE}


class Uplink:
    """A program and its interface; `attach` lets packets in."""

    def __init__(
        self, interface: str, ifindex: int, wanted: Mode, prog_fd: int, tail_calls_fd: int | None, link_pin: Path
    ) -> None:
        """The uplink owns both descriptors."""
        self.interface = interface
        self.program = program_info(prog_fd)
        self._refusal: str | None = None
        """Why the driver refused native mode; None if it did not, or an earlier process attached."""
        self.ifindex = ifindex
        self._wanted = wanted
        self._prog_fd = prog_fd
        self._tail_calls_fd = tail_calls_fd
        """Held open likewise: the kernel empties the map of tail calls when nothing but the program refers to it."""
        self.link_pin: Final = link_pin
        self.link_fd = -1
        """Of the attachment; -1: it is not held yet. Held open: when somebody removes the pins, the program stays
        attached for as long as this process lives."""

    @property
    def mode(self) -> str | None:
        """How it is attached: "native", "generic", or None if it is not."""
        state = xdp_state(self.ifindex)
        return state.mode if state.prog_id == self.program.id else None

    @property
    def fallback_reason(self) -> str | None:
        """Why "auto" is generic mode now, with the next step; None if it is not."""
        if self._wanted != "auto" or self.mode != "generic":
            return None
        why = f"its driver refused native mode: {self._refusal}" if self._refusal else "an earlier agent attached it so"
        return (
            f"{self.interface}: XDP runs in generic mode, which is slower ({why}): lower the MTU if that is why, "
            "and set xdp.mode to native, or to generic if it has to be; then `lbctl reload`"
        )

    @property
    def attached(self) -> bool:
        """Whether the kernel runs the program on the interface. The link, once it is held, shows it without netlink."""
        if self.link_fd >= 0:
            return link_info(self.link_fd) == LinkInfo(self.program.id, self.ifindex)
        return self.mode is not None

    def detach_stale_link(self) -> None:
        """Detach the link that an earlier process left at this place, unless `attach` can use it."""
        link = open_pin(self.link_pin)
        if link is None:
            return
        try:
            usable = self._is_usable(link)
        finally:
            os.close(link)
        if not usable:
            detach_link(self.link_pin)

    def attach(self) -> None:
        """Attach the program, or replace an older one of ours without losing a packet; after `detach_stale_link`."""
        link = open_pin(self.link_pin)
        if link is None:
            link = self._attach_new()
        self._hold(link)
        if link_info(link).prog_id != self.program.id:
            replace_program(link, self._prog_fd)

    def close(self) -> None:
        """Close all descriptors; packets are still handled."""
        self._hold(-1)
        if self._prog_fd >= 0:
            os.close(self._prog_fd)
            self._prog_fd = -1
        if self._tail_calls_fd is not None:
            os.close(self._tail_calls_fd)
            self._tail_calls_fd = None

    def _hold(self, link: int) -> None:
        if self.link_fd >= 0:
            os.close(self.link_fd)
        self.link_fd = link

    def _is_usable(self, link: int) -> bool:
        """Return whether a link is on this interface, and in the wanted mode."""
        state, info = xdp_state(self.ifindex), link_info(link)
        on_this = (info.ifindex, info.prog_id) == (self.ifindex, state.prog_id)
        return on_this and self._wanted in ("auto", state.mode)

    def _attach_new(self) -> int:
        native_error = None
        modes = ("native", "generic") if self._wanted == "auto" else (self._wanted,)
        for mode in modes:
            try:
                link = attach_xdp(self._prog_fd, self.ifindex, _FLAGS[mode])
                break
            except BpfError as error:
                if mode == modes[-1] or error.errno in _NOT_THE_DRIVER:
                    raise BpfError(self._message(mode, error), error.errno) from None
                native_error = error
        try:
            pin_object(link, self.link_pin)
        except BpfError:
            os.close(link)
            raise
        self._refusal = os.strerror(native_error.errno or 0) if native_error else None
        return link

    def _message(self, mode: str, error: BpfError) -> str:
        message = f"{self.interface}: cannot attach XDP in {mode} mode: {os.strerror(error.errno or 0)}"
        if mode == "native" and error.errno not in _NOT_THE_DRIVER:
            message += (
                "; the driver does not support it, or not at this MTU (XDP frags): lower the MTU, or use xdp mode auto"
            )
        return message


def detach_link(link_pin: Path) -> None:
    """Detach the program of a pinned link, if there is one, and remove the pin."""
    link = open_pin(link_pin)
    if link is None:
        return
    try:
        if link_info(link).ifindex:  # else the interface is gone, and its attachment with it
            detach(link)
        link_pin.unlink()
    finally:
        os.close(link)


def ifindex_of_link(link_pin: Path) -> int | None:
    """Return the interface index of a pinned link; None if there is no such link, or its interface is gone."""
    link = open_pin(link_pin)
    if link is None:
        return None
    try:
        return link_info(link).ifindex or None
    finally:
        os.close(link)


def read_entry(interface: str) -> UplinkEntry:
    """Read an interface of this network namespace from the kernel (not /sys, which may show another's)."""
    try:
        ifindex = socket.if_nametoindex(interface)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            mac = fcntl.ioctl(sock, _SIOCGIFHWADDR, struct.pack("16s24x", interface.encode()))[18:24]
            return UplinkEntry(mac, ifindex, redirect=_driver(sock, interface) == "veth")
    except OSError:
        known = ", ".join(name for _, name in socket.if_nameindex())
        raise BpfError(f"no interface {interface} here (there are: {known})", errno.ENODEV) from None


def _driver(sock: socket.socket, interface: str) -> str:
    """Return the name of an interface's driver; empty for interfaces without one, like lo."""
    info = ctypes.create_string_buffer(struct.pack("I", _ETHTOOL_GDRVINFO), 196)  # struct ethtool_drvinfo
    request = struct.pack("16sP16x", interface.encode(), ctypes.addressof(info))
    try:
        fcntl.ioctl(sock, _SIOCETHTOOL, request)
    except OSError:
        return ""
    return info.raw[4:36].rstrip(b"\0").decode()


def require_no_foreign_program(interface: str, ifindex: int, links: list[Path]) -> None:
    """Raise BpfError if the interface has an XDP program that none of our links attached."""
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
        f"{interface}: another XDP program is attached ({program_name_by_id(state.prog_id)}, id {state.prog_id}, "
        f"{state.mode}); anylb does not replace it: detach it (ip link set {interface} xdp off) or use another "
        "interface",
        errno.EEXIST,
    )
