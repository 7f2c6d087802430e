# SPDX-License-Identifier: Apache-2.0
"""Attaching the program to a real interface, replacing it under traffic, taking it over, and the errors.

this namespace:  wire ──── node     (a veth; the program sits on `node`, packets are sent into `wire`)
"""

import ctypes as ct
import errno
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from ipaddress import IPv4Address
from pathlib import Path

import numpy as np
import pytest
from support import packets
from support.programs import PROGRAMS
from support.waiting import wait_for

from bpf.attach.datapath import DataPath
from bpf.errors import BpfError
from bpf.kernel import bpf_map
from bpf.kernel.link import XDP_FLAGS_DRV_MODE, XDP_FLAGS_SKB_MODE
from bpf.kernel.pin import open_pin
from bpf.kernel.xdp import xdp_state
from bpf.layout.conf import NodeConf
from bpf.layout.limits import CHAIN
from bpf.layout.map_spec import TAIL_CALLS
from bpf.layout.node import NodeEntry
from bpf.layout.service import Protocol, ServiceEntry, ServiceKey
from bpf.maps.pinned_map import pack_index

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("veth")]

ROWS = 4096
VIP = "10.99.0.1"
NODE_MAC = packets.mac("02:00:00:00:00:01")
ROOT = Path(__file__).parents[3]


@pytest.fixture
def veth(netns: None, runner: Callable[..., None]) -> None:
    runner("ip", "link", "add", "node", "address", "02:00:00:00:00:01", "type", "veth", "peer", "name", "wire")
    for end in ("node", "wire"):
        Path(f"/proc/sys/net/ipv6/conf/{end}/disable_ipv6").write_text("1")  # no packets but ours
        runner("ip", "link", "set", end, "up")


@pytest.fixture
def pins(bpffs: Path, tmp_path: Path) -> Iterator[Path]:
    folder = bpffs / tmp_path.name
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def fill(path: DataPath) -> None:
    """One service whose rows all belong to another node, so that every packet is forwarded."""
    maps = path.maps
    rows = np.zeros((maps.row_count, CHAIN), np.uint16)
    rows[:, 0] = 2
    maps.conf.write(NodeConf(1, 11, bytes(16)))
    for index in (1, 2):
        maps.nodes.write(index, NodeEntry(IPv4Address(f"10.0.0.1{index}"), 10 + index, bytes([2, 0, 0, 0, 0, index])))
    maps.tables.swap(1, rows, np.zeros(maps.row_count, np.uint64))
    maps.services.write(ServiceKey(IPv4Address(VIP), Protocol.TCP, 7000), ServiceEntry(1, up=True))


def opened(pins: Path, interfaces: str | list[str] = "node", **options: object) -> DataPath:
    path = DataPath.open(pins, interfaces, rows=ROWS, cache_dir=PROGRAMS, **options)  # type: ignore[arg-type]
    fill(path)
    return path


def packet(options: bytes = b"") -> bytes:
    ends = {"src": "10.1.0.2", "dst": VIP}
    segment = packets.tcp(sport=40000, dport=7000, **ends)
    whole = packets.ipv4(segment, protocol=packets.TCP, options=options, **ends)
    return packets.ethernet(whole, dst=NODE_MAC, src=packets.ROUTER)


PACKETS = {"plain": packet(), "general": packet(options=b"\1\1\1\1")}
"""By the program that handles it: the first, or the one that its tail call leads to."""


class Sender:
    """A thread that sends a packet into the wire until `stop`, and counts."""

    def __init__(self, kind: str = "plain") -> None:
        self._frame = PACKETS[kind]
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._socket.bind(("wire", 0))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.sent = 0

    def _run(self) -> None:
        while not self._stop.wait(0.0002):
            for _ in range(10):
                self._socket.send(self._frame)
            self.sent += 10

    def __enter__(self) -> "Sender":
        self._thread.start()
        return self

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._socket.close()


def seen(path: DataPath) -> int:
    return path.maps.counters.read()[1]["rx"]


