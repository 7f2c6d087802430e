# SPDX-License-Identifier: Apache-2.0
"""The deny list: prefixes from which packets to VIPs are dropped; the configuration's, and the operator's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import ip_network

from agent.address import Address, Network
from agent.config.deny import many_clients
from agent.errors import AgentError
from agent.problem import Problem, ProblemLine

BACKEND_DENIED = Problem(
    "{backend} is a backend, but {prefix} is denied, so its answers are dropped",
    "`lbctl deny del {prefix}`",
    "The prefix was denied before the backend was configured. Deny smaller prefixes instead.",
)


class DenyList:
    """The prefixes in force. `on_change` is called after each change."""

    def __init__(
        self,
        configured: Iterable[Network],
        added: frozenset[Network],
        write: Callable[[frozenset[Network]], None],
        on_change: Callable[[], None],
        backends: Iterable[Address] = (),
    ) -> None:
        """`added`: those that the operator added; `write` puts a whole list into the kernel, or raises BpfError.
        `backends`: those of NAT services, whose answers would be dropped."""
        self.configured, self.added = frozenset(configured), added
        self._write, self._on_change = write, on_change
        self._backends = tuple(map(ip_network, sorted(set(backends), key=lambda one: (one.version, int(one)))))

    @property
    def prefixes(self) -> frozenset[Network]:
        """All of them."""
        return self.configured | self.added

    def add(self, prefix: Network, force: bool = False) -> None:
        """Add the operator's prefix. AgentError: a backend is in it, or it has many clients and is not forced;
        BpfError: the map is full. Nothing has changed."""
        if not force and (why := many_clients(prefix)):
            raise AgentError(f"{why}; deny longer prefixes, or use --force")
        if hit := self._hit(prefix):
            raise AgentError(f"{hit} is a backend, whose answers would be dropped; deny smaller prefixes")
        self.replace(self.added | {prefix})

    def problems(self) -> list[ProblemLine]:
        """Return which denied prefixes have backends, one line each: the configuration of these came later."""
        found = ((prefix, self._hit(prefix)) for prefix in sorted(self.added, key=lambda one: (one.version, one)))
        return [BACKEND_DENIED.line(backend=hit, prefix=prefix) for prefix, hit in found if hit]

    def _hit(self, prefix: Network) -> Address | None:
        """Return the first backend in a prefix."""
        return next((one.network_address for one in self._backends if one.overlaps(prefix)), None)

    def replace(self, added: frozenset[Network]) -> None:
        """Replace the operator's prefixes, at once. BpfError: the map is full, and nothing has changed."""
        self._write(self.configured | added)
        self.added = added
        self._on_change()
