# SPDX-License-Identifier: Apache-2.0
"""Part 2: real frames per second, by TEST_RUN's live mode: over one veth pair, and through the segment lab.

On a veth pair: reflected by the smallest program, reflected by ours, and in one direction into a sink (the generator's
maximum). In the lab: from the router into one server's interface, counted where datagrams reach a server's socket;
with anylb three quarters of them are forwarded to another server first. Prints JSON.
"""

import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench import testrun, xdp
from bench.cluster import SERVERS, anylb_lab, plain_lab
from bench.target import MANY
from bench.xdp_case import CLIENTS, OUTSIDE, VIP
from support import packets

from bpf.attach.datapath import DataPath
from bpf.compiler.source import KERNEL_HEADERS
from bpf.kernel import bpf_map
from bpf.kernel.link import XDP_FLAGS_DRV_MODE, attach_xdp
from topology.demo.cluster import Cluster
from topology.lab.netns import inside_net

FRAMES: Final = 500_000
LAB_FRAMES: Final = 200_000
DISCARD: Final = 9
HEAD: Final = 64
SETTLED_S: Final = 0.05


class Generator:
    """The compiled generator programs; one stream at a time."""

    def __init__(self) -> None:
        os.environ["BCC_KERNEL_SOURCE"] = str(KERNEL_HEADERS)
        from bcc import BPF

        self._module = BPF(text=(Path(__file__).parent / "generator.c").read_text())
        self.fds = {name: self._module.load_func(name, BPF.XDP).fd for name in ("generate", "reflect", "sink")}
        self._stream_fd = self._module["streams"].map_fd
        self._sunk_fd = self._module["sunk"].map_fd

    def sunk(self) -> int:
        """Return the frames that reached the sink."""
        data = bpf_map.lookup(self._sunk_fd, bytes(4), 8 * bpf_map.possible_cpus())
        assert data
        return sum(struct.unpack(f"={len(data) // 8}Q", data))

    def send(self, frame: bytes, ifindex: int, flows: int, count: int) -> float:
        """Send frames by an interface of this thread's network namespace; return the seconds."""
        words = struct.unpack("!10H", frame[14:34])
        others = sum(words[:5]) + sum(words[8:])
        stream = struct.pack("=IIQII", flows, int(IPv4Address(CLIENTS)), 1, others, 0) + frame[:HEAD]
        bpf_map.update(self._stream_fd, bytes(4), stream)
        began = time.monotonic()
        testrun.live(self.fds["generate"], frame, ifindex, count)
        return time.monotonic() - began


@dataclass(frozen=True)
class Stream:
    """A case: `send` sends `count` frames of so many flows and returns seconds; `arrived` counts those that arrived."""

    name: str
    flows: int
    count: int
    send: Callable[[], float]
    arrived: Callable[[], int]


def measured(streams: list[Stream], rounds: int) -> list[dict[str, Any]]:
    """Run streams in turn; return arrived frames per second, and the part of the sent frames that arrived."""
    rates: dict[tuple[str, int], list[float]] = defaultdict(list)
    parts: dict[tuple[str, int], list[float]] = defaultdict(list)
    for _ in range(rounds):
        for stream in streams:
            before = stream.arrived()
            seconds = stream.send()
            time.sleep(SETTLED_S)  # frames still in flight count, the wait does not
            arrived = stream.arrived() - before
            rates[stream.name, stream.flows].append(arrived / seconds)
            parts[stream.name, stream.flows].append(arrived / stream.count)
    base = rates[streams[0].name, streams[0].flows]
    return [
        {
            "case": name,
            "flows": flows,
            "frames_per_s": round(median(rate)),
            "frames_per_s_max": round(max(rate)),
            "ratio_first": round(median(a / b for a, b in zip(rate, base, strict=True)), 2),
            "arrived": round(median(parts[name, flows]), 3),
        }
        for (name, flows), rate in rates.items()
    ]


def _datagram(dst: bytes, port: int) -> bytes:
    datagram = packets.udp(bytes(18), src=CLIENTS, dst=VIP, sport=40000, dport=port)
    datagram = datagram[:6] + bytes(2) + datagram[8:]  # no checksum: addresses vary
    return packets.ethernet(
        packets.ipv4(datagram, src=CLIENTS, dst=VIP, protocol=packets.UDP), dst=dst, src=packets.ROUTER
    ).ljust(HEAD, b"\0")


