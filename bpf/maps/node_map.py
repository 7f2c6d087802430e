# SPDX-License-Identifier: Apache-2.0
"""The node table: next hops by the indexes that rows hold."""

from bpf.errors import BpfError
from bpf.layout.limits import NODES
from bpf.layout.node import NodeEntry
from bpf.maps.pinned_map import PinnedMap


class NodeMap:
    """The nodes, by index (1 to NODES - 1)."""

    def __init__(self, nodes: PinnedMap) -> None:
        self._nodes = nodes

    def write(self, index: int, node: NodeEntry | None) -> None:
        """Write a node, or clear its place; clear it only when no row holds the index any more."""
        if not 0 < index < NODES:
            raise BpfError(f"node index {index} is not in 1-{NODES - 1}: too many nodes in the cluster")
        if node is None:
            self._nodes.clear_entry(index)
        else:
            self._nodes.set_entry(index, node.pack())

    def entry(self, index: int) -> NodeEntry | None:
        """Return a node; None if the place is free."""
        return NodeEntry.unpack(self._nodes.entry(index))

    def read(self) -> dict[int, NodeEntry]:
        """Return all nodes by index."""
        entries = {index: self.entry(index) for index in range(1, NODES)}
        return {index: entry for index, entry in entries.items() if entry}
