# SPDX-License-Identifier: Apache-2.0
"""Attaching the program to real interfaces, in each mode, and the errors. test_datapath_replacement.py replaces it."""

import ctypes as ct
import errno
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from support import packets
from support.programs import PROGRAMS
from support.veth_datapath import NODE_MAC, ROWS, VIP, Sender, opened, packet, seen
from support.waiting import wait_for

from bpf.attach.datapath import DataPath
from bpf.errors import BpfError
from bpf.kernel.link import XDP_FLAGS_DRV_MODE, XDP_FLAGS_SKB_MODE
from bpf.kernel.xdp import xdp_state

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("veth")]

ROOT = Path(__file__).parents[3]


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
        wire.settimeout(60)
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
            reason = path.fallback_reason or ""
            assert ("generic mode, which is slower (an earlier agent attached it so)" in reason) == (mode == "auto")


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
        wire.settimeout(60)
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
        assert "its driver refused native mode: Operation not supported" in (path.fallback_reason or "")
        path.uplinks[0]._wanted = "generic"
        assert path.fallback_reason is None, "generic mode that was asked for is no fault"


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
