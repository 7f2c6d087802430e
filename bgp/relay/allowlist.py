# SPDX-License-Identifier: Apache-2.0
"""The allowlist: the relay advertises nothing outside it, even for an agent that is faulty or compromised.

Owns the list of prefixes, a file that root writes, one prefix per line. A reload of the speaker replaces the file, and
the relay reads it again without a restart. Only host routes pass: a VIP and an identity are one address each, and a
shorter prefix would attract other traffic. Standard library only: the relay archive carries this file.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from pathlib import Path

from bgp.errors import BgpError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def refused(prefixes: Iterable[str], allowed: Iterable[Network]) -> list[str]:
    """Return those of `prefixes` that are not host routes inside `allowed`."""
    networks = tuple(allowed)
    return [prefix for prefix in prefixes if not _passes(ipaddress.ip_network(prefix), networks)]


def _passes(prefix: Network, allowed: tuple[Network, ...]) -> bool:
    return prefix.num_addresses == 1 and any(prefix.network_address in network for network in allowed)


class Allowlist:
    """The content of the file at its last `reload`."""

    def __init__(self, path: Path) -> None:
        """Read the file. BgpError if that fails: a relay must not run without its allowlist."""
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self.networks: tuple[Network, ...] = ()
        self.reload()

    def reload(self) -> bool:
        """Read the file if it was replaced, and return whether it was.

        BgpError if it cannot be read or is no list of prefixes: the content read before stays in force.
        """
        try:
            status = self._path.stat()
            stamp = status.st_ino, status.st_mtime_ns
            if stamp == self._stamp:
                return False
            lines = self._path.read_text(encoding="ascii").split()
            networks = tuple(ipaddress.ip_network(line) for line in lines)
        except (OSError, ValueError) as error:
            raise BgpError(f"{self._path}: {getattr(error, 'strerror', None) or error}") from None
        self._stamp, self.networks = stamp, networks
        return True
