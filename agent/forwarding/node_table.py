# SPDX-License-Identifier: Apache-2.0
"""The entries of the kernel's node table: each node's index, its next hop, and whether it is silent.

An entry is written from three sources, and each keeps what the others wrote: the members (`write`), the kernel's routes
(`set_hop`) and the nodes that do not answer (`set_silent`). Rows refer to nodes by index, so an address keeps its index
for as long as it has one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address
from types import MappingProxyType

from agent.address import Address, tag_of
from agent.errors import AgentError
from agent.forwarding.next_hop import NextHop
from agent.forwarding.node_index import node_indexes
from bpf.layout.conf import ConfFlag
from bpf.layout.limits import NODES
from bpf.layout.node import NodeEntry
from bpf.maps.maps import Maps


class NodeTable:
    """The nodes that the data path knows."""

    def __init__(
        self,
        maps: Maps,
        own: IPv4Address,
        own6: IPv6Address | None,
        over_ipv6: bool,
        least_mtus: Mapping[bool, int] = MappingProxyType({False: 0, True: 0}),
    ) -> None:
        """Take over the entries that an earlier agent left: indexes, next hops and silence.

        `own` and `own6` are this node's addresses; `over_ipv6`: tunnels use IPv6 if both ends have it;
        `least_mtus`: what the tunnels of IPv6 services need of a path, by whether the tunnel is IPv6.
        """
        self._maps = maps
        self._own, self._over_ipv6, self._least_mtus = own, over_ipv6, least_mtus
        self._entries: dict[int, NodeEntry] = maps.nodes.read()
        self._ends: Mapping[IPv4Address, IPv6Address | None] = {
            **{entry.address: entry.address6 for entry in self._entries.values()},
            own: own6,
        }
        self._indexes = {entry.address: index for index, entry in self._entries.items()}
        self._by_target = self._index_targets()
        self._hops = {_target(entry): _hop(entry) for entry in self._entries.values() if entry.mac}
        self._silent = {entry.address: entry.drop_until_ns for entry in self._entries.values() if entry.silent}
        self._doubted = {
            entry.address: entry.drop_until_ns
            for entry in self._entries.values()
            if entry.drop_until_ns and not entry.silent
        }
        self._written_ends: object = None
        """The ends that the entries were last written from; None after a failure."""
        self.revision = 0
        """Grows when a node or a next hop changes."""
        self._mark_narrow()

    @property
    def indexes(self) -> Mapping[IPv4Address, int]:
        """The index of each address that has an entry, or had one a moment ago."""
        return self._indexes

    @property
    def silent(self) -> Mapping[IPv4Address, int]:
        """The silent nodes, and until when (CLOCK_MONOTONIC ns, 0: no longer) their packets are dropped, not reset."""
        return self._silent

    def awaited(self, now_ns: int) -> list[IPv4Address]:
        """Return the nodes, silent or doubted, whose packets are dropped now, not reset."""
        return [node for node, until_ns in {**self._doubted, **self._silent}.items() if until_ns > now_ns]

    @property
    def own6(self) -> IPv6Address | None:
        """This node's IPv6 end of tunnels."""
        return self._ends[self._own]

    def reaches(self, targets: Iterable[Address]) -> bool:
        """Return whether the MAC of the next hop is known for all these addresses."""
        return all((hop := self._hops.get(target)) is not None and hop.mac is not None for target in targets)

    def target(self, address: IPv4Address, end6: IPv6Address | None) -> Address:
        """Return which of a node's two addresses its packets are sent to."""
        return end6 if end6 is not None and self._over_ipv6 else address

    def known_hop(self, target: Address) -> NextHop | None:
        """Return the next hop of an address in the maps."""
        return self._hops.get(target)

    def unlisted_egress(self, uplinks: Collection[int]) -> list[tuple[IPv4Address, int]]:
        """Return the nodes whose packets leave by another interface than these, with the index of that interface."""
        others = self._others()
        return sorted((one.address, one.ifindex) for one in others if one.ifindex and one.ifindex not in uplinks)

    def mtus(self) -> list[int]:
        """Return the MTUs of the known routes to the other nodes that the tables name."""
        return [entry.mtu for entry in self._others()]

    def vlans(self) -> list[tuple[IPv4Address, int]]:
        """Return the nodes with the VLANs of the known routes to them, 0 for none."""
        return [(entry.address, entry.vlan) for entry in self._others()]

    def narrow(self) -> list[NodeEntry]:
        """Return the other nodes to which the path is too narrow for the tunnels of an IPv6 service."""
        return [entry for entry in self._others() if entry.mtu < self._least_mtus[entry.outer6]]

    def _mark_narrow(self) -> None:
        """Set whether there are such nodes: only then the program compares."""
        narrow = bool(self.narrow())
        if narrow != (ConfFlag.NARROW in self._maps.conf.flags()):
            self._maps.conf.set_flag(ConfFlag.NARROW, narrow)

    def _others(self) -> list[NodeEntry]:
        return [entry for entry in self._entries.values() if entry.mac and entry.address != self._own]

    def keep_hops(self, targets: Collection[Address]) -> None:
        """Forget the next hops of all other addresses, unless a node of the table has them."""
        self._hops = {one: hop for one, hop in self._hops.items() if one in targets or one in self._by_target}

    def set_hop(self, target: Address, hop: NextHop) -> None:
        """Set the next hop of a node's address. It stays until another is set."""
        self._hops[target] = hop
        self.revision += 1
        self._rewrite(self._by_target.get(target, ()))

    def set_silent(self, silent: Mapping[IPv4Address, int], doubted: Mapping[IPv4Address, int]) -> None:
        """Have the program pass over the silent nodes and no others, from the next packet on.

        By address: until when (CLOCK_MONOTONIC ns, 0: no longer) what may be the node's connection is dropped, not
        reset. That holds for doubted nodes too, which others pass over. A node without an entry is silent as soon as it
        has one; this node never is.
        """
        self._silent = {node: until for node, until in silent.items() if node != self._own}
        self._doubted = {node: until for node, until in doubted.items() if node not in silent and node != self._own}
        before = {entry.address for entry in self._entries.values() if entry.silent or entry.drop_until_ns}
        # With this flag the program looks for silent nodes; without it, it would not know its place behind them.
        flag = ConfFlag.SILENT in self._maps.conf.flags()
        wanted = bool(self._silent or self._doubted)
        if wanted and not flag:
            self._maps.conf.set_flag(ConfFlag.SILENT, True)
        self._rewrite(before | self._silent.keys() | self._doubted.keys())
        if flag and not wanted:
            self._maps.conf.set_flag(ConfFlag.SILENT, False)

    def without_room(self, wanted: Collection[IPv4Address]) -> set[IPv4Address]:
        """Return which of these nodes can have no index before others give theirs up; never this node."""
        new = sorted(set(wanted) - self._indexes.keys() - {self._own})
        own = 0 if self._own in self._indexes else 1
        return set(new[max(0, NODES - 1 - own - len(self._indexes)) :])

    def write(
        self, wanted: set[IPv4Address], ends: Mapping[IPv4Address, IPv6Address | None]
    ) -> Mapping[IPv4Address, int]:
        """Write the entries of these nodes, and return their indexes. `ends` is each node's IPv6 end of tunnels.

        Entries of other nodes stay until `remove`. Raises AgentError if the nodes are too many.
        """
        if ends is self._written_ends and wanted == self._indexes.keys():
            return self._indexes
        indexes = node_indexes(self._indexes, wanted, NODES)
        if indexes is None:
            raise AgentError(f"{len(wanted)} nodes: more than the {NODES - 1} that the node table holds")
        self._written_ends = None  # until all is written
        self._ends = {**ends, self._own: self.own6}
        self._indexes = self._indexes | indexes  # before the entries: one that is written is removed later in any case
        self._by_target = self._index_targets()
        self._rewrite(sorted(wanted))
        self._written_ends = ends
        self.revision += 1
        return indexes

    def remove(self, addresses: Iterable[IPv4Address]) -> None:
        """Remove the entries of nodes that no row names any more."""
        for address in addresses:
            index = self._indexes[address]
            self._maps.nodes.write(index, None)
            self._entries.pop(index, None)
            del self._indexes[address]
        self._mark_narrow()

    def _index_targets(self) -> dict[Address, list[IPv4Address]]:
        """Return the nodes by the address that their packets are sent to."""
        found: dict[Address, list[IPv4Address]] = {}
        for address in self._indexes:
            found.setdefault(self.target(address, self._ends.get(address)), []).append(address)
        return found

    def _rewrite(self, addresses: Iterable[IPv4Address]) -> None:
        """Write the entries of those of these nodes that have an index, where they differ from the kernel's."""
        for address in addresses:
            index = self._indexes.get(address)
            if index is not None and (entry := self._entry(address)) != self._entries.get(index):
                self._maps.nodes.write(index, entry)
                self._entries[index] = entry
        self._mark_narrow()

    def _entry(self, address: IPv4Address) -> NodeEntry:
        end6 = self._ends.get(address)
        target = self.target(address, end6)
        hop = self._hops.get(target) or NextHop(None)
        return NodeEntry(
            address, tag_of(address), hop.mac, hop.on_link, end6, target == end6, hop.ifindex, hop.source, hop.vlan,
            hop.mtu, address in self._silent, self._silent.get(address, self._doubted.get(address, 0)),
        )  # fmt: skip


def _target(entry: NodeEntry) -> Address:
    return entry.address6 if entry.outer6 and entry.address6 else entry.address


def _hop(entry: NodeEntry) -> NextHop:
    return NextHop(entry.mac, entry.on_link, entry.ifindex, entry.source, entry.vlan, entry.mtu)
