# SPDX-License-Identifier: Apache-2.0
"""The egress filter on real interfaces: next to others' filters, taken over, replaced, removed; on real SYN-ACKs, and
on tunnels of an unprivileged process next to those of the XDP program.

this namespace:  wire ──── node     (a veth; the filter sits on `node`; a listener at the VIP answers SYNs from `wire`)
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path

import numpy as np
import pytest
from pyroute2 import IPRoute
from support import packets
from support.programs import PROGRAMS

from bpf.attach.datapath import DataPath, detach_all
from bpf.attach.uplink import Mode
from bpf.kernel.program import load_program
from bpf.layout.conf import NodeConf
from bpf.layout.limits import CHAIN
from bpf.layout.node import NodeEntry
from bpf.layout.service import Forward, Protocol, ServiceEntry, ServiceKey

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("veth")]

ROWS = 4096
VIP, CLIENT, PORT, LIMIT = "10.99.0.1", "10.1.0.2", 443, 1432
NODE_MAC, WIRE_MAC = packets.mac("02:00:00:00:00:01"), packets.mac("02:00:00:00:00:02")


@pytest.fixture
def veth(netns: None, runner: Callable[..., None]) -> None:
    runner("ip", "link", "add", "node", "address", "02:00:00:00:00:01", "type", "veth",
           "peer", "name", "wire", "address", "02:00:00:00:00:02")  # fmt: skip
    for end in ("node", "wire"):
        Path(f"/proc/sys/net/ipv6/conf/{end}/disable_ipv6").write_text("1")
        runner("ip", "link", "set", end, "up")


@pytest.fixture
def pins(bpffs: Path, tmp_path: Path) -> Iterator[Path]:
    folder = bpffs / tmp_path.name
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def opened(pins: Path, interfaces: str | list[str] = "node") -> DataPath:
    path = DataPath.open(pins, interfaces, rows=ROWS, cache_dir=PROGRAMS)
    path.maps.mss.write({ServiceKey(ip_address(VIP), Protocol.TCP, PORT): LIMIT})
    return path


def shown(*what: str) -> str:
    return subprocess.run(["tc", *what], capture_output=True, text=True, check=True).stdout


def filters(interface: str = "node") -> list[str]:
    """The egress filters in their order: "preference text"."""
    found = shown("filter", "show", "dev", interface, "egress")
    one = re.compile(r"pref (\d+) bpf chain 0 handle \S+ (?:flowid \S+ )?(.+) not_in_hw( id \d+)?")
    return [f"{match[1]} {match[2]}{match[3] or ''}" for match in one.finditer(found)]


def has_clsact(interface: str = "node") -> bool:
    return "clsact" in shown("qdisc", "show", "dev", interface)


def add_other(preference: int, verdict: str) -> None:
    """Another's filter: classic BPF that answers a fixed TC_ACT_*."""
    subprocess.run(
        ["tc", "filter", "add", "dev", "node", "egress", "pref", str(preference), "protocol", "all", "bpf",
         "da", "bytecode", f"1,6 0 0 {verdict}"],
        check=True,
    )  # fmt: skip


def test_filter_is_added_once_and_removed_with_its_qdisc(pins: Path) -> None:
    with closing(opened(pins)) as path:
        assert filters() == []
        assert path.egress.attach(["node"]) == {"node": None}
        (first,) = filters()
        assert first.startswith("1 anylb egress ")
        assert path.egress.attach(["node"]) == {"node": None}
        assert filters() == [first]
    with closing(opened(pins)) as again:  # the next agent finds the program and its filter
        again.egress.attach(["node"])
        assert filters() == [first]
        assert detach_all(pins)
        assert not detach_all(pins)
    assert filters() == []
    assert not has_clsact()
    assert not pins.exists()


def test_another_build_replaces_the_filter(pins: Path, runner: Callable[..., None]) -> None:
    with closing(opened(pins)) as old:
        old.egress.attach(["node"])
        (before,) = filters()
        next(pins.glob("egress_*")).rename(pins / "egress_0")  # as if its digest were another
        with closing(opened(pins)) as new:
            assert new.egress.attach(["node"]) == {"node": None}
            (after,) = filters()
        assert after != before
        assert after.split()[0] == before.split()[0]


def test_filters_on_interfaces_that_are_no_longer_listed_are_removed(pins: Path) -> None:
    """The next agent removes an earlier one's filters elsewhere when it first attaches."""
    with closing(opened(pins)) as path:
        path.egress.attach(["node", "wire"])
        assert len(filters("wire")) == 1
    with closing(opened(pins)) as path:
        path.egress.attach(["node"])
        assert (len(filters("node")), filters("wire"), has_clsact("wire")) == (1, [], False)
    with closing(opened(pins)) as path:
        path.egress.attach([])
        assert not filters()


