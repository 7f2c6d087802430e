# SPDX-License-Identifier: Apache-2.0
"""C assertions, compiled with the programs, that hold exactly if lb.h agrees with this folder."""

from collections.abc import Iterable, Mapping
from enum import IntEnum, IntFlag
from typing import Final

from bpf.layout import limits, nat, nat_backend, session
from bpf.layout.c_struct import CStruct
from bpf.layout.conf import ConfFlag
from bpf.layout.counter import Counter
from bpf.layout.echo import ECHO_STRUCT, EchoFlag, EchoKind, Encap
from bpf.layout.map_spec import NAT_STRUCTS, STRUCTS
from bpf.layout.nat import NatFlag
from bpf.layout.nat_backend import Balance
from bpf.layout.node import NodeFlag
from bpf.layout.service import Affinity, Forward, ServiceFlag
from bpf.layout.session import SessionState, TagFlag

_LIMITS = (
    "CHAIN", "HOP_MAX", "NODES", "SLOTS", "BANKS", "JOINED_PLACES", "SERVICES", "SERVICE_CACHE", "UPLINKS", "PREFIXES",
    "FIRST_FRAGMENTS", "KEY_WORDS", "RATE_LIMITS", "SAMPLE_BYTES",
)  # fmt: skip
_ENUMS: Final[dict[str, type[IntEnum] | type[IntFlag]]] = {
    "": Counter,
    "CONF_": ConfFlag,
    "SERVICE_": ServiceFlag,
    "NODE_": NodeFlag,
    "AFFINITY_": Affinity,
    "FORWARD_BY_": Forward,
    "ECHO_": EchoKind,
    "ECHO_FLAG_": EchoFlag,
    "ENCAP_": Encap,
}
"""By the prefix that the names have in C."""
_NAT_ENUMS: Final[dict[str, type[IntEnum] | type[IntFlag]]] = {
    "SESSION_": SessionState,
    "TAG_": TagFlag,
    "NAT_": NatFlag,
    "BALANCE_": Balance,
}
_NAT_NUMBERS: Final = {
    nat: ("NAT_ROWS", "NAT_PARSED_SIZE", "PORT_BITS", "FIRST_PORT"),
    nat_backend: ("BACKENDS", "CHOICES", "NAT_HOPS"),
    session: ("WAYS", "OWNER_WAYS", "TICK_SHIFT"),
}


def assertions() -> str:
    """Return the assertions: sizes and offsets of all structs, all numbers and limits; NAT's hold in its builds."""
    checks = _struct_checks((*STRUCTS, ECHO_STRUCT)) + _enum_checks(_ENUMS)
    checks.append(f"COUNTERS == {len(Counter)}")
    checks += [f"{name} == {getattr(limits, name)}" for name in _LIMITS]
    nat_checks = _struct_checks(NAT_STRUCTS) + _enum_checks(_NAT_ENUMS)
    for module, names in _NAT_NUMBERS.items():
        nat_checks += [f"{name} == {getattr(module, name)}" for name in names]
    return f"{_render(checks)}#if NAT\n{_render(nat_checks)}#endif\n"


def _struct_checks(structs: Iterable[CStruct]) -> list[str]:
    checks = []
    for struct in structs:
        checks.append(f"sizeof(struct {struct.name}) == {struct.size}")
        offsets = struct.offsets().items()
        checks += [f"__builtin_offsetof(struct {struct.name}, {field}) == {at}" for field, at in offsets]
    return checks


def _enum_checks(enums: Mapping[str, type[IntEnum] | type[IntFlag]]) -> list[str]:
    return [f"{prefix}{member.name} == {member.value}" for prefix, enum in enums.items() for member in enum]


def _render(checks: Iterable[str]) -> str:
    return "".join(f'_Static_assert({check}, "bpf/layout and lb.h disagree");\n' for check in checks)
