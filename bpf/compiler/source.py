# SPDX-License-Identifier: Apache-2.0
"""The C text of a program, as BCC gets it, and the options that it is compiled for."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from bpf.layout import instance, steering
from bpf.layout.c_assertion import assertions
from bpf.layout.limits import ROWS_MIN
from bpf.layout.map_spec import NatShape, map_specs
from bpf.layout.nat import SESSIONS_MIN

SOURCES: Final = Path(__file__).resolve().parents[1] / "src"
KERNEL_HEADERS: Final = SOURCES / "kheaders"
_PACKET_MAPS: Final = tuple(spec.name for spec in map_specs(ROWS_MIN))
_NAT_MAPS: Final = tuple(spec.name for spec in map_specs(ROWS_MIN, NatShape(SESSIONS_MIN)))[len(_PACKET_MAPS) :]
_INCLUDE: Final = re.compile(r'^#include "(\w+\.h)"$', re.MULTILINE)


@dataclass(frozen=True)
class LbOptions:
    """What the XDP program is compiled for: rows of each service, its place among the uplinks, IPv6 or not; NAT or not,
    and whether of IPv6 too.

    Without `plain` the general program handles all packets (plain.h): only tests want that.
    """

    rows: int
    uplink: int = 0
    ipv6: bool = True
    plain: bool = True
    nat: bool = False
    nat6: bool = False

    main: ClassVar[str] = "lb.c"
    kind: ClassVar[str] = "XDP"
    prefix: ClassVar[str] = "lb"
    by_fd: ClassVar[tuple[str, ...]] = ()
    """Those of `pins` of a kind that BCC has no declaration for: the source gets their descriptors, as NAME."""

    @property
    def tails(self) -> tuple[str, ...]:
        """The programs of the same source to which tail calls lead, in the order of lb.h."""
        return ("general", "collector", *(("nat", "nat_general", "nat_parsed") if self.nat else ()))

    @property
    def pins(self) -> tuple[str, ...]:
        """The pins of the maps that it may use."""
        nat_maps = [name for name in _NAT_MAPS if self.nat6 or name != "sessions6"]
        return (*_PACKET_MAPS, *(nat_maps if self.nat else ()))

    def defines(self) -> list[str]:
        """Return the compiler's arguments."""
        values = {"ROWS": self.rows, "UPLINK": self.uplink, "IPV6": int(self.ipv6), "PLAIN": int(self.plain)}
        if self.nat:
            values |= {"NAT": 1, "NAT6": int(self.nat6)}
        return [f"-D{name}={value}" for name, value in values.items()]


@dataclass(frozen=True)
class EgressOptions:
    """The tc egress program has no options."""

    main: ClassVar[str] = "egress.c"
    kind: ClassVar[str] = "tc"
    prefix: ClassVar[str] = "egress"
    tails: ClassVar[tuple[str, ...]] = ()
    pins: ClassVar[tuple[str, ...]] = _PACKET_MAPS
    by_fd: ClassVar[tuple[str, ...]] = ()

    def defines(self) -> list[str]:
        """Return the compiler's arguments."""
        return []


@dataclass(frozen=True)
class InstanceOptions:
    """The program that chooses among a service's instances; each group of listeners has maps of its own.

    With `udp` flows stay with their listener: TCP has no need for it.
    """

    udp: bool = False

    main: ClassVar[str] = "instance.c"
    kind: ClassVar[str] = "sk_reuseport"
    prefix: ClassVar[str] = "hot_standby"
    tails: ClassVar[tuple[str, ...]] = ()
    by_fd: ClassVar[tuple[str, ...]] = (instance.LISTENERS.name,)

    def defines(self) -> list[str]:
        """Return the compiler's arguments."""
        values = {
            "CELLS": instance.CELLS,
            "PLACES": instance.PLACES,
            "PROBES": instance.PROBES.entries,
            "FLOWS": instance.FLOWS.entries,
            "UDP": int(self.udp),
        }
        return [f"-D{name}={value}" for name, value in values.items()]

    @property
    def pins(self) -> tuple[str, ...]:
        """The pins of the maps that it may use."""
        return tuple(spec.name for spec in instance.map_specs(self.udp))


@dataclass(frozen=True)
class SteerOptions:
    """The program that gives a VIP's connections to a listener elsewhere has no options."""

    main: ClassVar[str] = "steer.c"
    kind: ClassVar[str] = "sk_lookup"
    prefix: ClassVar[str] = "steer"
    tails: ClassVar[tuple[str, ...]] = ()
    pins: ClassVar[tuple[str, ...]] = tuple(spec.name for spec in steering.MAP_SPECS)
    by_fd: ClassVar[tuple[str, ...]] = (steering.TARGETS.name,)

    def defines(self) -> list[str]:
        """Return the compiler's arguments."""
        return [f"-DSTEERED_ENTRIES={steering.ENTRIES}", f"-DPLACES={steering.PLACES}"]


Options = LbOptions | EgressOptions | InstanceOptions | SteerOptions


def program_text(main: str = "lb.c") -> str:
    """Return a program's main file with our own headers in place of their #include lines, and the C assertions on them.

    BCC rewrites map lookups only in the main text: with a lookup in a header, the compiled program would not load.
    `#line` keeps the file and line of compile errors right.
    """

    included: set[str] = set()

    def join(name: str) -> str:
        included.add(name)
        text = (SOURCES / name).read_text().replace("#pragma once\n", "\n")

        def header(match: re.Match[str]) -> str:
            if match[1] in included:
                return ""
            after = text.count("\n", 0, match.end()) + 2
            return f'{join(match[1])}\n#line {after} "{name}"'

        return f'#line 1 "{name}"\n' + _INCLUDE.sub(header, text)

    text = join(main)
    return text + "\n" + (assertions() if "lb.h" in included else "")


def source_digest(options: Options) -> str:
    """Return a short name of a build; it differs if the source, a header or an option does."""
    content = hashlib.sha256(f"{program_text(options.main)} {options.defines()}".encode())
    for header in sorted(KERNEL_HEADERS.rglob("*.h")):
        content.update(header.read_bytes())
    return content.hexdigest()[:12]


def build_name(options: Options) -> str:
    """Return the name of a build on disk: the program's and the digest."""
    return f"{options.prefix}_{source_digest(options)}"


def program_name(options: Options) -> str:
    """Return the name that the kernel shows: `hot_standby`, `steer`; `lb_` or `egress_` and the digest, cut to 15
    characters."""
    return options.prefix if isinstance(options, InstanceOptions | SteerOptions) else build_name(options)[:15]
