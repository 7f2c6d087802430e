# SPDX-License-Identifier: Apache-2.0
"""The XDP program on an interface: compiled, pinned, attached, replaced, taken off.

Owns what lies in the pin folder on bpffs:

    maps_LAYOUT/NAME    the maps, for one layout (rows, structs, counters)
    program0_BUILD      the program of uplink 0, for one build (source and options)
    link0               the attachment of uplink 0: packets are handled as long as it is there

Names carry digests, so what a restarted daemon finds under the name it computes is what it would make. A new
layout or build is made beside the old one, which goes on handling packets until `attach` replaces it at once.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
import socket
import struct
from pathlib import Path
from typing import Final, Literal, Self

from bpf import compile as compiler
from bpf import kernel, layout, mapspec
from bpf.errors import BpfError
from bpf.layout import UplinkEntry
from bpf.tables import Tables

Mode = Literal["auto", "native", "generic"]

_UPLINK: Final = 0
_SIOCGIFHWADDR: Final = 0x8927  # linux/sockios.h
_SIOCETHTOOL: Final = 0x8946
_ETHTOOL_GDRVINFO: Final = 3  # linux/ethtool.h
_NOT_FOR_LACK_OF_DRIVER: Final = {errno.EPERM, errno.EBUSY, errno.EEXIST, errno.ENODEV}
_FLAGS: Final = {"native": kernel.XDP_FLAGS_DRV_MODE, "generic": kernel.XDP_FLAGS_SKB_MODE}


class DataPath:
    """The program and maps of one interface: `open` makes them, `attach` lets packets in.

    All of it lives on in the kernel after `close`, or without this process; `detach` takes it away.
    """

    def __init__(self, pin_dir: Path, interface: str, ifindex: int, wanted: Mode, tables: Tables, prog_fd: int) -> None:
        self.interface = interface
        self.tables = tables
        self.program = kernel.prog_info(prog_fd)
        self.fallback_reason: str | None = None
        """Why "auto" attached in generic mode; None if it did not, or an earlier process attached."""
        self._pin_dir = pin_dir
        self._ifindex = ifindex
        self._wanted = wanted
        self._prog_fd = prog_fd

    @classmethod
    def open(cls, pin_dir: Path, interface: str, mode: Mode = "auto", rows: int = 65_536) -> Self:
        """Open the data path of an interface; compile the program and make the maps unless they are pinned already.

        Nothing changes for packets before `attach`: fill the tables first. `rows` (of each service) is a power of two.
        Raises BpfError: no such interface, another's XDP program on it, no bpffs at `pin_dir`, no rights, no BCC.
        """
        if rows & (rows - 1) or not layout.ROWS_MIN <= rows <= layout.ROWS_MAX:
            raise BpfError(f"rows: {rows} is not a power of two in {layout.ROWS_MIN}-{layout.ROWS_MAX}")
        uplink = _uplink(interface)
        _require_bpffs(pin_dir)
        _refuse_foreign(pin_dir, interface, uplink.ifindex)
        maps = pin_dir / _maps_name(rows)
        try:
            maps.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise BpfError(f"cannot make {maps}: {error.strerror}; BPF needs root", error.errno) from None
        tables = Tables.open(maps, rows)
        try:
            tables.set_uplink(_UPLINK, uplink)
            prog_fd = _program(pin_dir, tables)
        except BaseException:
            tables.close()
            raise
        return cls(pin_dir, interface, uplink.ifindex, mode, tables, prog_fd)

    @property
    def mode(self) -> str | None:
        """How it is attached: "native", "generic", or None if it is not."""
        state = kernel.xdp_state(self._ifindex)
        return state.mode if state.prog_id == self.program.id else None

    def attached(self) -> bool:
        """Ask the kernel whether this very program handles the interface's packets."""
        return self.mode is not None

    def attach(self) -> None:
        """Let packets in: attach the program, or replace an older one of ours without losing a packet.

        Raises BpfError if the tables are not filled: a program without them gives every packet to the wrong kernel.
        """
        if missing := self.tables.missing():
            raise BpfError(f"{self.interface}: not attaching XDP, tables are not filled: no {', no '.join(missing)}")
        _refuse_foreign(self._pin_dir, self.interface, self._ifindex)
        link = kernel.open_pin(self._link_pin)
        try:
            if link is not None and self._keeps(link):
                if kernel.link_info(link).prog_id != self.program.id:
                    kernel.replace_program(link, self._prog_fd)
            else:
                if link is not None:
                    self._drop(link)
                self._attach_anew()
        finally:
            if link is not None:
                os.close(link)
        self._remove_pins(keep={_maps_name(self.tables.row_count), _program_name(self.tables.row_count)})

    def detach(self) -> None:
        """Take the program off the interface and remove all pins. The open tables stay readable until `close`."""
        link = kernel.open_pin(self._link_pin)
        if link is not None:
            try:
                self._drop(link)
            finally:
                os.close(link)
        self._remove_pins(keep=set())
        with contextlib.suppress(OSError):  # not empty: something of another's, or another uplink's
            self._pin_dir.rmdir()

    def close(self) -> None:
        """Close descriptors; packets go on being handled."""
        self.tables.close()
        if self._prog_fd >= 0:
            os.close(self._prog_fd)
            self._prog_fd = -1

    @property
    def _link_pin(self) -> Path:
        return self._pin_dir / _link_name()

    def _keeps(self, link: int) -> bool:
        """Whether a link of an earlier attach serves: on this interface, and in the mode that is wanted."""
        state = kernel.xdp_state(self._ifindex)
        here = kernel.link_info(link)
        on_this = (here.ifindex, here.prog_id) == (self._ifindex, state.prog_id)
        return on_this and self._wanted in ("auto", state.mode)

    def _drop(self, link: int) -> None:
        if kernel.link_info(link).ifindex:  # else the interface is gone, and its attachment with it
            kernel.detach(link)
        self._link_pin.unlink()

    def _attach_anew(self) -> None:
        native_error = None
        modes = ("native", "generic") if self._wanted == "auto" else (self._wanted,)
        for mode in modes:
            try:
                link = kernel.attach_xdp(self._prog_fd, self._ifindex, _FLAGS[mode])
                break
            except BpfError as error:
                if mode == modes[-1] or error.errno in _NOT_FOR_LACK_OF_DRIVER:
                    raise BpfError(self._explained(mode, error), error.errno) from None
                native_error = error
        try:
            kernel.pin(link, self._link_pin)
        finally:
            os.close(link)
        self.fallback_reason = self._explained("native", native_error) if native_error else None

    def _explained(self, mode: str, error: BpfError) -> str:
        told = f"{self.interface}: cannot attach XDP in {mode} mode: {os.strerror(error.errno or 0)}"
        if mode == "native" and error.errno not in _NOT_FOR_LACK_OF_DRIVER:
            told += "; the driver cannot, or not at this MTU (veth: about 3500 at most): lower it, or use xdp mode auto"
        return told

    def _remove_pins(self, keep: set[str]) -> None:
        """Remove programs and maps but those to keep; never the link."""
        for entry in self._pin_dir.glob("*_*"):
            if entry.name in keep:
                continue
            if entry.name.startswith("maps_"):
                shutil.rmtree(entry)
            elif entry.name.startswith(f"program{_UPLINK}_"):
                entry.unlink()