def test_attach_and_detach(pins: Path) -> None:
    with closing(opened(pins)) as path:
        assert path.mode is None
        with Sender() as sender:
            wait_for(lambda: sender.sent > 100)
        assert seen(path) == 0

        path.attach()
        assert path.attached()
        assert path.mode == "native"
        assert path.fallback_reason is None
        print(f"the verifier took {path.program.verified_insns} steps of 1,000,000")
        assert path.program.verified_insns < 250_000
        with Sender() as sender:
            wait_for(lambda: seen(path) > 100)
        wait_for(lambda: seen(path) == sender.sent)

        path.detach()
        path.detach()
        assert not path.attached()
        assert xdp_state(socket.if_nametoindex("node")).prog_id == 0
        assert not pins.exists()


@pytest.mark.parametrize("mode", ["native", "generic"])
def test_forwarded_packet_leaves_by_the_wire(pins: Path, mode: str, runner: Callable[..., None]) -> None:
    runner("ethtool", "-K", "wire", "gro", "on")  # what a veth wants of its peer for packets that XDP sends
    with (
        closing(opened(pins, mode=mode)) as path,
        closing(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(packets.IPV4))) as wire,
    ):
        path.attach()
        wire.bind(("wire", packets.IPV4))
        wire.settimeout(5)
        wire.send(packet())
        assert wire.recv(2048) == packets.mac("02:00:00:00:00:02") + packets.marker(1, 11) + packet()[12:]


@pytest.mark.parametrize("mode", ["native", "generic"])
def test_configured_mode(pins: Path, mode: str) -> None:
    with closing(opened(pins, mode=mode)) as path:
        path.attach()
        assert path.mode == mode
        with Sender() as sender:
            wait_for(lambda: seen(path) > 100)
        wait_for(lambda: seen(path) == sender.sent)


def test_next_attach_changes_the_mode(pins: Path) -> None:
    for mode in ("native", "generic", "auto", "native"):
        with closing(opened(pins, mode=mode)) as path:
            path.attach()
            assert path.mode == ("generic" if mode == "auto" else mode)


def test_jumbo_frames_in_native_mode_with_frags(pins: Path, runner: Callable[..., None]) -> None:
    """A frame in several pieces is forwarded whole, though the program sees only the first of them."""
    for end in ("node", "wire"):
        runner("ip", "link", "set", end, "mtu", "9000")
    runner("ethtool", "-K", "wire", "gro", "on")
    ends = {"src": "10.1.0.2", "dst": VIP}
    segment = packets.tcp(bytes(8000), sport=40000, dport=7000, **ends)
    jumbo = packets.ethernet(packets.ipv4(segment, protocol=packets.TCP, **ends), dst=NODE_MAC, src=packets.ROUTER)
    with (
        closing(opened(pins, mode="native")) as path,
        closing(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(packets.IPV4))) as wire,
    ):
        path.attach()
        assert path.mode == "native"
        wire.bind(("wire", packets.IPV4))
        wire.settimeout(5)
        wire.send(jumbo)
        assert wire.recv(16384) == packets.mac("02:00:00:00:00:02") + packets.marker(1, 11) + jumbo[12:]


def test_driver_without_xdp(pins: Path, runner: Callable[..., None]) -> None:
    """A bridge has no XDP of its own."""
    runner("ip", "link", "add", "bridge", "type", "bridge")
    runner("ip", "link", "set", "bridge", "up")
    with closing(opened(pins, "bridge", mode="native")) as path:
        with pytest.raises(
            BpfError, match=r"^bridge: cannot attach XDP in native mode: .*lower the MTU, or use xdp mode auto$"
        ):
            path.attach()
        assert not path.attached()
    with closing(opened(pins, "bridge")) as path:
        path.attach()
        assert path.mode == "generic"
        assert (path.fallback_reason or "").startswith("bridge: cannot attach XDP in native mode: ")


