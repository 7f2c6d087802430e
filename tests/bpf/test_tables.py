# SPDX-License-Identifier: Apache-2.0
"""The maps' Python side, on real maps."""

import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import numpy as np
import pytest

from bpf import kernel
from bpf.errors import BpfError
from bpf.layout import CHAIN, NODES, SLOTS, MapSpec, MapType, NodeConf, NodeEntry, Protocol, ServiceEntry, ServiceKey
from bpf.tables import Tables

ROWS = 65_536
VIP, OTHER_VIP = IPv4Address("10.99.0.1"), IPv4Address("10.99.0.2")
ECHO = ServiceKey(VIP, Protocol.TCP, 7000)
WEB = ServiceKey(VIP, Protocol.TCP, 80)
ANY = ServiceKey(VIP, Protocol.TCP, 0)
CONF = NodeConf(3, 0x0D, (1, 2))
NODE = NodeEntry(IPv4Address("10.0.0.13"), 0x0D, None)


@pytest.fixture
def folder(bpffs: Path, tmp_path: Path) -> Iterator[Path]:
    path = bpffs / tmp_path.name
    path.mkdir()
    yield path
    for pin in path.iterdir():
        pin.unlink()
    path.rmdir()


@pytest.fixture
def tables(folder: Path) -> Iterator[Tables]:
    tables = Tables.open(folder, ROWS)
    yield tables
    tables.close()


def table(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A row table and deadlines, all different."""
    chooser = np.random.default_rng(seed)
    return (
        chooser.integers(0, NODES, (ROWS, CHAIN), dtype=np.uint16),
        chooser.integers(0, 2**63, ROWS, dtype=np.uint64),
    )


def test_everything_is_read_back_by_the_next_to_open_it(folder: Path) -> None:
    rows, grace = table(1)
    first = Tables.open(folder, ROWS)
    first.set_conf(CONF)
    first.set_node(3, NODE)
    first.set_node(NODES - 1, NODE)
    first.swap_rows(1, rows, grace)
    first.set_service(ECHO, ServiceEntry(1, up=True))
    first.close()

    second = Tables.open(folder, ROWS)
    assert second.conf() == CONF
    assert second.nodes() == {3: NODE, NODES - 1: NODE}
    assert second.services() == {ECHO: ServiceEntry(1, up=True)}
    read, deadlines = second.rows(1), second.grace(1)
    assert read is not None
    assert deadlines is not None
    assert np.array_equal(read, rows)
    assert np.array_equal(deadlines, grace)
    assert second.rows(2) is None
    assert second.missing() == []
    second.close()


def test_what_is_missing_is_named(tables: Tables) -> None:
    assert tables.missing() == ["the node's conf"]
    tables.set_conf(CONF)
    assert tables.missing() == ["the node's own entry (index 3)"]
    tables.set_node(3, NODE)
    assert tables.missing() == []
    tables.set_service(ECHO, ServiceEntry(1, up=True))
    assert tables.missing() == ["rows of 10.99.0.1 TCP port 7000", "grace of 10.99.0.1 TCP port 7000"]
    tables.swap_rows(1, *table(1))
    assert tables.missing() == []


def test_a_swap_replaces_the_whole_table_in_time(tables: Tables) -> None:
    """The bound is ten times what it takes here: it catches a write per row, not a slow machine."""
    start = time.monotonic()
    for seed in range(5):
        rows, grace = table(seed)
        tables.swap_rows(1, rows, grace)
    assert (time.monotonic() - start) / 5 < 0.3
    read = tables.rows(1)
    assert read is not None
    assert np.array_equal(read, rows)


def test_table_of_a_wrong_shape_is_refused(tables: Tables) -> None:
    rows, grace = table(1)
    with pytest.raises(ValueError, match=r"^rows: uint16\(65536, 4\) given, uint16\(65536, 8\) wanted"):
        tables.swap_rows(1, rows[:, :4], grace)
    with pytest.raises(ValueError, match=r"^grace: "):
        tables.swap_rows(1, rows, grace[:100])
    with pytest.raises(ValueError, match=r"^rows: int64"):
        tables.swap_rows(1, rows.astype(np.int64), grace)
    assert tables.rows(1) is None


def raw_services(tables: Tables) -> dict[bytes, bytes | None]:
    fd = tables._fds["services"]
    return {key: kernel.lookup(fd, key, 8) for key in kernel.keys(fd, 8)}


def test_any_port_stands_for_the_ports_as_long_as_there_are_some(tables: Tables) -> None:
    """Fragments and the like are known to be for a VIP by the entry of port 0."""
    ports_only, none = ServiceEntry(0, up=False).pack(), None
    tables.set_conf(CONF)
    tables.set_service(ECHO, ServiceEntry(1, up=True))
    tables.set_service(WEB, ServiceEntry(2, up=True))
    assert raw_services(tables)[ANY.pack()] == ports_only
    assert tables.services().keys() == {ECHO, WEB}

    tables.set_service(ANY, ServiceEntry(3, up=True))
    assert raw_services(tables)[ANY.pack()] == ServiceEntry(3, up=True).pack()
    tables.set_service(WEB, ServiceEntry(2, up=False))
    assert tables.services() == {
        ECHO: ServiceEntry(1, up=True), WEB: ServiceEntry(2, up=False), ANY: ServiceEntry(3, up=True),
    }  # fmt: skip

    tables.del_service(ANY)
    assert raw_services(tables)[ANY.pack()] == ports_only
    tables.del_service(ECHO)
    assert raw_services(tables)[ANY.pack()] == ports_only
    tables.del_service(WEB)
    tables.del_service(WEB)
    assert raw_services(tables) == {}
    assert none not in raw_services(tables).values()


def vip_filter(tables: Tables) -> int:
    return int.from_bytes(tables._array_entry("confs", 0)[:8], "little")


def test_vip_filter_follows_the_services(tables: Tables) -> None:
    tables.set_service(ECHO, ServiceEntry(1, up=True))
    assert vip_filter(tables) == 0  # conf is not there yet
    tables.set_conf(CONF)
    one = vip_filter(tables)
    assert one.bit_count() == 1
    tables.set_service(ServiceKey(OTHER_VIP, Protocol.UDP, 53), ServiceEntry(2, up=True))
    both = vip_filter(tables)
    assert both.bit_count() == 2
    assert tables.conf() == CONF
    tables.set_conf(CONF)
    assert vip_filter(tables) == both
    tables.del_service(ECHO)
    assert vip_filter(tables) == both & ~one


def test_limits(tables: Tables) -> None:
    with pytest.raises(BpfError, match="node index 1024 is not in 1-1023: too many nodes"):
        tables.set_node(NODES, NODE)
    with pytest.raises(BpfError, match="node index 0 is not"):
        tables.set_node(0, NODE)
    with pytest.raises(BpfError, match="service slot 256 is not in 1-255: too many services"):
        tables.set_service(ECHO, ServiceEntry(SLOTS, up=True))


def test_a_pin_of_another_shape_is_not_touched(folder: Path) -> None:
    foreign = kernel.create_map(MapSpec("foreign", MapType.ARRAY, 4, 8, 7))
    kernel.pin(foreign, folder / "nodes")
    with pytest.raises(BpfError, match=r"/nodes: a BPF map of another shape is pinned here"):
        Tables.open(folder, ROWS)
    again = kernel.open_pin(folder / "nodes")
    assert again is not None
    assert kernel.map_id(again) == kernel.map_id(foreign)
