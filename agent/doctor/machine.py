# SPDX-License-Identifier: Apache-2.0
"""The facts of this machine that `lbctl doctor` judges. I/O only, and none that changes anything.

A fact that cannot be read is None, so that the judgment reports that instead of passing it.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from agent.address import Address
from agent.doctor.facts import InterfaceFacts, MachineFacts
from agent.model import Port
from agent.netlink import ethtool, listener
from agent.netlink.interface_setting import strict_filters

FOLDERS: Final = ("/var/lib/anylb", "/run/anylb", "/var/cache/anylb", "/var/log")
_STA_UNSYNC: Final = 0x40  # linux/timex.h
_TIMEX_BYTES: Final = 208
_TIMEX_STATUS: Final = 40
"""Offset of `status` in struct timex, on 64-bit machines."""


def read_machine(interfaces: Iterable[str], vips: Iterable[Address], ports: Mapping[str, Port | None]) -> MachineFacts:
    """Read all facts. `ports` are those of the services by name; None for one whose port is any."""
    return MachineFacts(
        root=os.geteuid() == 0,
        kernel=kernel_of(platform.release()),
        jit=_jit(),
        bpf_file_system=_is_mounted("bpf", "/sys/fs/bpf"),
        interfaces={name: _interface(name) for name in interfaces},
        vips_here={vip: _is_here(vip) for vip in vips},
        listening={name: _listens(port) for name, port in ports.items()},
        clock_synchronized=_clock(),
        free={name: shutil.disk_usage(name).free for name in FOLDERS if Path(name).is_dir()},
        memory_available=_memory(),
    )


def kernel_of(release: str) -> tuple[int, int] | None:
    """Return major and minor number of a kernel's release, as 6.1.0-18-amd64; None for another form."""
    numbers = release.split(".")[:2]
    return (int(numbers[0]), int(numbers[1])) if len(numbers) == 2 and all(n.isdigit() for n in numbers) else None


def _interface(name: str) -> InterfaceFacts:
    folder = Path("/sys/class/net") / name
    if not folder.exists():
        return InterfaceFacts(exists=False)
    flags = _number(folder / "flags", 16)
    conf = Path("/proc/sys/net/ipv4/conf") / name
    return InterfaceFacts(
        exists=True,
        up=None if flags is None else bool(flags & 1),
        mtu=_number(folder / "mtu"),
        large_receive=ethtool.merges_packets(name),
        strips_tags=ethtool.strips_vlan_tags(name),
        strict_filter=name in strict_filters([name]),
        arp_ignore=_greater("arp_ignore", conf),
        arp_announce=_greater("arp_announce", conf),
    )


def _greater(setting: str, conf: Path) -> int | None:
    """Return what holds: the kernel takes the greater of an interface's value and that of all."""
    found = [_number(folder / setting) for folder in (conf, conf.parent / "all")]
    return max(value for value in found if value is not None) if any(v is not None for v in found) else None


def _number(path: Path, base: int = 10) -> int | None:
    try:
        return int(path.read_text().strip(), base)
    except (OSError, ValueError):
        return None


def _jit() -> bool | None:
    path = Path("/proc/sys/net/core/bpf_jit_enable")
    value = _number(path)
    return value != 0 if value is not None else None


def _is_mounted(kind: str, place: str) -> bool:
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    return any(line.split()[1:3] == [place, kind] for line in mounts)


def _is_here(vip: Address) -> bool:
    """Return whether the address is one of this machine: a socket can be bound to it."""
    family = socket.AF_INET if vip.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind((str(vip), 0))
        except OSError:
            return False
    return True


def _listens(port: Port | None) -> bool | None:
    if port is None:
        return None
    try:
        return bool(listener.listeners(port))
    except OSError:
        return None


def _clock() -> bool | None:
    """Return whether the kernel counts its clock as synchronized (adjtimex(2)); asking changes nothing."""
    buffer = ctypes.create_string_buffer(_TIMEX_BYTES)
    if ctypes.CDLL(None, use_errno=True).adjtimex(buffer) < 0:
        return None
    return not int.from_bytes(buffer.raw[_TIMEX_STATUS : _TIMEX_STATUS + 4], "little") & _STA_UNSYNC


def _memory() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    kib = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), None)
    return int(kib) * 1024 if kib else None
