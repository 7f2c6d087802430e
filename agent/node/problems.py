# SPDX-License-Identifier: Apache-2.0
"""The problems of the cluster as this node observes it, one line each, with the next step. Each is logged once."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Collection, Iterable, Sequence
from ipaddress import IPv4Address

from agent.config.schema import Config
from agent.forwarding.map_writer import MapWriter
from agent.membership.conflict import Conflicts
from agent.membership.received import Received
from agent.model import Member
from agent.table.epoch import incompatible_members
from bpf.attach.datapath import DataPath
from bpf.errors import BpfError

log = logging.getLogger("anylb")


class Problems:
    """The current problems: `observe` updates them, `lines` has them."""

    def __init__(self, config: Config, own: IPv4Address) -> None:
        self.lines: tuple[str, ...] = ()
        self._config = config
        self._conflicts = Conflicts(config, own)

    def observe(
        self,
        received: Received,
        members: Collection[Member],
        epochs: Sequence[int],
        versions: Collection[int],
        others: Iterable[str | None],
        now: float,
    ) -> None:
        """Update the problems.

        `epochs` and `versions` are this node's own, `others` the problems that other modules found.
        """
        self._conflicts.observe(received.seen, [member.address for member in members], versions, now)
        found = {
            f"{m.address} has epoch {m.epoch:#x}, this node {epochs[0]:#x}: their configurations and tables differ"
            for m in incompatible_members(epochs, members)
        }
        found |= {
            *received.unreadable,
            *self._conflicts.problems,
            *filter(None, others),
        }
        for line in sorted(found - set(self.lines)):
            log.warning("%s", line)
        self.lines = tuple(sorted(found))


def unlisted_interfaces(map_writer: MapWriter | None, datapath: DataPath | None) -> list[str]:
    """Return a problem for each node that is reached by an interface without our program.

    Most drivers can send for native XDP only on an interface that has a program.
    """
    if map_writer is None or datapath is None:
        return []
    problems = []
    for address, index in map_writer.unlisted_egress({one.ifindex for one in datapath.uplinks}):
        with contextlib.suppress(OSError, BpfError):  # an interface is disappearing right now
            if datapath.mode == "native":
                name = socket.if_indextoname(index)
                problems.append(
                    f"{address} is reached by {name}, where XDP may be unable to send; list it in node.interfaces"
                )
    return problems
