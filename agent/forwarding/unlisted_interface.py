# SPDX-License-Identifier: Apache-2.0
"""Nodes that packets leave for by an interface without the program."""

from __future__ import annotations

import contextlib
import socket

from agent.forwarding.map_writer import MapWriter
from agent.problem import Problem, ProblemLine
from bpf.attach.datapath import DataPath
from bpf.errors import BpfError

UNLISTED = Problem(
    "{node} is reached by {interface}, where XDP may be unable to send",
    "list it in node.interfaces",
    "Most drivers send for native XDP only on an interface that has a program itself. Packets for that node are lost.",
)


def unlisted_interfaces(map_writer: MapWriter, datapath: DataPath) -> list[ProblemLine]:
    """Return a problem for each node that is reached by an interface without our program.

    Most drivers can send for native XDP only on an interface that has a program.
    """
    found = []
    for address, index in map_writer.nodes.unlisted_egress({one.ifindex for one in datapath.uplinks}):
        with contextlib.suppress(OSError, BpfError):  # an interface is disappearing right now
            if datapath.mode == "native":
                name = socket.if_indextoname(index)
                found.append(UNLISTED.line(node=address, interface=name))
    return found
