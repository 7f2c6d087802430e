# SPDX-License-Identifier: Apache-2.0
"""The services: their map, the cache in front of it, and the VIP filter that follows from them.

The map also holds an entry for each VIP, and for each (VIP, protocol). By them the program knows that a packet of no
service is to a VIP.
"""

from collections import Counter as Tally
from collections.abc import Mapping
from typing import Final

from bpf.errors import BpfError
from bpf.layout.limits import SLOTS
from bpf.layout.service import Affinity, ServiceEntry, ServiceFlag, ServiceKey
from bpf.maps.conf_map import ConfMap
from bpf.maps.pinned_map import PinnedMap
from bpf.maps.service_cache import ServiceCache

_NO_SERVICE: Final = ServiceEntry(slot=0, up=False).pack(ServiceFlag.PORTS_ONLY)
"""The entry of a VIP."""


class ServiceMap:
    """The services by VIP, protocol and port."""

    def __init__(self, services: PinnedMap, cache: PinnedMap, stats: PinnedMap, conf: ConfMap) -> None:
        self._services = services
        self._cache = ServiceCache(cache.fd)
        self._stats = stats
        self._conf = conf

    def close(self) -> None:
        """Unmap the cache."""
        self._cache.close()

    def write(self, key: ServiceKey, entry: ServiceEntry) -> None:
        """Write a service, as `write_all` does."""
        self.write_all({key: entry})

    def write_all(self, entries: Mapping[ServiceKey, ServiceEntry]) -> None:
        """Write services. Their packets are handled from now on, so swap their rows in before.

        The counters of a new service start at 0.
        """
        known = self.read()
        for key, entry in entries.items():
            if not 0 < entry.slot < SLOTS:
                raise BpfError(f"service slot {entry.slot} is not in 1-{SLOTS - 1}: too many services")
            if key not in known:
                self._stats.clear_entry(entry.slot)
        self._replace_all({**known, **entries})

    def remove(self, key: ServiceKey) -> None:
        """Remove a service, if it is there: its packets pass to the kernel from now on."""
        self._replace_all({other: entry for other, entry in self.read().items() if other != key})

    def entry(self, key: ServiceKey) -> ServiceEntry | None:
        """Return a service; None if there is none with this very key."""
        value = self._services.lookup(key.pack())
        return ServiceEntry.unpack(value) if value else None

    def read(self) -> dict[ServiceKey, ServiceEntry]:
        """Return all services."""
        found = {key: ServiceEntry.unpack(value) for key, value in self._encoded().items()}
        return {key: entry for key, entry in found.items() if entry}

    def restore_cache(self) -> None:
        """Make the cache agree with the map again, if a process was killed between its writes of the two."""
        self._cache.restore(self._encoded())

    def _encoded(self) -> dict[ServiceKey, bytes]:
        """Return the map's entries, with those of a VIP or a protocol."""
        found = {key: self._services.lookup(key) for key in self._services.read_keys()}
        return {ServiceKey.unpack(key): value for key, value in found.items() if value}

    def _replace_all(self, services: Mapping[ServiceKey, ServiceEntry]) -> None:
        """Bring the map and the cache to these services."""
        present, wanted = self._encoded(), _encode(services)
        # The VIPs of both, until no entry leads to a service that is removed.
        self._conf.set_vip_filter(key.vip for key in {*services, *present})
        for key in wanted.keys() | present.keys():
            if present.get(key) == wanted.get(key):
                continue
            if key in wanted:
                self._services.update(key.pack(), wanted[key])
            else:
                self._services.delete(key.pack())
            self._cache.refresh(key, wanted)
        self._conf.set_vip_filter(key.vip for key in services)


def _encode(services: Mapping[ServiceKey, ServiceEntry]) -> dict[ServiceKey, bytes]:
    """Return the map's entries for these services, with those of their VIPs and protocols.

    Fragments carry no ports. They are served as they are where a service needs none for its hash and is alone for its
    VIP and protocol. Otherwise they are collected by the table of the service with the lowest port, the same one on all
    nodes. Services of mode nat have no tables, and drop fragments: others come first.
    """
    entries: dict[ServiceKey, bytes] = {}
    any_port = {key: key.any_port() for key in services}
    lowest = {
        any_port[key]: entry for key, entry in sorted(services.items(), key=lambda one: (not one[1].nat, -one[0].port))
    }
    same = Tally(any_port.values())
    for key, entry in services.items():
        fragments = same[any_port[key]] == 1 and entry.affinity is Affinity.TWO_TUPLE
        flags = ServiceFlag.FRAGMENTS if fragments else ServiceFlag(0)
        entries[key.of_vip()] = _NO_SERVICE
        if any_port[key] not in services:
            entries[any_port[key]] = lowest[any_port[key]].pack(flags | ServiceFlag.PORTS_ONLY)
        entries[key] = entry.pack(flags)
    return entries
