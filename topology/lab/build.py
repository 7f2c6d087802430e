# SPDX-License-Identifier: Apache-2.0
"""Brings a lab up in containerlab's order: create all nodes, then all links, then run all exec lines.

Owns: the order, and what is recorded when. Does not own: each step (init_channel.py, link.py), taking a failed lab
down (lab.py).
"""

from collections.abc import Callable, Sequence
from subprocess import CompletedProcess

from topology.errors import LabError
from topology.lab import link, program
from topology.lab.init_channel import InitChannels
from topology.lab.record import LabRecord
from topology.lab.spec import Topology

Run = Callable[[str, Sequence[str]], "CompletedProcess[str]"]


def build(topology: Topology, record: LabRecord, inits: InitChannels, run: Run, keep_failed: bool) -> LabError | None:
    """Bring everything up and record it. Raises LabError, or returns it if the lab stays up with it (`keep_failed`).

    `run` runs a command in a node to its end and raises LabError if it fails.
    """
    record.links = [[text for end in pair.ends for text in (end.node, end.interface)] for pair in topology.links]
    record.save()
    _create_nodes(topology, record, inits)
    try:
        _make_links(topology, record)
        failure = _run_exec_lines(topology, run)
    except (LabError, OSError) as error:  # OSError: an interface has just gone with its node
        raise _dead_node(topology, record, inits) or LabError(f"{topology.file}: {error}") from None
    failure = _dead_node(topology, record, inits) or failure  # a dead node is the cause of what failed in it
    if failure and not keep_failed:
        raise failure
    if record.keep:
        inits.keep()
    # After every `keep`: a lab that is recorded as up is always complete.
    record.state = "up"
    record.save()
    return failure


def _create_nodes(topology: Topology, record: LabRecord, inits: InitChannels) -> None:
    for node in topology.nodes.values():
        inits.start(node)
    for node in topology.nodes.values():
        init = inits.await_ready(node)
        record.nodes[node.name] = {
            "pid": init.pid,
            "start": init.start,
            "env": program.environment(record.name, node),
            "group": node.group,
            "image": node.image,
            "labels": dict(node.labels),
            "killed": False,
        }
    record.save()


def _make_links(topology: Topology, record: LabRecord) -> None:
    pids = {name: data["pid"] for name, data in record.nodes.items()}
    link.create(topology.links, pids)
    for name, pid in pids.items():
        link.prepare(pid, [end.interface for pair in topology.links for end in pair.ends if end.node == name])


def _run_exec_lines(topology: Topology, run: Run) -> LabError | None:
    for node in topology.nodes.values():
        for line in node.exec:
            try:
                run(node.name, line.argv)
            except LabError as error:
                return LabError(f"{line.place}: {error}")
    return None


def _dead_node(topology: Topology, record: LabRecord, inits: InitChannels) -> LabError | None:
    for node in topology.nodes.values():
        if not record.init_of(node.name).alive:
            return LabError(f"{node.place}: {inits.last_error(node.name) or 'the node died'}")
    return None