def take_away(pin_dir: Path) -> bool:
    """Detach whatever a data path of ours has left pinned in `pin_dir`, on any interface; whether there was anything.

    Packets then meet the kernel alone. Raises BpfError if the kernel does not let us.
    """
    if not pin_dir.is_dir():
        return False
    try:
        for pin in sorted(pin_dir.glob("link*")):
            link = kernel.open_pin(pin)
            if link is not None:
                try:
                    if kernel.link_info(link).ifindex:  # else the interface is gone, and its attachment with it
                        kernel.detach(link)
                finally:
                    os.close(link)
            pin.unlink()
        shutil.rmtree(pin_dir)
    except OSError as error:
        raise BpfError(f"{pin_dir}: {error.strerror}; run it as root", error.errno) from None
    return True


def _maps_name(rows: int) -> str:
    return f"maps_{mapspec.digest(rows)}"


def _program_name(rows: int) -> str:
    return f"program{_UPLINK}_{compiler.digest(rows, _UPLINK)}"


def _link_name() -> str:
    return f"link{_UPLINK}"


def _program(pin_dir: Path, tables: Tables) -> int:
    """Open the pinned program of this build, or compile it, and return its descriptor."""
    rows = tables.row_count
    path = pin_dir / _program_name(rows)
    fd = kernel.open_pin(path)
    if fd is not None:
        if kernel.prog_info(fd).map_ids <= tables.map_ids():
            return fd
        os.close(fd)  # made for maps that were removed since
        path.unlink()
    compiler.build(pin_dir / _maps_name(rows), path, rows, _UPLINK)
    fd = kernel.open_pin(path)
    if fd is None:
        raise BpfError(f"{path}: the program that was just pinned here is gone")
    return fd


def _uplink(interface: str) -> UplinkEntry:
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


def _require_bpffs(folder: Path) -> None:
    """Raise unless the folder lies, or would lie, on a BPF file system."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    device = there.stat().st_dev
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, source = line.partition(" - ")
        if fields.split()[2] == f"{os.major(device)}:{os.minor(device)}":
            if source.split()[0] == "bpf":
                return
            break
    raise BpfError(f"{folder}: not on a BPF file system: mount -t bpf bpf /sys/fs/bpf", errno.ENOTSUP)


def _refuse_foreign(pin_dir: Path, interface: str, ifindex: int) -> None:
    """Raise if the interface has an XDP program that our own link did not put there."""
    state = kernel.xdp_state(ifindex)
    if not state.prog_id:
        return
    link = kernel.open_pin(pin_dir / _link_name())
    if link is not None:
        try:
            if kernel.link_info(link) == kernel.LinkInfo(state.prog_id, ifindex):
                return
        finally:
            os.close(link)
    raise BpfError(
        f"{interface}: another XDP program is attached ({kernel.prog_name(state.prog_id)}, id {state.prog_id}, "
        f"{state.mode}); it is not replaced: take it off (ip link set {interface} xdp off) or use another interface",
        errno.EEXIST,
    )
