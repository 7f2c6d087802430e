# SPDX-License-Identifier: Apache-2.0
"""Maps: writing and reading back, on real maps."""

import errno
import time
from collections.abc import Iterable
from functools import partial
from ipaddress import IPv4Address, ip_network
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from bpf.errors import BpfError
from bpf.kernel import bpf_map
from bpf.kernel.pin import open_pin, pin_object
from bpf.layout.conf import ConfFlag, NodeConf
from bpf.layout.echo import EchoState
from bpf.layout.limits import CHAIN, NODES, SLOTS
from bpf.layout.map_spec import MapSpec, MapType
from bpf.layout.node import NodeEntry
from bpf.layout.service import Protocol, ServiceEntry, ServiceKey
from bpf.maps.maps import Maps
from bpf.maps.table_map import Swap

ROWS = 65_536
VIP = IPv4Address("10.99.0.1")
ECHO = ServiceKey(VIP, Protocol.TCP, 7000)
WEB = ServiceKey(VIP, Protocol.TCP, 80)
ANY = ServiceKey(VIP, Protocol.TCP, 0)
CONF = NodeConf(3, 0x0D, bytes(16))
NODE = NodeEntry(IPv4Address("10.0.0.13"), 0x0D, None)


def table(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A row table and deadlines, all different."""
    chooser = np.random.default_rng(seed)
    return (
        chooser.integers(0, NODES, (ROWS, CHAIN), dtype=np.uint16),
        chooser.integers(0, 2**63, ROWS, dtype=np.uint64),
    )


def test_next_process_reads_everything_back(folder: Path) -> None:
    rows, grace = table(1)
    first = Maps.open(folder, ROWS)
    first.conf.write(CONF)
    first.nodes.write(3, NODE)
    first.nodes.write(NODES - 1, NODE)
    first.tables.swap(1, rows, grace)
    first.services.write(ECHO, ServiceEntry(1, up=True))
    first.echo_state.write(EchoState(1, 2, 3, 4, ready=True))
    first.close()

    second = Maps.open(folder, ROWS)
    assert second.conf.read() == CONF
    assert second.nodes.read() == {3: NODE, NODES - 1: NODE}
    assert second.services.read() == {ECHO: ServiceEntry(1, up=True)}
    assert second.echo_state.read() == EchoState(1, 2, 3, 4, ready=True)
    read, deadlines = second.tables.rows(1), second.tables.grace(1)
    assert read is not None
    assert deadlines is not None
    assert np.array_equal(read, rows)
    assert np.array_equal(deadlines, grace)
    assert second.tables.rows(2) is None
    assert second.missing() == []
    second.close()


def test_missing_entries_are_named(maps: Maps) -> None:
    assert maps.missing() == ["the node's conf"]
    maps.conf.write(CONF)
    assert maps.missing() == ["the node's own entry (index 3)"]
    maps.nodes.write(3, NODE)
    assert maps.missing() == []
    maps.services.write(ECHO, ServiceEntry(1, up=True))
    assert maps.missing() == ["rows of 10.99.0.1 TCP port 7000", "grace of 10.99.0.1 TCP port 7000"]
    maps.tables.swap(1, *table(1))
    assert maps.missing() == []


def test_swap_replaces_the_whole_table_in_time(maps: Maps) -> None:
    """The bound is ten times what it takes here: it catches a write per row, not a slow machine."""
    start = time.monotonic()
    for seed in range(5):
        rows, grace = table(seed)
        maps.tables.swap(1, rows, grace)
    assert (time.monotonic() - start) / 5 < 0.3
    read = maps.tables.rows(1)
    assert read is not None
    assert np.array_equal(read, rows)


@pytest.mark.parametrize("waits_once", [True, False], ids=["one batch", "a thread for each, before Linux 6.8"])
def test_services_with_equal_tables_share_one_map(
    maps: Maps, waits_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bpf.maps.table_map.batch_waits_once", lambda: waits_once)
    (rows, grace), (other_rows, other_grace) = table(1), table(2)
    one, other = (
        [partial(np.copyto, src=of) for of in contents] for contents in ((grace, rows), (other_grace, other_rows))
    )
    maps.tables.swap_all([Swap((1, 2, 9), *one), Swap((3,), *other, bank=1)])
    assert all(np.array_equal(maps.tables.rows(slot), rows) for slot in (1, 2, 9))
    assert all(np.array_equal(maps.tables.grace(slot), grace) for slot in (1, 2, 9))
    assert len(inner_ids(maps, "rows", (1, 2, 9))) == len(inner_ids(maps, "grace", (1, 2, 9))) == 1
    assert np.array_equal(maps.tables.rows(3, bank=1), other_rows)
    assert maps.tables.rows(3) is None

    maps.tables.swap_all([Swap((2,), other[0]), Swap((9,), *other)])
    assert np.array_equal(maps.tables.rows(2), rows), "only its deadlines have changed"
    assert np.array_equal(maps.tables.grace(2), other_grace)
    assert np.array_equal(maps.tables.rows(9), other_rows)
    assert np.array_equal(maps.tables.rows(1), rows), "what another service no longer shares stays"


def inner_ids(maps: Maps, name: str, indexes: Iterable[int]) -> set[bytes | None]:
    fd = maps.pinned[name].fd
    return {bpf_map.lookup(fd, index.to_bytes(4, "little"), 4) for index in indexes}


def test_table_of_a_wrong_shape_is_refused(maps: Maps) -> None:
    rows, grace = table(1)
    with pytest.raises(ValueError, match=r"^rows: uint16\(65536, 4\) given, uint16\(65536, 8\) wanted"):
        maps.tables.swap(1, rows[:, :4], grace)
    with pytest.raises(ValueError, match=r"^grace: "):
        maps.tables.swap(1, rows, grace[:100])
    with pytest.raises(ValueError, match=r"^rows: int64"):
        maps.tables.swap(1, rows.astype(np.int64), grace)
    assert maps.tables.rows(1) is None


@pytest.mark.parametrize("name", ["node_prefixes", "deny_list"])
def test_prefixes(maps: Maps, name: str) -> None:
    prefixes = getattr(maps, name)
    maps.conf.write(CONF)
    first = {ip_network("10.0.0.0/8"), ip_network("10.0.0.0/16"), ip_network("0.0.0.0/0"), ip_network("2001:db8::/32")}
    prefixes.write(first)
    assert prefixes.read() == first
    second = {ip_network("::/0"), ip_network("10.0.0.0/16")}
    prefixes.write(second)
    assert prefixes.read() == second
    prefixes.write([])
    assert prefixes.read() == set()


@pytest.mark.parametrize(
    ("prefixes", "first"),
    [
        (["10.0.0.0/24"], "0a000000ffffff00"),
        (["10.0.0.0/24", "10.1.0.0/16", "2001:db8::/8"], "0a010000ffff0000"),
        (["2001:db8::/64"], "0000000000000000"),
        (["0.0.0.0/0"], "0000000000000000"),
        ([], "0000000000000000"),
    ],
)
def test_one_node_prefix_is_compared_first(maps: Maps, prefixes: list[str], first: str) -> None:
    """An entry of zeros is none. 0.0.0.0/0 has no mask, so the program finds it in the map alone."""
    maps.node_prefixes.write([ip_network("192.0.2.0/24")])
    maps.node_prefixes.write(ip_network(prefix, strict=False) for prefix in prefixes)
    assert maps.pinned["node_prefix4"].entry(0).hex() == first


def test_conf_has_a_flag_for_the_deny_list(maps: Maps) -> None:
    def flags() -> ConfFlag:
        return maps.conf.flags()

    maps.deny_list.write([ip_network("192.0.2.0/24")])
    maps.conf.write(CONF)
    assert flags() == ConfFlag.DENY
    maps.services.write(ECHO, ServiceEntry(1, up=True))
    assert flags() == ConfFlag.DENY
    maps.deny_list.write([])
    assert flags() == ConfFlag(0)
    maps.deny_list.write([ip_network("192.0.2.0/24")])
    assert flags() == ConfFlag.DENY


def test_limits(maps: Maps) -> None:
    with pytest.raises(BpfError, match="node index 1024 is not in 1-1023: too many nodes"):
        maps.nodes.write(NODES, NODE)
    with pytest.raises(BpfError, match="node index 0 is not"):
        maps.nodes.write(0, NODE)
    with pytest.raises(BpfError, match="service slot 256 is not in 1-255: too many services"):
        maps.services.write(ECHO, ServiceEntry(SLOTS, up=True))


@pytest.mark.parametrize(
    ("name", "step"), [("sessions6", "lower nat.sessions or free memory"), ("nodes", "free memory")]
)
def test_a_map_for_which_there_is_no_memory(monkeypatch: pytest.MonkeyPatch, name: str, step: str) -> None:
    monkeypatch.setattr(bpf_map, "library", lambda: SimpleNamespace(bpf_map_create=lambda *_: -errno.ENOMEM))
    with pytest.raises(BpfError) as raised:
        bpf_map.create_map(MapSpec(name, MapType.ARRAY, 4, 128, 1 << 24))
    assert str(raised.value) == f"cannot make the BPF map {name}: there is no memory for its 2,147 MB; {step}"
    assert raised.value.errno == errno.ENOMEM


def test_pin_of_another_shape_is_not_overwritten(folder: Path) -> None:
    foreign = bpf_map.create_map(MapSpec("foreign", MapType.ARRAY, 4, 8, 7))
    pin_object(foreign, folder / "nodes")
    with pytest.raises(BpfError, match=r"/nodes: a BPF map of another shape is pinned here"):
        Maps.open(folder, ROWS)
    again = open_pin(folder / "nodes")
    assert again is not None
    assert bpf_map.map_id(again) == bpf_map.map_id(foreign)
