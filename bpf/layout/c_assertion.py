# SPDX-License-Identifier: Apache-2.0
"""C assertions, compiled with the programs, that hold exactly if lb.h agrees with this folder."""

from bpf.layout import limits
from bpf.layout.conf import ConfFlag
from bpf.layout.counter import Counter
from bpf.layout.echo import ECHO_STRUCT, EchoFlag, EchoKind, Way
from bpf.layout.map_spec import STRUCTS
from bpf.layout.node import NodeFlag
from bpf.layout.service import Affinity, Forward, ServiceFlag

_LIMITS = (
    "CHAIN", "NODES", "SLOTS", "BANKS", "JOINED_PLACES", "SERVICES", "SERVICE_CACHE", "UPLINKS", "PREFIXES",
    "FIRST_FRAGMENTS", "KEY_WORDS", "RATE_LIMITS", "SAMPLE_BYTES",
)  # fmt: skip
_ENUMS = {
    "": Counter,
    "CONF_": ConfFlag,
    "SERVICE_": ServiceFlag,
    "NODE_": NodeFlag,
    "AFFINITY_": Affinity,
    "FORWARD_BY_": Forward,
    "ECHO_": EchoKind,
    "ECHO_FLAG_": EchoFlag,
    "WAY_": Way,
}
"""By the prefix that the names have in C."""


def assertions() -> str:
    """Return the assertions: sizes and offsets of all structs, all numbers and limits."""
    structs = (*STRUCTS, ECHO_STRUCT)
    checks = [f"sizeof(struct {struct.name}) == {struct.size}" for struct in structs]
    for struct in structs:
        offsets = struct.offsets().items()
        checks += [f"__builtin_offsetof(struct {struct.name}, {field}) == {at}" for field, at in offsets]
    for prefix, enum in _ENUMS.items():
        checks += [f"{prefix}{member.name} == {member.value}" for member in enum]
    checks.append(f"COUNTERS == {len(Counter)}")
    checks += [f"{name} == {getattr(limits, name)}" for name in _LIMITS]
    return "".join(f'_Static_assert({check}, "bpf/layout and lb.h disagree");\n' for check in checks)