def test_others_filters_and_qdiscs_are_kept(pins: Path, runner: Callable[..., None]) -> None:
    runner("tc", "qdisc", "add", "dev", "node", "clsact")
    add_other(1, "0")
    add_other(5, "0")
    others = filters()
    with closing(opened(pins)) as path:
        assert path.egress.attach(["node"]) == {"node": None}
        assert len(filters()) == 3
        assert filters()[0].startswith("1 ")
    detach_all(pins)
    assert filters() == others
    assert has_clsact()


def test_qdisc_of_ours_that_others_use_is_kept(pins: Path) -> None:
    with closing(opened(pins)) as path:
        path.egress.attach(["node"])
    add_other(3, "0")
    others = [one for one in filters() if "anylb" not in one]
    detach_all(pins)
    assert filters() == others
    assert has_clsact()


def test_errors_are_returned_by_interface(pins: Path, runner: Callable[..., None]) -> None:
    """An ingress qdisc has clsact's place, or an interface is gone: other interfaces still get the filter."""
    runner("tc", "qdisc", "add", "dev", "node", "ingress")
    with closing(opened(pins)) as path:
        errors = path.egress.attach(["node", "nowhere", "wire"])
        assert errors["node"] == "node: cannot add a clsact qdisc: an ingress qdisc is there"
        assert (errors["nowhere"] or "").startswith("nowhere: cannot read its filters: ")
        assert errors["wire"] is None
        assert "anylb" not in shown("filter", "show", "dev", "node", "ingress")
    detach_all(pins)
    assert "ingress" in shown("qdisc", "show", "dev", "node")


def test_filter_that_others_remove_is_added_again(pins: Path, runner: Callable[..., None]) -> None:
    with closing(opened(pins)) as path:
        path.egress.attach(["node"])
        runner("tc", "qdisc", "del", "dev", "node", "clsact")
        assert path.egress.attach(["node"]) == {"node": None}
        assert len(filters()) == 1


def test_attach_in_a_thread(pins: Path) -> None:
    """As the agent calls it."""
    found: list[dict[str, str | None]] = []
    with closing(opened(pins)) as path:
        thread = threading.Thread(target=lambda: found.append(path.egress.attach([])))
        thread.start()
        thread.join()
    assert found == [{}]


# Real SYN-ACKs


def syn() -> bytes:
    segment = packets.tcp(b"\2\4\5\xb4", src=CLIENT, dst=VIP, sport=40_000, dport=PORT, doff=6)
    packet = packets.ipv4(segment, src=CLIENT, dst=VIP, protocol=packets.TCP)
    return packets.ethernet(packet, dst=NODE_MAC, src=WIRE_MAC)


def push_a_tag() -> None:
    """Add a filter before ours that tags outgoing packets as a VLAN device does: in the metadata, not in the frame."""
    code = "b702000081000000 b703000007000000 8500000012000000 b7000000ffffffff 9500000000000000"
    fd = load_program("tc", "push_a_tag", bytes.fromhex(code))  # bpf_skb_vlan_push(skb, 802.1Q, 7)
    with IPRoute() as netlink:
        index = socket.if_nametoindex("node")
        netlink.tc("add-filter", "bpf", index, 1, parent=0xFFFFFFF3, prio=1, protocol=3, fd=fd, name="tag",
                   classid=1, direct_action=True)  # fmt: skip
    os.close(fd)


