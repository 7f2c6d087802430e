# SPDX-License-Identifier: Apache-2.0
"""The relay's last gate: what it announces whatever the agent wishes, even one that is wrong or not itself any more.

Owns the list of allowed prefixes, a file that root writes, one to a line. A reload of the speaker writes it anew and
the relay takes it up, without being started again. Only host routes pass: a VIP and an identity are one address each,
and a shorter prefix would draw the traffic of others. Standard library only: the relay carries this file (helper_archive.py).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from pathlib import Path

from bgp.errors import BgpError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def refused(prefixes: Iterable[str], allowed: Iterable[Network]) -> list[str]:
    """Which of `prefixes` are not host routes inside `allowed`."""
    networks = tuple(allowed)
    return [prefix for prefix in prefixes if not _passes(ipaddress.ip_network(prefix), networks)]


def _passes(prefix: Network, allowed: tuple[Network, ...]) -> bool:
    return prefix.num_addresses == 1 and any(prefix.network_address in network for network in allowed)


class AllowFile:
    """The file as it stands; `read` again whenever it may have been replaced."""

    def __init__(self, path: Path) -> None:
        """Read it. BgpError if it cannot be: a relay must not run without its gate."""
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self.networks: tuple[Network, ...] = ()
        self.read()

    def read(self) -> bool:
        """Take the file's new content if it has been replaced; whether it has. BgpError if it cannot be read or is no
        list of prefixes: what was read before then still holds."""
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
