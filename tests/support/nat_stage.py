# SPDX-License-Identifier: Apache-2.0
"""The NAT program on packets in memory (BPF_PROG_TEST_RUN), and a small world: what this node, number 1, knows.

    clients 10.1.0.0/16 ── router ── nodes 1..8 (VIP 10.99.0.1, pool 10.255.0.0/31) ── backends 10.9.0.11, .12

The same with IPv6. Every row has the chain that `set_chain` gives.
"""

import contextlib
import os
from collections import Counter as Tally
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from pathlib import Path
from typing import Final, Self

import numpy as np
from support import packets
from support.counted import counted
from support.programs import PROGRAMS
from support.testrun import Runner

from bpf.attach.datapath import DataPath
from bpf.kernel import bpf_map
from bpf.kernel.pin import open_pin
from bpf.layout.address import Address
from bpf.layout.conf import ConfFlag, NodeConf, OtherEpoch
from bpf.layout.counter import Counter
from bpf.layout.limits import CHAIN
from bpf.layout.map_spec import NatShape
from bpf.layout.nat import NAT_ROWS, NatConf, endpoint, row_of_slot, slot_of
from bpf.layout.nat_backend import BackendEntry, Balance, Choice, NatHop, NatServiceEntry
from bpf.layout.node import NodeEntry
from bpf.layout.service import Affinity, Forward, Protocol, ServiceEntry, ServiceKey
from bpf.layout.session import Session, Tag
from bpf.layout.uplink import UplinkEntry
from bpf.maps.maps import Maps
from bpf.maps.nat_maps import NatMaps
from bpf.maps.session_map import SessionMap
from bpf.reference.flow_hash import flow_hash
from bpf.reference.session import Place, place_of

SESSIONS: Final = 1 << 16
BUCKET_BITS: Final = 1
KEY, OTHER_KEY = bytes(range(16)), bytes(range(1, 17))
TABLE: Final = 15
POOLS: Final = {4: IPv4Network("10.255.0.0/31"), 6: IPv6Network("fd00:ff::/127")}
VIPS: Final[dict[int, Address]] = {4: IPv4Address("10.99.0.1"), 6: IPv6Address("2001:db8:99::1")}
CLIENTS: Final[dict[int, Address]] = {4: IPv4Address("10.1.0.2"), 6: IPv6Address("2001:db8:1::2")}
TCP_PORT, UDP_PORT = 80, 53
SERVICES: Final = {(4, Protocol.TCP): 1, (4, Protocol.UDP): 2, (6, Protocol.TCP): 3, (6, Protocol.UDP): 4}
"""Slots."""
BACKENDS: Final[dict[int, tuple[Address, ...]]] = {
    4: (IPv4Address("10.9.0.11"), IPv4Address("10.9.0.12")),
    6: (IPv6Address("2001:db8:9::11"), IPv6Address("2001:db8:9::12")),
}
BACKEND_PORT: Final = 8080
HOP_TO_BACKENDS, HOP_TO_CLIENTS = 1, 4096
BACKENDS_MAC, CLIENTS_MAC = packets.mac("02:00:00:00:09:01"), packets.mac("02:00:00:00:00:fe")
LIMIT_REPLY_TOO_BIG, LIMIT_REPLY_RESET = 1, 3  # enum rate_limit of lb.h
VERDICTS: Final = ("aborted", "drop", "pass", "tx", "redirect")
FOREVER_NS: Final = 2**63
VLAN: Final = 5
"""The only one whose frames are the program's."""


@dataclass(frozen=True)
class Flow:
    """A client's flow to the service of its family and protocol."""

    family: int
    protocol: Protocol
    client: Address
    client_port: int

    @property
    def vip(self) -> Address:
        return VIPS[self.family]

    @property
    def vip_port(self) -> int:
        return TCP_PORT if self.protocol is Protocol.TCP else UDP_PORT

    @property
    def hash(self) -> int:
        return self.hash_by(KEY)

    def hash_by(self, key: bytes) -> int:
        """Return the hash by the key of an epoch."""
        return flow_hash(key, self.client, self.client_port, self.vip, self.vip_port)

    @property
    def row(self) -> int:
        return self.hash & (NAT_ROWS - 1)

    @property
    def place(self) -> Place:
        return self.place_by(KEY)

    def place_by(self, key: bytes) -> Place:
        """Return where the flow's session may be by the key of an epoch."""
        number = self.hash_by(key)
        return place_of(number, number & (NAT_ROWS - 1), BUCKET_BITS)

    def session(self, slot: int, backend: int = 0) -> Session:
        """Return the session that the flow has in a slot, with the first or the second backend."""
        nat, nat_port = endpoint(POOLS[self.family], slot)
        return Session(
            self.protocol, self.client, self.client_port, self.vip, self.vip_port, BACKENDS[self.family][backend],
            BACKEND_PORT, nat, nat_port, backend_index(self.family, backend), SERVICES[self.family, self.protocol],
        )  # fmt: skip


def open_nat(folder: Path, sessions: int = SESSIONS) -> DataPath:
    """Open the data path of nodes that do NAT; verifying it takes longer than most tests."""
    return DataPath.open(folder, "lo", rows=NAT_ROWS, cache_dir=PROGRAMS, nat=NatShape(sessions))


def backend_index(family: int, number: int) -> int:
    """Return a backend's index in the maps, by its number in BACKENDS."""
    return (1 if family == 4 else 3) + number