def syn_ack() -> tuple[int, int, int, int]:
    """Send a SYN into the wire. Of the SYN-ACK that comes out: its MSS, its checksum, the right one, and what a sender
    leaves there for the network card to complete (the sum of the pseudo-header)."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as wire:
        wire.bind(("wire", 0))
        wire.settimeout(60)
        wire.send(syn())
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            frame = wire.recv(2000)
            at = 14  # the kernel takes the tag out of what a packet socket reads
            segment = frame[at + 20 : at + int.from_bytes(frame[at + 2 : at + 4], "big")]
            if frame[:6] != WIRE_MAC or frame[at + 9] != packets.TCP or segment[13] & 0x12 != 0x12:
                continue
            pseudo = frame[at + 12 : at + 20] + bytes([0, 6]) + len(segment).to_bytes(2, "big")
            whole = packets.checksum(pseudo + segment[:16] + bytes(2) + segment[18:])
            assert segment[20:22] == b"\2\4"
            mss, seen = (int.from_bytes(segment[i : i + 2], "big") for i in (22, 16))
            return mss, seen, whole, packets.checksum(pseudo) ^ 0xFFFF
    raise AssertionError("no SYN-ACK")


@pytest.mark.parametrize("tagged", [False, True])
@pytest.mark.parametrize("offload", ["on", "off"])
def test_real_syn_ack(pins: Path, runner: Callable[..., None], offload: str, tagged: bool) -> None:
    """With checksums that the kernel writes or leaves to the card."""
    runner("ethtool", "-K", "node", "tx", offload)
    runner("ip", "address", "add", "10.1.0.1/24", "dev", "node")
    runner("ip", "address", "add", f"{VIP}/32", "dev", "lo")
    runner("ip", "neigh", "add", CLIENT, "lladdr", "02:00:00:00:00:02", "dev", "node")
    Path("/proc/sys/net/ipv4/conf/all/rp_filter").write_text("0")
    with socket.create_server((VIP, PORT)), closing(opened(pins)) as path:
        assert syn_ack()[0] == 1460
        path.egress.attach(["node"])
        if tagged:
            push_a_tag()
            assert [one.split()[1] for one in filters()] == ["tag", "anylb"]
        mss, seen, whole, unfinished = syn_ack()
        assert mss == LIMIT
        assert seen == (unfinished if offload == "on" else whole)


# Tunnels of an unprivileged process

NODES, MEMBER, OWN = "10.0.0.0/24", "10.0.0.12", "10.0.0.11"
MEMBER_MAC = packets.mac("02:00:00:00:00:03")
TUNNEL = """
import os, socket, sys
os.setgid(65534); os.setuid(65534)
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER: a tunnel has DF
s.setsockopt(socket.SOL_SOCKET, 11, 1)  # SO_NO_CHECK: and no checksum
s.connect((sys.argv[1], int(sys.argv[2])))
s.send(bytes.fromhex(sys.argv[3]))
"""


@contextmanager
def frames_on_the_wire(done: Callable[[bytes], bool]) -> Iterator[list[bytes]]:
    """The frames to the member that leave the node in the block, up to the first one that is `done`."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as wire:
        wire.bind(("wire", 0))
        wire.settimeout(60)
        found: list[bytes] = []
        yield found
        while not (found and done(found[-1])):
            frame = wire.recv(2000)
            if frame[:6] == MEMBER_MAC:
                found.append(frame)


def send_unprivileged(port: int) -> None:
    inner = client_syn().hex()
    subprocess.run([sys.executable, "-c", TUNNEL, MEMBER, str(port), inner], check=True)


def client_syn() -> bytes:
    segment = packets.tcp(src=CLIENT, dst=VIP, sport=40_000, dport=PORT)
    return packets.ipv4(segment, src=CLIENT, dst=VIP, protocol=packets.TCP)


def port_of(frame: bytes) -> int:
    return int.from_bytes(frame[36:38], "big")


@pytest.mark.parametrize("attached", [True, False], ids=["filter", "control"])
def test_unprivileged_process_sends_no_tunnel_to_a_member(
    pins: Path, runner: Callable[..., None], attached: bool
) -> None:
    runner("ip", "address", "add", f"{OWN}/24", "dev", "node")
    runner("ip", "neigh", "add", MEMBER, "lladdr", "02:00:00:00:00:03", "dev", "node")
    with closing(opened(pins)) as path:
        path.maps.node_prefixes.write([ip_network(NODES)])
        path.egress.attach(["node"] if attached else [])
        with frames_on_the_wire(lambda frame: port_of(frame) == 6081) as found:
            send_unprivileged(6080)
            send_unprivileged(6081)
        assert [port_of(frame) for frame in found] == ([6081] if attached else [6080, 6081])
        assert path.maps.counters.read()[0]["drop_forged"] == attached


@pytest.mark.parametrize("mode", ["native", "generic"])
@pytest.mark.parametrize("forward", list(Forward))
def test_what_the_xdp_program_forwards_passes(
    pins: Path, runner: Callable[..., None], forward: Forward, mode: Mode
) -> None:
    """No frame that XDP sends passes tc's egress, by whichever of the ways to leave a veth."""
    runner("ethtool", "-K", "wire", "gro", "on")  # without it a veth loses what comes by XDP
    with closing(DataPath.open(pins, "node", mode, rows=ROWS, cache_dir=PROGRAMS)) as path:
        maps = path.maps
        rows = np.zeros((ROWS, CHAIN), np.uint16)
        rows[:, 0] = 2
        maps.conf.write(NodeConf(1, 11, bytes(16), address=IPv4Address(OWN)))
        maps.nodes.write(1, NodeEntry(IPv4Address(OWN), 11, NODE_MAC))
        maps.nodes.write(2, NodeEntry(IPv4Address(MEMBER), 12, MEMBER_MAC))
        maps.tables.swap(1, rows, np.zeros(ROWS, np.uint64))
        maps.services.write(ServiceKey(ip_address(VIP), Protocol.TCP, PORT), ServiceEntry(1, True, forward=forward))
        maps.node_prefixes.write([ip_network(NODES)])
        path.egress.attach(["node"])
        path.attach()
        with frames_on_the_wire(lambda _: True) as found, socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
            wire.bind(("wire", 0))
            wire.send(packets.ethernet(client_syn(), dst=NODE_MAC, src=WIRE_MAC))
        assert client_syn() in found[0]
        assert maps.counters.read()[1]["forward_first"] == 1
        assert maps.counters.read()[0]["drop_forged"] == 0
