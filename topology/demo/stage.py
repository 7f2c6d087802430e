# SPDX-License-Identifier: Apache-2.0
"""Which labs the demo brings up, and which steps it plays there: servers that are nodes, or backends behind NAT."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from topology.demo.report import ANYLB, ECMP
from topology.demo.scenario import NAT_SMALL, NAT_STEPS, SMALL, STEPS, Step


@dataclass(frozen=True, slots=True)
class Stage:
    """Two variants of one lab file, by the names of report.py: anylb, and the control."""

    #: The lab's file by router.
    files: Mapping[str, str]
    #: The variables of the file, by variant.
    environments: Mapping[str, Mapping[str, str]]
    #: The variants as people read them: in tables, and the control in a sentence.
    titles: Mapping[str, str]
    control: str
    steps: tuple[Step, ...]
    #: Fewer steps, for tests.
    small: tuple[Step, ...]
    #: The programs that the labs need besides, and their Debian packages.
    programs: Mapping[str, str]
    #: Whether nodes hold sessions, of backends that are no nodes.
    nat: bool


SERVERS: Final = Stage(
    files={"bird": "segment.clab.yml", "frr": "segment-frr.clab.yml"},
    environments={ANYLB: {"XDP": "auto"}, ECMP: {"XDP": "off"}},
    titles={ANYLB: "anylb", ECMP: "ECMP"},
    control="plain ECMP",
    steps=STEPS,
    small=SMALL,
    programs={},
    nat=False,
)
NAT: Final = Stage(
    files={"bird": "nat.clab.yml"},
    environments={ANYLB: {"XDP": "auto"}, ECMP: {"XDP": "off", "LB": "lb.yml"}},
    titles={ANYLB: "anylb", ECMP: "HAProxy"},
    control="HAProxy behind plain ECMP",
    steps=NAT_STEPS,
    small=NAT_SMALL,
    programs={"haproxy": "haproxy", "nginx": "nginx"},
    nat=True,
)
