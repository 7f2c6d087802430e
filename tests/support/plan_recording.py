# SPDX-License-Identifier: Apache-2.0
"""Sequences of a plan's inputs as files, and what to compare plans by.

tests/agent/node/recorded/ has what node b1 of the demo's cluster planned from, through all of the demo's steps: a start
among others, one that joins, drains, leaves and comes back, a speaker that is killed, two servers that die. That of NAT
is of the lab with backends: another node drains, leaves and comes back, then this one drains, all backends go down and
come back, a node dies. The first was recorded when a node's identity still carried what it serves, and converted since:
where a router withdrew an identity, its member is `lost` here. `record` wraps the planner of a running agent; to record
again, call it in the agent's process (a sitecustomize.py does), then write the plans with

    PYTHONPATH=tests python -m support.plan_recording

and read the difference: it is what the change to the planner means.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter
from support.nat_config import nat_config

from agent.node import planner
from agent.node.candidates import Candidates, table_keys
from agent.node.plan import Inputs, Memory, Plan, ThisNode, plan

FOLDER: Final = Path(__file__).parents[1] / "agent/node/recorded"
RECORDINGS: Final = {
    FOLDER / "inputs.jsonl": FOLDER / "plans.jsonl",
    FOLDER / "nat_inputs.jsonl": FOLDER / "nat_plans.jsonl",
}
"""The plans of each file of inputs."""
_FIELDS: Final = {field.name: field for field in fields(Inputs)}
_ADAPTER: Final = TypeAdapter(Inputs)


@dataclass(frozen=True, slots=True)
class Step:
    """One plan's inputs and times."""

    inputs: Inputs
    now: float
    wall: float


@dataclass(frozen=True, slots=True)
class Recording:
    """The steps of one node, from its start."""

    node: ThisNode
    steps: tuple[Step, ...]

    def plans(self) -> Iterator[Plan]:
        """Yield the plan of each step."""
        memory = first_memory(self.node)
        for step in self.steps:
            made = plan(self.node, step.inputs, memory, step.now, step.wall)
            memory = made.memory
            yield made


def first_memory(node: ThisNode) -> Memory:
    """Return the memory of a node on which no agent ran before."""
    return Memory(Candidates(table_keys(node.config)))


def head(config: str, node: ThisNode) -> str:
    """Return the first line of a recording."""
    addresses = [str(one) if one else None for one in (node.address, node.address6, node.next_hop6)]
    return json.dumps({"config": config, "addresses": addresses, "epochs": node.epochs, "start": node.start}) + "\n"


def line(step: Step, before: Inputs) -> str:
    """Return a step's line: only the inputs that differ from the step before."""
    values = _ADAPTER.dump_python(step.inputs, mode="json")
    changed = {name: values[name] for name in _FIELDS if getattr(step.inputs, name) != getattr(before, name)}
    return json.dumps({"now": step.now, "wall": step.wall, "inputs": changed}) + "\n"


def load(text: str) -> Recording:
    """Return the recording that the lines hold."""
    first, *rest = map(json.loads, text.splitlines())
    address, address6, next_hop6 = first["addresses"]
    node = ThisNode(
        nat_config(first["config"]),
        IPv4Address(address),
        IPv6Address(address6) if address6 else None,
        IPv6Address(next_hop6) if next_hop6 else None,
        tuple(first["epochs"]),
        first["start"],
    )
    steps, inputs = [], Inputs()
    for one in rest:
        new = _ADAPTER.validate_python(one["inputs"])
        inputs = replace(inputs, **{name: getattr(new, name) for name in one["inputs"]})
        steps.append(Step(inputs, one["now"], one["wall"]))
    return Recording(node, tuple(steps))


def record(path: Path, config: Path) -> None:
    """Have the agents of this process append what they plan from to `path`."""
    original, before = planner.plan, Inputs()

    def recorded(node: ThisNode, inputs: Inputs, memory: Memory, now: float, wall: float) -> Plan:
        nonlocal before
        with path.open("a", encoding="utf-8") as file:
            if file.tell() == 0:
                file.write(head(config.read_text(encoding="utf-8"), node))
            file.write(line(Step(inputs, now, wall), before))
        before = inputs
        return original(node, inputs, memory, now, wall)

    planner.plan = recorded


def summary(made: Plan) -> str:
    """Return what a plan means for the node, as one line."""
    tables = made.tables
    shown: dict[str, Any] = {
        "tables": {
            name: " ".join(f"{c.address}:{c.effective}/{c.weight}:{c.state}" for c in found)
            for name, found in tables.candidates.items()
        },
        "up": tables.up,
        "use": [tables.epoch_switch.use.first, tables.epoch_switch.use.alternating],
        "announcements": {str(vip): one.why for vip, one in made.announcements.items()},
        "shares": {
            service: f"{s.effective}/{s.weight}:{s.state}{'' if s.announced else ' not announced'}"
            for service, s in made.shares.items()
        },
        "routes": [f"{r.prefix} med {r.med} prepend {r.prepend} {r.communities}" for r in made.desired.desired],
        "announcers": made.desired.announcers,
        "problems": made.problems,
    }
    return json.dumps(shown)


def summaries(plans: Iterable[Plan]) -> str:
    """Return the plans' lines."""
    return "".join(summary(one) + "\n" for one in plans)


if __name__ == "__main__":
    for inputs, plans in RECORDINGS.items():
        plans.write_text(summaries(load(inputs.read_text(encoding="utf-8")).plans()), encoding="utf-8")
