# SPDX-License-Identifier: Apache-2.0
"""What is wrong with the cluster as this node sees it, for its operator: a line each, with what to do. Logs it once."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Collection, Iterable, Sequence
from ipaddress import IPv4Address

from agent.config.schema import Config
from agent.forwarding.map_writer import MapWriter
from agent.membership import identity
from agent.membership.conflict import Conflicts
from agent.model import Member
from agent.table.epoch import incompatible_members
from bgp.relay.protocol import Snapshot
from bpf.attach.datapath import DataPath
from bpf.errors import BpfError

log = logging.getLogger("anylb")


class Problems:
    """Feed it with `observe`, read `lines`."""

    def __init__(self, config: Config, own: IPv4Address) -> None:
        self.lines: tuple[str, ...] = ()
        self._config = config
        self._conflicts = Conflicts(config, own)

    def observe(
        self,
        snapshot: Snapshot | None,
        members: Collection[Member],
        epochs: Sequence[int],
        versions: Collection[int],
        others: Iterable[str | None],
        now: float,
    ) -> None:
        """Look again. `epochs` and `versions` are this node's own, `others` what its other parts complain of."""
        claims = identity.seen_identities(self._config, snapshot)
        self._conflicts.observe(claims, [member.address for member in members], versions, now)
        found = {
            f"{m.address} has epoch {m.epoch:#x}, this node {epochs[0]:#x}: its tables differ, so does its config"
            for m in incompatible_members(epochs, members)
        }
        found |= {
            *identity.unreadable_identities(self._config, snapshot),
            *self._conflicts.problems,
            *filter(None, others),
        }
        for line in sorted(found - set(self.lines)):
            log.warning("%s", line)
        self.lines = tuple(sorted(found))


def unlisted_interfaces(applier: MapWriter | None, datapath: DataPath | None) -> list[str]:
    """What to tell of nodes that are reached by an interface without our program: most drivers can send for native XDP
    only where there is one."""
    if applier is None or datapath is None:
        return []
    told = []
    for address, index in applier.strays({one.ifindex for one in datapath.uplinks}):
        with contextlib.suppress(OSError, BpfError):  # an interface is just going away
            if datapath.mode == "native":
                name = socket.if_indextoname(index)
                told.append(
                    f"{address} is reached by {name}, where XDP may be unable to send; list it in node.interfaces"
                )
    return told
