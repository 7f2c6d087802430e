# SPDX-License-Identifier: Apache-2.0
"""Nodes that packets leave for by an interface without the program."""

from __future__ import annotations

import contextlib
import socket

from agent.forwarding.map_writer import MapWriter
from bpf.attach.datapath import DataPath
from bpf.errors import BpfError


def unlisted_interfaces(map_writer: MapWriter, datapath: DataPath) -> list[str]:
    """Return a problem for each node that is reached by an interface without our program.

    Most drivers can send for native XDP only on an interface that has a program.
    """
    found = []
    for address, index in map_writer.nodes.unlisted_egress({one.ifindex for one in datapath.uplinks}):
        with contextlib.suppress(OSError, BpfError):  # an interface is disappearing right now
            if datapath.mode == "native":
                name = socket.if_indextoname(index)
                found.append(
                    f"{address} is reached by {name}, where XDP may be unable to send; list it in node.interfaces"
                )
    return found
