# SPDX-License-Identifier: Apache-2.0
"""The allowlist: the relay advertises nothing outside it, even for an agent that is faulty or compromised, and learns
nothing outside it, whatever a router sends.

Owns the list of prefixes, a file that root writes, one prefix per line:

    10.99.0.1/32              advertise host routes inside it, and learn them
    learn 10.254.0.0/16       learn them only
    exactly 10.255.0.0/27     advertise this prefix, and none inside it

A reload of the speaker replaces the file, and the relay reads it again without a restart. Other than the prefixes that
are named exactly, the pools of NAT, only host routes pass: a VIP and an identity are one address each, and a shorter
prefix would attract other traffic. Standard library only: the relay archive carries this file.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bgp.errors import BgpError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


_LEARN, _EXACTLY = "learn ", "exactly "
ANY: tuple[Network, ...] = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))


@dataclass(frozen=True, slots=True)
class Exactly:
    """A prefix that passes itself, unlike a network, inside which host routes pass."""

    network: Network


def passes(prefix: str, entries: Iterable[Network | Exactly]) -> bool:
    """Return whether `prefix` is a host route inside one of these networks, or one of these prefixes exactly."""
    network = ipaddress.ip_network(prefix)
    for one in entries:
        if isinstance(one, Exactly):
            if network == one.network:
                return True
        elif network.num_addresses == 1 and network.network_address in one:
            return True
    return False


def refused(prefixes: Iterable[str], allowed: Iterable[Network | Exactly]) -> list[str]:
    """Return those of `prefixes` that do not pass."""
    entries = tuple(allowed)
    return [prefix for prefix in prefixes if not passes(prefix, entries)]


class Allowlist:
    """The content of the file at its last `reload`.

    `advertised`: the prefixes inside which host routes may be advertised, and those that may be themselves. `learned`:
    the prefixes inside which host routes are learned.
    """

    def __init__(self, path: Path) -> None:
        """Read the file. BgpError if that fails: a relay must not run without its allowlist."""
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self.advertised: tuple[Network | Exactly, ...] = ()
        self.learned: tuple[Network, ...] = ()
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
            lines = self._path.read_text(encoding="ascii").splitlines()
            exact = [line.removeprefix(_EXACTLY) for line in lines if line.startswith(_EXACTLY)]
            pools = tuple(Exactly(ipaddress.ip_network(prefix)) for prefix in exact)
            lines = [line for line in lines if not line.startswith(_EXACTLY)]
            learned = tuple(ipaddress.ip_network(line.removeprefix(_LEARN)) for line in lines)
        except (OSError, ValueError) as error:
            raise BgpError(f"{self._path}: {getattr(error, 'strerror', None) or error}") from None
        advertised = (network for line, network in zip(lines, learned, strict=True) if not line.startswith(_LEARN))
        self._stamp, self.advertised, self.learned = stamp, (*advertised, *pools), learned
        return True
