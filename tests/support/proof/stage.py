# SPDX-License-Identifier: Apache-2.0
"""The stage of the proofs: the real program with a world written into its maps, beside real sockets (stage_sockets.py).

Owns translating the oracle's world into maps, and running frames through the program (BPF_PROG_TEST_RUN, ~5 us each).
"""

import mmap
import os
from collections import Counter as Tally
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import numpy as np
from support.counted import counted
from support.oracle.echo import Echo
from support.oracle.packets import Judgement, judge
from support.oracle.world import Node, OtherEpoch, Row, Service, World
from support.programs import PROGRAMS
from support.testrun import Runner

from bpf.attach.datapath import DataPath
from bpf.compiler.build import build_program
from bpf.compiler.source import LbOptions
from bpf.kernel import bpf_map
from bpf.kernel.pin import open_pin
from bpf.layout import conf as layout_conf
from bpf.layout.conf import ConfFlag, NodeConf
from bpf.layout.counter import Counter
from bpf.layout.echo import EchoState
from bpf.layout.fragment import FirstFragment, FragmentKey
from bpf.layout.limits import CHAIN, SLOTS
from bpf.layout.node import NodeEntry
from bpf.layout.service import Affinity, Forward, Protocol, ServiceEntry, ServiceKey
from bpf.layout.uplink import UplinkEntry
from bpf.maps.pinned_map import PinnedMap, pack_index

ROWS = 4096
FOREVER_NS = 2**63
LIMIT_REPLY_TOO_BIG, LIMIT_DELAY = 1, 2  # enum rate_limit of lb.h
AFFINITIES = {5: Affinity.FIVE_TUPLE, 3: Affinity.THREE_TUPLE, 2: Affinity.TWO_TUPLE}
VERDICTS = ("aborted", "drop", "pass", "tx", "redirect")


class Stage:
    """The program, with or without IPv6, not attached to any interface, in the world installed last.

    There are two builds of it, on the same maps: with plain packets handled apart, as it is used, and without.
    """

    BUILDS = ("plain", "general")

    def __init__(self, folder: Path, ipv6: bool = True) -> None:
        self.path = DataPath.open(folder, "lo", rows=ROWS, ipv6=ipv6, cache_dir=PROGRAMS)
        general, maps = folder / "program_general", next(folder.glob("maps_*"))
        build_program(maps, general, LbOptions(ROWS, ipv6=ipv6, plain=False), cache_dir=PROGRAMS)
        self._runners = {
            build: Runner(self._open(pin))
            for build, pin in zip(self.BUILDS, (next(folder.glob("program0_*")), general), strict=True)
        }
        self._now: World | None = None
        self._written: dict[tuple[int, int], Any] = {}

    def _open(self, pin: Path) -> int:
        fd = open_pin(pin)
        assert fd is not None
        return fd

    def close(self) -> None:
        for runner in self._runners.values():
            os.close(runner.fd)
        self.path.close()

    def send(self, frame: bytes, build: str = "plain") -> tuple[str, bytes]:
        """Return the program's verdict and the frame after it."""
        verdict, left = self._runners[build].run(frame)
        return VERDICTS[verdict], left

    def refill(self) -> None:
        """Reset the rate limits of "too big" replies and of fragments that wait: some thousand a second per CPU."""
        spent = self.path.maps.pinned["spent"].fd
        for limit in (LIMIT_REPLY_TOO_BIG, LIMIT_DELAY):
            bpf_map.update(spent, limit.to_bytes(4, "little"), bytes(8 * bpf_map.possible_cpus()))

    def agrees(self, judgement: Judgement, frame: bytes) -> bool:
        """Send a frame through both builds; return whether verdicts and frames are as judged.

        The bytes of a dropped frame do not count.
        """
        for build in self.BUILDS:
            if judgement.counted[-1][1] in ("reply_too_big", "forward_delayed"):
                self.refill()
            verdict, left = self.send(frame, build)
            if judgement.learned:
                self.forget_fragments()
            if verdict != judgement.verdict or (verdict != "drop" and left != judgement.frame):
                return False
        return True

    def forget_fragments(self) -> None:
        """Let the program know the first fragments of the world alone."""
        known = self.path.maps.pinned["first_fragments"]
        for key in known.read_keys():
            known.delete(key)
        assert self._now
        for (client, vip, protocol, number), first in self._now.first_fragments.items():
            known.update(FragmentKey(client, vip, number, protocol).pack(), FirstFragment(FOREVER_NS, *first).pack())

    def counted(self) -> Tally[tuple[int, str]]:
        return Tally({(slot, counter.name.lower()): n for (slot, counter), n in counted(self.path.maps).items()})

    def install(self, world: World) -> None:
        """Write a world into the maps; entries that are the same in the last world are not written."""
        maps, before = self.path.maps, self._now
        if before is None or (_node_conf(world), world.echo) != (_node_conf(before), before.echo):
            maps.uplinks.write(0, UplinkEntry(_mac(world.mac), 1))
            maps.conf.write(_node_conf(world))
            maps.echo_state.write(_echo_state(world.echo))
        if world.other and (before is None or before.other is not world.other):
            self._install_other(world.other, world.echo.epochs[1])
        if before is None or world.vlans != before.vlans:
            maps.vlans.write(world.vlans)
        if before is None or world.prefixes != before.prefixes:
            maps.node_prefixes.write(world.prefixes)
        if before is None or world.denied != before.denied:
            maps.deny_list.write(world.denied)
        known_nodes: dict[int, Node] = dict(before.nodes) if before else {}
        for index, node in world.nodes.items():
            if known_nodes.get(index) != node:
                maps.nodes.write(index, _node_entry(node))
        for index in known_nodes.keys() - world.nodes.keys():
            maps.nodes.write(index, None)
        any_silent = any(node.silent for node in world.nodes.values())
        if any_silent != (ConfFlag.SILENT in maps.conf.flags()):
            maps.conf.set_flag(ConfFlag.SILENT, any_silent)
        if world.any_narrow != (ConfFlag.NARROW in maps.conf.flags()):
            maps.conf.set_flag(ConfFlag.NARROW, world.any_narrow)
        self._write_tables(world.tables, bank=1 if world.other else 0)
        known: dict[Any, Service] = dict(before.services) if before else {}
        for key, service in world.services.items():
            if known.get(key) != service:
                maps.services.write(_service_key(key), _service_entry(service))
        for key in known.keys() - world.services.keys():
            maps.services.remove(_service_key(key))
        self._now = world
        if before is None or world.first_fragments != before.first_fragments:
            self.forget_fragments()

    def _write_tables(self, tables: Mapping[int, Any], bank: int) -> None:
        """Write into the map that is there already: no CPU reads it, and a swap would wait for readers, 15 ms."""
        maps = self.path.maps
        for slot, rows in tables.items():
            if self._written.get((slot, bank)) is rows:
                continue
            self._written[slot, bank] = rows
            encoded = _encoded(rows)
            if maps.tables.missing(slot, bank):
                maps.tables.swap(slot, *encoded, bank)
            else:
                for name, values in zip(("rows", "grace"), encoded, strict=True):
                    _overwrite(maps.pinned[name], slot + bank * SLOTS, values)

    def _install_other(self, other: OtherEpoch, epoch: int) -> None:
        """Put the other epoch into the first bank, so that new flows use another bank than in a world of one epoch."""
        maps = self.path.maps
        self._write_tables(other.tables, bank=0)
        conf = maps.conf.read()
        assert conf is not None
        maps.conf.write(replace(conf, bank=1, other=layout_conf.OtherEpoch(other.secret, epoch, other.alternating)))


