# SPDX-License-Identifier: Apache-2.0
"""The lists of prefixes: those of the nodes' addresses, and the deny list."""

from collections.abc import Iterable

from bpf.errors import BpfError
from bpf.layout.address import Network
from bpf.layout.conf import ConfFlag
from bpf.layout.limits import PREFIXES
from bpf.layout.prefix import pack_first4, pack_prefix, unpack_prefix
from bpf.maps.conf_map import ConfMap
from bpf.maps.pinned_map import PinnedMap, pack_index


class PrefixMap:
    """A list of prefixes."""

    def __init__(self, prefixes: PinnedMap) -> None:
        self._prefixes = prefixes

    def write(self, prefixes: Iterable[Network]) -> None:
        """Write the whole list."""
        wanted, present = set(prefixes), self.read()
        if len(wanted) > PREFIXES:
            raise BpfError(f"{len(wanted)} prefixes: more than the {PREFIXES} that fit")
        # New prefixes come first: one that replaces others must not leave a gap. If both do not fit, there is one.
        crowded = len(wanted | present) > PREFIXES
        for prefix in present - wanted if crowded else ():
            self._prefixes.delete(pack_prefix(prefix))
        for prefix in wanted - present:
            self._prefixes.update(pack_prefix(prefix), pack_index(1))
        for prefix in () if crowded else present - wanted:
            self._prefixes.delete(pack_prefix(prefix))

    def read(self) -> set[Network]:
        """Return the list."""
        return {unpack_prefix(key) for key in self._prefixes.read_keys()}


class NodePrefixes:
    """The prefixes of the nodes' addresses: tunnels from anywhere else are not opened."""

    def __init__(self, prefixes: PinnedMap, first4: PinnedMap) -> None:
        self._prefixes = PrefixMap(prefixes)
        self._first4 = first4
        """One of the list, which the program compares before it searches."""

    def write(self, prefixes: Iterable[Network]) -> None:
        """Write the whole list. It holds from the next packet on."""
        wanted = set(prefixes)
        self._prefixes.write(wanted)
        self._first4.set_entry(0, pack_first4(wanted))

    def read(self) -> set[Network]:
        """Return the list."""
        return self._prefixes.read()


class DenyList:
    """The prefixes whose packets to VIPs are dropped, and conf's flag that the list is not empty."""

    def __init__(self, denied: PinnedMap, conf: ConfMap) -> None:
        self._prefixes = PrefixMap(denied)
        self._conf = conf

    def write(self, prefixes: Iterable[Network]) -> None:
        """Write the whole list. It holds from the next packet on."""
        self._prefixes.write(prefixes)
        self._conf.set_flag(ConfFlag.DENY, bool(self.read()))

    def read(self) -> set[Network]:
        """Return the list."""
        return self._prefixes.read()
