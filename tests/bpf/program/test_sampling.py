# SPDX-License-Identifier: Apache-2.0
"""Sampled packets: which ones the filter selects, what a sample holds, and that there is none while it is off."""

from collections.abc import Iterator
from ipaddress import ip_network
from typing import Any

import pytest
from support import packets
from support.packets import HERE, ROUTER

from bpf.layout.counter import Counter
from bpf.layout.sampling import Sample, SampleFilter
from bpf.layout.service import Protocol
from bpf.maps.ring_reader import RingReader

VIP, VIP6 = "10.99.0.1", "2001:db8:99::1"
C = Counter


def frame(client: str = "10.1.0.2", dport: int = 7000, size: int = 20, hop: int = 0) -> bytes:
    ends = {"src": client, "dst": VIP6 if ":" in client else VIP}
    segment = packets.tcp(bytes(size), sport=40000, dport=dport, **ends)
    source = packets.marker(hop, 19) if hop else ROUTER
    if ":" in client:
        ip = packets.ipv6(segment, protocol=packets.TCP, **ends)
        return packets.ethernet(ip, dst=HERE, src=source, ethertype=packets.IPV6)
    return packets.ethernet(packets.ipv4(segment, protocol=packets.TCP, **ends), dst=HERE, src=source)


@pytest.fixture(scope="module")
def reader(program: Any) -> Iterator[RingReader[Sample]]:
    for slot, port in ((1, 7000), (2, 7001)):
        program.set_chain(slot, (2, 3))
        program.serve(slot, Protocol.TCP, port)
        program.set_chain(slot + 2, (1, 3))
        program.serve(slot + 2, Protocol.TCP, port, vip=VIP6)
    opened = program.maps.sampling.open_reader()
    yield opened
    opened.close()


@pytest.fixture
def world(program: Any, reader: RingReader[Sample]) -> Iterator[Any]:
    reader.read()
    yield program
    program.maps.sampling.write(None)


def test_no_sample_while_sampling_is_off(world: Any, reader: RingReader[Sample]) -> None:
    world.maps.sampling.write(SampleFilter())
    world.maps.sampling.write(None)
    world.send(frame())
    assert reader.read() == []


def test_contents_of_samples(world: Any, reader: RingReader[Sample]) -> None:
    world.maps.sampling.write(SampleFilter())
    sent = [frame(), frame(size=1000, hop=1), frame("2001:db8:1::2"), frame("127.0.0.1")]
    after = [world.send(packet)[1] for packet in sent]
    found = reader.read()
    assert [(s.slot, s.event, s.hop) for s in found] == [
        (1, C.FORWARD_FIRST, 0), (1, C.DELIVER_FORWARDED_SYN, 1), (3, C.DELIVER_OWNER, 0), (0, C.DROP_MARTIAN, 0),
    ]  # fmt: skip
    assert [s.length for s in found] == [len(packet) for packet in after]
    assert [s.head for s in found] == [packet[:128] for packet in after]
    assert found[1].prev == 19
    assert [s.ifindex for s in found] == [1] * 4
    assert sorted(s.time_ns for s in found) == [s.time_ns for s in found]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (SampleFilter(slot=1), {0, 3}),
        (SampleFilter(slot=0), {4}),
        (SampleFilter(event=C.DELIVER_OWNER), {2}),
        (SampleFilter(client=ip_network("10.1.0.0/24")), {0, 1}),
        (SampleFilter(client=ip_network("10.1.1.3/32")), {3}),
        (SampleFilter(client=ip_network("0.0.0.0/0")), {0, 1, 3, 4}),
        (SampleFilter(client=ip_network("2001:db8:1::/64")), {2}),
        (SampleFilter(slot=1, client=ip_network("10.1.0.2/32")), {0}),
    ],
)
def test_filter_selects(world: Any, reader: RingReader[Sample], wanted: SampleFilter, expected: set[int]) -> None:
    world.maps.sampling.write(wanted)
    sent = [frame(), frame(dport=7001), frame("2001:db8:1::2"), frame("10.1.1.3"), frame("127.0.0.9")]
    after = [world.send(packet)[1] for packet in sent]
    assert [s.head for s in reader.read()] == [after[i][:128] for i in sorted(expected)]


def test_one_in_many(world: Any, reader: RingReader[Sample]) -> None:
    world.maps.sampling.write(SampleFilter(every=10))
    found = 0
    for _ in range(20):
        for _ in range(200):
            world.send(frame())
        found += len(reader.read())
    assert 280 < found < 520


def test_full_buffer_loses_no_packet(world: Any, reader: RingReader[Sample]) -> None:
    world.maps.sampling.write(SampleFilter())
    assert {world.send(frame())[0] for _ in range(4000)} == {"tx"}
    assert 1000 < len(reader.read()) < 4000
    world.send(frame())
    assert len(reader.read()) == 1


def test_filter_that_selects_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="every: 0 is below 1"):
        SampleFilter(every=0).pack()