def test_several_interfaces(pins: Path, runner: Callable[..., None]) -> None:
    """Each has its program; one that is no longer listed is detached; their order may change."""
    runner("ip", "link", "add", "node2", "type", "veth", "peer", "name", "wire2")

    def programs() -> dict[str, bool]:
        return {name: bool(xdp_state(socket.if_nametoindex(name)).prog_id) for name in ("node", "node2")}

    with closing(opened(pins, ["node", "node2"])) as path:
        path.attach()
        assert path.modes == {"node": "native", "node2": "native"}
        assert [path.maps.uplinks.read(n).ifindex for n in (0, 1)] == [
            socket.if_nametoindex(name) for name in ("node", "node2")
        ]
        with Sender() as sender:
            wait_for(lambda: seen(path) > 100)
        wait_for(lambda: seen(path) == sender.sent)
    with closing(opened(pins, ["node2", "node"])) as path:
        assert path.maps.uplinks.read(0).ifindex == socket.if_nametoindex("node"), (
            "its packets still come by this place"
        )
        with Sender() as sender:
            before = seen(path)
            wait_for(lambda: seen(path) > before + 100)
        path.attach()
        assert path.attached()
        assert path.maps.uplinks.read(0).ifindex == socket.if_nametoindex("node2")
    with closing(opened(pins, "node")) as path:
        path.attach()
        assert programs() == {"node": True, "node2": False}
        path.detach()
    assert programs() == {"node": False, "node2": False}
    assert not pins.exists()


def test_duplicate_interfaces_are_refused(pins: Path) -> None:
    for names in ([], ["node", "node"]):
        with pytest.raises(BpfError, match="1 to 8 are wanted, each once"):
            DataPath.open(pins, names)


def test_empty_maps_are_not_attached(pins: Path) -> None:
    with closing(DataPath.open(pins, "node", rows=ROWS, cache_dir=PROGRAMS)) as path:
        with pytest.raises(BpfError, match="node: cannot attach XDP: the maps lack the node's conf"):
            path.attach()
        assert not path.attached()


def test_restarted_process_takes_over(pins: Path) -> None:
    """Packets are handled after the process is killed, and the next process takes over without compiling."""
    code = (
        "import os, sys; from pathlib import Path; sys.path[:0] = ['tests/bpf/attach', 'tests']\n"
        "import test_datapath\n"
        "path = test_datapath.opened(Path(sys.argv[1])); path.attach(); print(path.program.id, flush=True)\n"
        "os.kill(os.getpid(), 9)"
    )
    command = [sys.executable, "-c", code, str(pins)]
    killed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert killed.returncode == -9, killed.stderr
    before = sorted(pin.name for pin in pins.iterdir())

    with closing(DataPath.open(pins, "node", rows=ROWS, cache_dir=PROGRAMS)) as path:
        assert path.program.id == int(killed.stdout)
        assert path.attached()
        assert path.maps.missing() == []
        with Sender() as sender:
            wait_for(lambda: seen(path) > 100)
            path.attach()
        wait_for(lambda: seen(path) == sender.sent)
        assert sorted(pin.name for pin in pins.iterdir()) == before


@pytest.mark.parametrize("kind", PACKETS)
def test_replaced_under_traffic_without_loss(pins: Path, kind: str) -> None:
    """Same maps, another program of the same build, ten times."""
    path = opened(pins)
    path.attach()
    programs = {path.program.id}
    with Sender(kind) as sender:
        for _ in range(10):
            next(pins.glob("program0_*")).unlink()
            sent = sender.sent
            wait_for(lambda: sender.sent > sent + 100)  # noqa: B023
            successor = DataPath.open(pins, "node", rows=ROWS, cache_dir=PROGRAMS)
            assert not successor.attached()
            successor.attach()
            assert successor.attached()
            assert not path.attached()
            path.close()
            path = successor
            programs.add(path.program.id)
    assert len(programs) == 11
    assert sender.sent > 1000
    wait_for(lambda: seen(path) == sender.sent)
    path.close()


