# SPDX-License-Identifier: Apache-2.0
"""What an agent leaves for the next one on the same boot about instances: names, and what the operator wants. Pure.

The choice itself is in the kernel's maps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.instances.choice import Active, OperatorChoice
from agent.instances.match import Added, ProcessId
from agent.json_value import U32, U64, whole


@dataclass(frozen=True, slots=True)
class Record:
    """What is recorded of the instances of one port."""

    operator: OperatorChoice = field(default_factory=OperatorChoice)
    added: tuple[Added, ...] = ()
    """By hand."""
    numbered: Mapping[str, ProcessId] = field(default_factory=dict)
    """The processes of instances that are known by their executable, by the name that these were given."""
    active: Active | None = None
    port: int | None = None
    """With `steer: auto`: where the instances listen."""
    handed: Mapping[int, ProcessId] = field(default_factory=dict)
    """The process that handed a listener over, by cookie."""
    cpus: Mapping[int, int] = field(default_factory=dict)
    """The CPU that a server gave a listener, by cookie: of one that was handed over it cannot be asked again."""

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "preferred": self.operator.preferred,
            "drained": sorted(self.operator.drained),
            "weights": dict(self.operator.weights),
            "added": [[name, *process] for name, process in self.added],
            "numbered": {name: list(process) for name, process in self.numbered.items()},
            "active": [self.active.name, sorted(self.active.cookies)] if self.active else None,
            "port": self.port,
            "handed": [[cookie, *process] for cookie, process in self.handed.items()],
            "cpus": [[cookie, cpu] for cookie, cpu in self.cpus.items()],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Record:
        """Return the record of JSON values. Raises ValueError, LookupError or TypeError."""
        preferred, active = data["preferred"], data["active"]
        # A record of an earlier version has none of these.
        port, handed, cpus = data.get("port"), data.get("handed", ()), data.get("cpus", ())
        return cls(
            OperatorChoice(
                None if preferred is None else str(preferred),
                frozenset(map(str, data["drained"])),
                {str(name): whole(weight, U32) for name, weight in data["weights"].items()},
            ),
            tuple(Added(str(name), _process(pid, start)) for name, pid, start in data["added"]),
            {str(name): _process(*process) for name, process in data["numbered"].items()},
            Active(str(active[0]), frozenset(whole(one, U64) for one in active[1])) if active else None,
            None if port is None else whole(port, 65_535),
            {whole(cookie, U64): _process(pid, start) for cookie, pid, start in handed},
            {whole(cookie, U64): whole(cpu, U32) for cookie, cpu in cpus},
        )


def _process(pid: object, start: object) -> ProcessId:
    return ProcessId(whole(pid, U32), whole(start, U64))
