# SPDX-License-Identifier: Apache-2.0
"""The node's conf: what the agent writes into it, and what follows from the services and the deny list."""

from collections.abc import Iterable

from bpf.layout.address import Address
from bpf.layout.conf import (
    ConfFlag,
    NodeConf,
    derived_fields,
    vip_filter,
    with_bank_of,
    with_derived_fields,
    with_one_bank,
)
from bpf.layout.service import ServiceKey
from bpf.maps.pinned_map import PinnedMap


class ConfMap:
    """The conf of this node, an array of one entry."""

    def __init__(self, conf: PinnedMap, services: PinnedMap, denied: PinnedMap) -> None:
        self._conf = conf
        self._services = services
        self._denied = denied

    def write(self, conf: NodeConf) -> None:
        """Write what the program knows of its own node.

        The program reads while this is written, a word at a time. So the key of the other epoch is written before
        `two_banks` is set, and stays when that is cleared.
        """
        before = self._conf.entry(0)
        flags = derived_fields(before)[1] & ~ConfFlag.DENY
        if self._denied.read_keys():
            flags |= ConfFlag.DENY
        filter_bits = vip_filter(ServiceKey.unpack(key).vip for key in self._services.read_keys())
        data = conf.pack(filter_bits, flags)
        with_old_key = with_bank_of(data, 1 - conf.bank, before)
        if conf.other is None:
            data = with_old_key
        elif data != with_old_key:
            self._conf.set_entry(0, with_one_bank(data))
        self._conf.set_entry(0, data)

    def read(self) -> NodeConf | None:
        """Return what `write` wrote; None before that."""
        return NodeConf.unpack(self._conf.entry(0))

    def flags(self) -> ConfFlag:
        """Return the flags that the program sees."""
        return derived_fields(self._conf.entry(0))[1]

    def set_flag(self, flag: ConfFlag, on: bool) -> None:
        """Set or clear a flag that follows from another map."""
        conf = self._conf.entry(0)
        filter_bits, flags = derived_fields(conf)
        flags = flags | flag if on else flags & ~flag
        self._conf.set_entry(0, with_derived_fields(conf, filter_bits, flags))

    def vip_filter(self) -> int:
        """Return the VIP filter that the program sees."""
        return derived_fields(self._conf.entry(0))[0]

    def set_vip_filter(self, vips: Iterable[Address]) -> None:
        """Write the VIP filter, unless there is no conf yet: a service without conf would be handled wrongly."""
        conf = self._conf.entry(0)
        if NodeConf.unpack(conf):
            flags = derived_fields(conf)[1]
            self._conf.set_entry(0, with_derived_fields(conf, vip_filter(vips), flags))
