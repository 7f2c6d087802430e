# SPDX-License-Identifier: Apache-2.0
"""Connections counted by service and row: against one flow at a time, looked up and hashed as the program does."""

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from ipaddress import ip_address

import numpy as np
import pytest
from support.sockets import End, service_of, sockets_of

from agent.config.service import AFFINITIES, ServiceConfig
from agent.connections.diag_message import Sockets
from agent.connections.held import HeldCounter, HeldRows
from agent.table.epoch import Epoch
from bpf.reference.flow_hash import row_of

EPOCHS = [Epoch(1, 1, 4096, 4, bytes(range(16))), Epoch(2, 1, 65536, 4, bytes(range(1, 17)))]
SERVICES = [
    service_of("10.99.0.1", 443),
    service_of("10.99.0.1", 80, affinity="2-tuple"),
    service_of("10.99.0.2", "any"),
    service_of("10.99.0.2", 443, affinity="3-tuple"),
    service_of("2001:db8::1", 443),
    service_of("2001:db8::1", "any", affinity="3-tuple"),
    service_of("2001:db8:0:1::", 443),  # the same words as 2001:db8::1 in another order
    service_of("2001:db8::ffff:a63:1", 443),  # ends as ::ffff:10.99.0.1
]
TIME_WAIT = 6


def expected(ends: list[tuple[End, End]], epoch: Epoch) -> dict[str, Counter[int]]:
    found: dict[str, Counter[int]] = {}
    for (vip, port), (client, client_port) in ends:
        by_port = [s for s in SERVICES if str(s.vip) == vip and s.port_number in (port, 0)]
        if not by_port or client == vip:
            continue
        service = max(by_port, key=lambda one: one.port_number)
        flow = ip_address(client), client_port, service.vip, port, AFFINITIES[service.affinity]
        found.setdefault(service.key, Counter())[row_of(epoch.key, epoch.rows, *flow)] += 1
    return found


def counters(held: dict[str, dict[int, HeldRows]], epoch: int) -> dict[str, dict[int, int]]:
    return {key: dict(zip(by[epoch].rows.tolist(), by[epoch].counts.tolist(), strict=True)) for key, by in held.items()}


def some_ends(choose: random.Random, count: int) -> list[tuple[End, End]]:
    """Return ends of which some have no service, some both ends on this node, and some share a row."""
    vips = [
        "10.99.0.1",
        "10.99.0.2",
        "10.99.0.3",
        "2001:db8::1",
        "2001:db8:0:1::",
        "2001:db8::ffff:a63:1",
        "2001:db8::2",
    ]
    found: list[tuple[End, End]] = []
    for _ in range(count):
        vip, port = choose.choice(vips), choose.choice([443, 80, 8443])
        client = f"2001:db8:9::{choose.randrange(40):x}" if ":" in vip else f"192.0.2.{choose.randrange(40)}"
        found.append(((vip, port), (choose.choice([client] * 9 + [vip]), choose.randrange(1, 65536))))
    return found


def held_rows(
    dump: Iterable[Sockets], services: Sequence[ServiceConfig], epochs: Sequence[Epoch]
) -> dict[str, dict[int, HeldRows]]:
    """Return the rows of the connections in a dump."""
    counter = HeldCounter(services, epochs)
    for sockets in dump:
        counter.add(sockets)
    return counter.rows()


@pytest.mark.parametrize("chunks", [pytest.param(1, marks=pytest.mark.slow), 7])
def test_each_connection_counts_in_the_row_of_its_service(chunks: int) -> None:
    ends = some_ends(random.Random(chunks), 3000)
    dump = np.array_split(sockets_of(ends), chunks)
    held = held_rows(dump, SERVICES, EPOCHS)
    for epoch in EPOCHS:
        assert counters(held, epoch.number) == expected(ends, epoch)
    for by_epoch in held.values():
        assert len({rows.total for rows in by_epoch.values()}) == 1
        for rows in by_epoch.values():
            assert (np.diff(rows.rows.astype(np.int64)) > 0).all()
            assert (rows.rows.dtype, rows.counts.dtype) == (np.uint32, np.uint32)


def test_a_service_without_connections_is_absent() -> None:
    one = sockets_of([(("10.99.0.1", 443), ("192.0.2.1", 5000))])
    assert set(held_rows([one], SERVICES, EPOCHS)) == {"10.99.0.1:443/tcp"}
    assert held_rows([], SERVICES, EPOCHS) == {}
    assert held_rows([one], [], EPOCHS) == {}


def test_what_is_no_connection_of_a_client_does_not_count() -> None:
    time_wait = sockets_of([(("10.99.0.1", 443), ("192.0.2.1", 5000))], TIME_WAIT)
    health_check = sockets_of([(("10.99.0.2", 40000), ("10.99.0.2", 443)), (("10.99.0.2", 443), ("10.99.0.2", 40000))])
    outgoing = sockets_of([(("10.99.0.1", 40000), ("192.0.2.1", 443))])
    assert held_rows([time_wait, health_check, outgoing], SERVICES, EPOCHS) == {}


def test_the_largest_cluster_has_places_of_32_bits() -> None:
    """255 services of 262,144 rows: the last one's last row, and not another's."""
    services: list[ServiceConfig] = [service_of(f"10.99.1.{i}", 443) for i in range(1, 256)]
    epoch = Epoch(1, 1, 262_144, 4, bytes(16))
    ends = [((f"10.99.1.{vip}", 443), ("192.0.2.1", port)) for vip in (1, 254, 255) for port in range(1, 500)]
    held = held_rows([sockets_of(ends)], services, [epoch])
    for vip in (1, 254, 255):
        rows = held[f"10.99.1.{vip}:443/tcp"][1]
        flows = [row_of(epoch.key, epoch.rows, ip_address("192.0.2.1"), port, ip_address(f"10.99.1.{vip}"), 443)
                 for port in range(1, 500)]  # fmt: skip
        assert rows.rows.tolist() == sorted(set(flows))