def difference(world: World, stage: Stage, frame: bytes, of: str = "generated") -> str:
    """Show what the oracle expects of a frame and what the program does in both builds."""
    judgement = judge(world, frame)
    shown = [f"{of}: {frame.hex()}", f"oracle   {judgement.verdict} {[name for _, name in judgement.counted]}"]
    shown.append(f"         {judgement.frame.hex()}")
    for build in stage.BUILDS:
        verdict, left = stage.send(frame, build)
        shown += [f"{build:8} {verdict}", f"         {left.hex()}"]
    return "\n".join(shown)


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _node_conf(world: World) -> NodeConf:
    me, echo = world.nodes[world.me], world.echo
    conf = NodeConf(world.me, me.tag, world.secret, again_per_s=10**9, again_burst=4 * 10**9, class_e=world.class_e)
    conf = replace(
        conf, drop_other_protocols=world.drop_other, epoch=echo.epochs[0], cluster=echo.cluster, echo_port=echo.port
    )
    return replace(conf, address=me.address, address6=me.address6)


def _echo_state(echo: Echo) -> EchoState:
    return EchoState(FOREVER_NS if echo.fresh else 0, echo.boot, echo.view, echo.tables, echo.ready)


def _node_entry(node: Node) -> NodeEntry:
    return NodeEntry(
        address=node.address or IPv4Address("192.0.2.255"),  # a NodeEntry must have one; all of these nodes do
        tag=node.tag,
        mac=_mac(node.mac) if node.mac else None,
        on_link=node.on_link,
        address6=node.address6,
        outer6=node.outer6,
        ifindex=node.ifindex,
        source=_mac(node.source) if node.source else None,
        vlan=node.vlan,
        mtu=node.mtu,
        silent=node.silent,
        drop_until_ns=FOREVER_NS if node.awaited else 0,
    )


def _service_entry(service: Service) -> ServiceEntry:
    forward = Forward[service.forward.upper()]
    return ServiceEntry(service.slot, service.up, AFFINITIES[service.affinity], forward, service.drop_no_member)


def _service_key(key: tuple[Any, int, int]) -> ServiceKey:
    vip, protocol, port = key
    return ServiceKey(vip, Protocol(protocol), port)


def _encoded(rows: Any) -> tuple[Any, Any]:
    chains, grace = np.zeros((ROWS, CHAIN), np.uint16), np.zeros(ROWS, np.uint64)
    first: Row = rows[0]
    if all(row is first for row in rows):
        chains[:, : len(first.chain)] = first.chain
        grace[:] = FOREVER_NS if first.grace else 0
        return chains, grace
    for number, row in enumerate(rows):
        chains[number, : len(row.chain)] = row.chain
        grace[number] = FOREVER_NS if row.grace else 0
    return chains, grace


def _overwrite(outer: PinnedMap, index: int, values: Any) -> None:
    number = outer.lookup(pack_index(index))
    assert number is not None
    fd = bpf_map.open_map(int.from_bytes(number, "little"))
    try:
        with mmap.mmap(fd, values.nbytes) as memory:
            memory.write(values.tobytes())
    finally:
        os.close(fd)


def counter_names() -> set[str]:
    return {counter.name.lower() for counter in Counter}