class NatStage:
    """The program, not attached to any interface, with the world in its maps."""

    def __init__(self, maps: Maps, fd: int) -> None:
        """`fd` is the program's, which has these maps."""
        self.maps, self.fd = maps, fd
        assert maps.nat
        assert maps.sessions
        self.nat: NatMaps = maps.nat
        self.sessions: SessionMap = maps.sessions
        self._runner = Runner(fd)
        self._write_node()
        self._write_services()

    @classmethod
    @contextlib.contextmanager
    def opened(cls, folder: Path) -> Iterator[Self]:
        """Make a program and maps of its own, with pins in a new folder."""
        with contextlib.closing(open_nat(folder)) as path, cls.of(path, folder) as made:
            yield made

    @classmethod
    @contextlib.contextmanager
    def of(cls, path: DataPath, folder: Path) -> Iterator[Self]:
        """Return the stage of a data path whose pins are in a folder."""
        assert path.maps.nat_shape
        fd = open_pin(next(folder.glob(f"program0_*_{path.maps.nat_shape.sessions}")))
        assert fd is not None
        try:
            yield cls(path.maps, fd)
        finally:
            os.close(fd)

    def _write_node(self) -> None:
        self.maps.uplinks.write(0, UplinkEntry(packets.HERE, 1))
        self.maps.vlans.write((VLAN,))
        self.use_epochs(None)
        self.maps.node_prefixes.write([ip_network("10.0.0.0/24"), ip_network("2001:db8::/64")])
        self.silence(())
        self.write_conf()
        self.set_chain([1])

    def _write_services(self) -> None:
        for (family, protocol), slot in SERVICES.items():
            port = TCP_PORT if protocol is Protocol.TCP else UDP_PORT
            service = ServiceEntry(slot, True, Affinity.FIVE_TUPLE, Forward.L2, nat=True)
            self.maps.services.write(ServiceKey(VIPS[family], protocol, port), service)
            choices = [Choice(backend_index(family, number)) for number in (0, 1)]
            self.nat.write_service(slot, NatServiceEntry(Balance.ROUND_ROBIN, choices=choices))
        for family, addresses in BACKENDS.items():
            for number, address in enumerate(addresses):
                self.nat.write_backend(
                    backend_index(family, number), BackendEntry(address, BACKEND_PORT, HOP_TO_BACKENDS)
                )
        self.nat.write_hop(HOP_TO_BACKENDS, NatHop(BACKENDS_MAC))
        self.nat.write_hop(HOP_TO_CLIENTS, NatHop(CLIENTS_MAC))

    def write_conf(self, **more: object) -> None:
        """Write the conf; `more`: other fields of NatConf than usual."""
        hops = {"hop4": HOP_TO_CLIENTS, "hop6": HOP_TO_CLIENTS}
        conf = NatConf(SESSIONS, TABLE, POOLS[4], POOLS[6], Forward.L2, mss4=1300, mss6=1280, **hops)
        self.nat.write_conf(replace(conf, **more))  # type: ignore[arg-type]

    def silence(self, silent: Collection[int], awaited: Collection[int] = ()) -> None:
        """Have just these nodes be silent; of some the connections may come back."""
        for index in range(1, 9):
            mac = packets.mac(f"02:00:00:00:00:{index:02x}")
            address, address6 = IPv4Address(f"10.0.0.{10 + index}"), IPv6Address(f"2001:db8::{10 + index:x}")
            until_ns = FOREVER_NS if index in awaited else 0
            entry = NodeEntry(address, 10 + index, mac, address6=address6)
            self.maps.nodes.write(index, replace(entry, silent=index in silent, drop_until_ns=until_ns))
        self.maps.conf.set_flag(ConfFlag.SILENT, bool(silent))

    def use_epochs(self, other: OtherEpoch | None) -> None:
        """Use the epoch of KEY, whose chains are in bank 0, and another one in bank 1, or none."""
        ends = IPv4Address("10.0.0.11"), IPv6Address("2001:db8::b")
        self.maps.conf.write(NodeConf(1, 11, KEY, 1_000_000_000, 4_000_000_000, *ends, other=other))

    def set_chain(self, chain: Sequence[int], grace: bool = False, bank: int = 0) -> None:
        rows = np.zeros((NAT_ROWS, CHAIN), np.uint16)
        rows[:, : len(chain)] = chain
        self.maps.tables.swap(TABLE, rows, np.full(NAT_ROWS, FOREVER_NS if grace else 0, np.uint64), bank)

    def send(self, frame: bytes) -> tuple[str, bytes]:
        """Return the program's verdict and the frame after it."""
        verdict, after = self._runner.run(frame)
        return VERDICTS[verdict], after

    def observe(self, frame: bytes) -> tuple[str, bytes, Tally[Counter]]:
        """Return what was counted, too, of any service."""
        before = self.counted()
        verdict, after = self.send(frame)
        return verdict, after, self.counted() - before

    def counted(self) -> Tally[Counter]:
        """Return what was counted so far."""
        events: Tally[Counter] = Tally()
        for (_, event), count in counted(self.maps).items():
            events[event] += count
        return events

    def refill(self) -> None:
        """Reset the rate limits of replies."""
        for limit in (LIMIT_REPLY_TOO_BIG, LIMIT_REPLY_RESET):
            bpf_map.update(
                self.maps.pinned["spent"].fd, limit.to_bytes(4, "little"), bytes(8 * bpf_map.possible_cpus())
            )

    def clear(self) -> None:
        """Forget all sessions."""
        self.sessions.tags[:] = 0
        self.nat.loads[:] = 0

    def tag(self, slot: int) -> Tag:
        return Tag.unpack(int(self.sessions.tags[slot]))

    def put(self, slot: int, session: Session, tag: Tag) -> None:
        """Write a session into a slot, as if it were known."""
        self.sessions.write(slot, session)
        self.sessions.tags[slot] = tag.pack()


def slot_in(family: int, address: Address, port: int) -> int:
    """Return the slot of a NAT endpoint."""
    return slot_of(POOLS[family], address, port)


def row_in(slot: int) -> int:
    return row_of_slot(slot)
