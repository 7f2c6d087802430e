# SPDX-License-Identifier: Apache-2.0
"""The deny list: prefixes from which packets to VIPs are dropped; the configuration's, and the operator's."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from agent.address import Network


class DenyList:
    """The prefixes in force. `on_change` is called after each change."""

    def __init__(
        self,
        configured: Iterable[Network],
        added: frozenset[Network],
        write: Callable[[frozenset[Network]], None],
        on_change: Callable[[], None],
    ) -> None:
        """`added`: those that the operator added; `write` puts a whole list into the kernel, or raises BpfError."""
        self.configured, self.added = frozenset(configured), added
        self._write, self._on_change = write, on_change

    @property
    def prefixes(self) -> frozenset[Network]:
        """All of them."""
        return self.configured | self.added

    def replace(self, added: frozenset[Network]) -> None:
        """Replace the operator's prefixes, at once. BpfError: the map is full, and nothing has changed."""
        self._write(self.configured | added)
        self.added = added
        self._on_change()