def _pair(number: int) -> tuple[int, str, bytes]:
    """Make a veth pair; return the near end's index, the far end's name and its MAC."""
    near, far = f"near{number}", f"far{number}"
    subprocess.run(["ip", "link", "add", near, "type", "veth", "peer", "name", far], check=True)
    for name in (near, far):
        subprocess.run(["ip", "link", "set", name, "up"], check=True)
    mac = bytes.fromhex(Path(f"/sys/class/net/{far}/address").read_text().strip().replace(":", ""))
    return socket.if_nametoindex(near), far, mac


def veth(generator: Generator, rounds: int) -> list[dict[str, Any]]:
    """Measure veth pairs in this process's own network namespace."""
    testrun.isolate()
    subprocess.run(["mount", "-t", "sysfs", "sysfs", "/sys"], check=True)  # this namespace's interfaces
    subprocess.run(["mount", "-t", "bpf", "bpf", "/sys/fs/bpf"], check=True)
    held = []
    ends = [_pair(number) for number in range(3)]
    for near, _, _ in ends[1:]:
        held.append(attach_xdp(generator.fds["sink"], near, XDP_FLAGS_DRV_MODE))
    for (_, far, _), program in zip(ends, ("sink", "reflect"), strict=False):
        fd = generator.fds[program]
        held.append(attach_xdp(fd, socket.if_nametoindex(far), XDP_FLAGS_DRV_MODE))
    path = DataPath.open(Path("/sys/fs/bpf/veth"), ends[2][1], "native", xdp.ROWS)
    xdp.fill(path.maps)
    path.attach()

    def stream(name: str, number: int, flows: int) -> Stream:
        near, _, mac = ends[number]
        frame = _datagram(mac, OUTSIDE.port)
        return Stream(name, flows, FRAMES, lambda: generator.send(frame, near, flows, FRAMES), generator.sunk)

    rows = measured(
        [
            stream("veth: reflected by the least program", 1, 1),
            stream("veth: l2 forward", 2, 1),
            stream("veth: l2 forward", 2, MANY),
            stream("veth: into a sink, one way", 0, 1),
        ],
        rounds,
    )
    path.detach()
    path.close()
    for link in held:
        os.close(link)
    return rows


@contextlib.contextmanager
def _discarding(cluster: Cluster) -> Iterator[Callable[[], int]]:
    """Open sockets on all servers that never read; yield the counter of datagrams that reached them."""
    pids = [cluster.lab.nodes[node].pid for node in SERVERS]
    with contextlib.ExitStack() as stack:
        for pid in pids:
            with inside_net(pid):
                receiver = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            receiver.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # lab/discard.py has the port, too
            receiver.bind((VIP, DISCARD))

        def arrived() -> int:
            total = 0
            for pid in pids:
                names, values = (
                    line.split()[1:]
                    for line in Path(f"/proc/{pid}/net/snmp").read_text().splitlines()
                    if line.startswith("Udp:")
                )
                counted = dict(zip(names, map(int, values), strict=True))
                total += counted["InDatagrams"] + counted["InErrors"]
            return total

        yield arrived


def lab(generator: Generator, rounds: int) -> list[dict[str, Any]]:
    """Measure frames from the router's interface into b1, in the lab without and with anylb."""
    pid = os.getpid()
    with contextlib.ExitStack() as stack:
        streams = []
        for name, make in (("plain, to one server", plain_lab), ("anylb, by one ingress", anylb_lab)):
            cluster = stack.enter_context(make(f"bench-frames-{name.split(',', 1)[0]}-{pid}"))
            # eth2 takes frames to send only once its peer's GRO is switched on while both ends are up (Linux 6.18).
            for state in ("off", "on"):
                cluster.lab.exec("segment", ["ethtool", "-K", "eth6", "gro", state])
            arrived = stack.enter_context(_discarding(cluster))
            frame, router = _datagram(cluster.mac("b1"), DISCARD), cluster.lab.nodes["router"].pid

            def send(frame: bytes = frame, router: int = router) -> float:
                with inside_net(router):
                    return generator.send(frame, socket.if_nametoindex("eth2"), MANY, LAB_FRAMES)

            streams.append(Stream(f"lab: {name}", MANY, LAB_FRAMES, send, arrived))
        return measured(streams, rounds)


def measure(rounds: int) -> list[dict[str, Any]]:
    """Return the rows of bench.json's `frames`. The lab comes first: for the veths this process isolates itself."""
    generator = Generator()
    return [*lab(generator, rounds), *veth(generator, rounds)]


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]))))