@pytest.mark.parametrize("kind", PACKETS)
def test_removed_pins_are_replaced_under_traffic_without_loss(pins: Path, kind: str) -> None:
    """The process that attached the program holds it and its tail calls, pins it again, and another takes its place."""
    with closing(opened(pins)) as path:
        path.attach()
        with Sender(kind) as sender:
            shutil.rmtree(pins)
            assert not path.pinned()
            sent = sender.sent
            wait_for(lambda: sender.sent > sent + 100)
            assert path.attached()
            path.keep_attached()
            with closing(opened(pins)) as successor:
                assert not successor.attached()
                successor.attach()
                assert successor.attached()
                sent = sender.sent
                wait_for(lambda: sender.sent > sent + 100)
                sender.stop()
                wait_for(lambda: seen(path) + seen(successor) == sender.sent)
                assert min(seen(path), seen(successor)) > 0
    assert xdp_state(socket.if_nametoindex("node")).prog_id, "it is pinned"


def test_another_build_replaces_the_old_one_and_its_tail_calls_under_traffic(pins: Path) -> None:
    path = opened(pins)
    path.attach()
    with Sender("general") as sender:
        for ipv6 in (False, True) * 5:
            sent = sender.sent
            wait_for(lambda: sender.sent > sent + 100)  # noqa: B023
            successor = DataPath.open(pins, "node", rows=ROWS, ipv6=ipv6, cache_dir=PROGRAMS)
            assert len(list(pins.glob("programs_*"))) == 2
            successor.attach()
            assert len(list(pins.glob("programs_*"))) == 1
            path.close()
            path = successor
    wait_for(lambda: seen(path) == sender.sent)
    path.close()


@pytest.mark.parametrize("place", range(TAIL_CALLS.entries))
def test_program_without_its_tail_calls_is_built_again(pins: Path, place: int) -> None:
    """Their map is gone, or not full: then packets that are not plain would pass to the kernel."""
    with closing(opened(pins)) as path:
        path.attach()
        first = path.program.id
    (calls,) = pins.glob("programs_*")
    calls.unlink()
    with closing(opened(pins)) as path:
        assert path.program.id != first
        path.attach()
        second = path.program.id
    (calls,) = pins.glob("programs_*")
    fd = open_pin(calls)
    assert fd is not None
    bpf_map.delete(fd, pack_index(place))
    os.close(fd)
    with closing(opened(pins)) as path, Sender("general") as sender:
        assert path.program.id not in (first, second)
        path.attach()
        before = seen(path), sender.sent
        wait_for(lambda: seen(path) > before[0] + 100)


def test_pins_of_a_version_without_tail_calls_are_replaced(pins: Path) -> None:
    """It had one program for each uplink, under the same kind of name."""
    with closing(opened(pins)) as path:
        path.attach()
    (program,) = pins.glob("program0_*")
    program.rename(pins / "program0_0123456789ab")
    (calls,) = pins.glob("programs_*")
    calls.unlink()
    with closing(opened(pins)) as path, Sender() as sender:
        wait_for(lambda: seen(path) > 100)
        path.attach()
        assert path.attached()
        sender.stop()
        wait_for(lambda: seen(path) == sender.sent)
    kinds = sorted(pin.name.split("_")[0] for pin in pins.iterdir())
    assert kinds == ["egress", "link0", "maps", "program0", "programs"]


def test_maps_of_another_layout_replace_the_old_ones_under_traffic(pins: Path) -> None:
    """Each packet meets the old or the new maps: the old ones until the new ones are filled and attached."""
    with closing(opened(pins)) as old:
        old.attach()
        with Sender() as sender, closing(DataPath.open(pins, "node", rows=2 * ROWS, cache_dir=PROGRAMS)) as new:
            with pytest.raises(BpfError, match="the maps lack"):
                new.attach()
            fill(new)
            wait_for(lambda: seen(old) > 100)
            assert (old.attached(), seen(new)) == (True, 0)
            new.attach()
            assert (old.attached(), new.attached()) == (False, True)
            sender.stop()
            wait_for(lambda: seen(old) + seen(new) == sender.sent > seen(old))
        assert sorted(pin.name.split("_")[0] for pin in pins.iterdir()) == [
            "egress",
            "link0",
            "maps",
            "program0",
            "programs",
        ]


