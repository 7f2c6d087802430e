# SPDX-License-Identifier: Apache-2.0
"""The addresses of the members that this node knew, in a file that outlives a reboot.

After a reboot /run is empty and BGP takes a second, or longer if the routers are away too: the nodes known before it
are asked meanwhile. That makes them candidates and no more; who does not answer by the first table is forgotten.
"""

from __future__ import annotations

import json
import logging
from ipaddress import IPv4Address
from pathlib import Path

from agent import json_value, private_file
from agent.model import Member
from bpf.layout.limits import NODES

log = logging.getLogger("anylb")

MAX_BYTES = 64 * NODES


class KnownNodes:
    """The file, for its writer."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.addresses = load(path)
        self._members: tuple[Member, ...] | None = None
        self._error: str | None = None

    def save(self, members: tuple[Member, ...]) -> None:
        """Save the addresses if they differ. A failure is logged once; the next change tries again."""
        if members is self._members:
            return
        self._members = members
        wanted = frozenset(member.address for member in members)
        if wanted == self.addresses:
            return
        try:
            private_file.make_folder(self._path.parent)
            private_file.write(self._path, json.dumps(sorted(map(str, wanted))))
        except OSError as error:
            if self._error != error.strerror:
                log.error("%s: %s; after a reboot this node knows the others by BGP alone", self._path, error.strerror)
            self._error = error.strerror
        else:
            self.addresses, self._error = wanted, None


def load(path: Path) -> frozenset[IPv4Address]:
    """Return the addresses in the file; none if there is no file or it cannot be read."""
    try:
        return frozenset(IPv4Address(str(one)) for one in json_value.decode(private_file.read_own(path, MAX_BYTES)))
    except (OSError, ValueError, TypeError):
        return frozenset()