def foreign_program(name: bytes) -> int:
    """A program that passes everything: r0 = 2; exit."""
    lib = ct.CDLL("libbpf.so.1")
    instructions = bytes.fromhex("b700000002000000 9500000000000000")
    fd = lib.bpf_prog_load(6, name, b"GPL", instructions, ct.c_size_t(2), None)
    assert fd >= 0, os.strerror(-fd)
    return int(fd)


@pytest.mark.parametrize("flags", [XDP_FLAGS_DRV_MODE, XDP_FLAGS_SKB_MODE])
def test_foreign_program_is_named_and_never_replaced(pins: Path, flags: int) -> None:
    ifindex = socket.if_nametoindex("node")
    path = opened(pins)
    fd = foreign_program(b"firewall")
    assert ct.CDLL("libbpf.so.1").bpf_xdp_attach(ifindex, fd, flags, None) == 0
    theirs = xdp_state(ifindex)
    message = rf"^node: another XDP program is attached \(firewall, id {theirs.prog_id}, .*ip link set node xdp off"
    with pytest.raises(BpfError, match=message):
        path.attach()
    path.close()
    with pytest.raises(BpfError, match=message) as caught:
        DataPath.open(pins, "node", rows=ROWS, cache_dir=PROGRAMS)
    assert caught.value.errno == errno.EEXIST
    assert xdp_state(ifindex) == theirs
    os.close(fd)


def test_interface_that_was_deleted_and_added(pins: Path, runner: Callable[..., None]) -> None:
    """The attachment is gone with the old interface, and its pin is of no use."""
    with closing(opened(pins)) as path:
        path.attach()
    runner("ip", "link", "delete", "node")
    runner("ip", "link", "add", "node", "type", "veth", "peer", "name", "wire")
    with closing(opened(pins)) as path:
        assert not path.attached()
        path.attach()
        assert path.attached()
        assert path.maps.uplinks.read(0).ifindex == socket.if_nametoindex("node")


def test_no_such_interface(pins: Path) -> None:
    with pytest.raises(BpfError, match=r"^no interface eth9 here \(there are: lo, wire, node\)$"):
        DataPath.open(pins, "eth9")
    assert not pins.exists()


def test_no_bpffs(tmp_path: Path) -> None:
    with pytest.raises(BpfError, match=r"not on a BPF file system: mount -t bpf bpf /sys/fs/bpf$"):
        DataPath.open(tmp_path / "anylb", "node")
    assert not (tmp_path / "anylb").exists()


def test_pin_folder_that_cannot_be_made(bpffs: Path, pins: Path) -> None:
    with closing(opened(pins)):
        pin = next(pins.glob("program0_*"))
        with pytest.raises(BpfError, match=r"^cannot make .*: Not a directory; BPF needs root$"):
            DataPath.open(pin / "anylb", "node")


def test_no_rights(pins: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from bpf.attach.datapath import DataPath; from bpf.errors import BpfError\n"
        "try: DataPath.open(Path(sys.argv[1]), 'node')\n"
        "except BpfError as error: print(error)"
    )
    drop = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"]
    command = [*drop, sys.executable, "-c", code, str(pins)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.count("\n") == 1, result.stdout
    assert "Operation not permitted; BPF needs root" in result.stdout


@pytest.mark.parametrize("rows", [0, 2048, 5000, 524_288])
def test_rows_out_of_range(pins: Path, rows: int) -> None:
    with pytest.raises(BpfError, match=f"^rows: {rows} is not a power of two in 4096-262144$"):
        DataPath.open(pins, "node", rows=rows)
