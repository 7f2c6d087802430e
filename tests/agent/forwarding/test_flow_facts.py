# SPDX-License-Identifier: Apache-2.0
"""A flow's facts, read back from real maps: the rows of one epoch or two, grace, reachable and silent nodes."""

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from pathlib import Path

import numpy as np
import pytest
from support.bpffs import new_bpffs

from agent.forwarding.flow_facts import read_facts
from agent.forwarding.trace_step import FlowFacts
from agent.model import Flow
from bpf.layout.conf import ConfFlag, NodeConf, OtherEpoch
from bpf.layout.limits import CHAIN
from bpf.layout.map_spec import NatShape
from bpf.layout.nat import NAT_ROWS, NatConf
from bpf.layout.node import NodeEntry
from bpf.layout.service import Affinity, Forward, Protocol, ServiceEntry, ServiceKey
from bpf.maps.maps import Maps
from bpf.reference.flow_hash import row_of

pytestmark = pytest.mark.lab

ROWS, NOW, LATER = 4096, 1_000, 2_000
A, B, C, D = (IPv4Address("10.0.0.11") + i for i in range(4))
KEY, OTHER_KEY, MAC = b"k" * 16, b"o" * 16, bytes.fromhex("020000000002")
VIP = IPv4Address("10.99.0.1")
FLOW = Flow("tcp", IPv4Address("192.0.2.7"), 41_000, VIP, 443)
FLOW6 = Flow("udp", IPv6Address("2001:db8::7"), 41_000, IPv6Address("2001:db8:99::1"), 53)
CONF = NodeConf(1, 11, KEY, address=A, bank=1, epoch=5)
WEB, ANY6 = ServiceKey(VIP, Protocol.TCP, 443), ServiceKey(FLOW6.vip, Protocol.UDP, 0)


@pytest.fixture
def maps(request: pytest.FixtureRequest) -> Iterator[Maps]:
    """Nodes A to D at 1 to 4, all on the link; the flow's row in bank 1 is B, A, C, that of FLOW6 C."""
    with new_bpffs("flow-facts") as mount:
        folder = mount / "maps"
        folder.mkdir()
        maps = Maps.open(Path(folder), ROWS, getattr(request, "param", None))
        maps.conf.write(CONF)
        for index, address in enumerate((A, B, C, D), 1):
            maps.nodes.write(index, NodeEntry(address, 10 + index, None if address == A else MAC))
        write_row(maps, slot=1, bank=1, row=row(FLOW, KEY), nodes=(2, 1, 3))
        write_row(maps, slot=2, bank=1, row=row(FLOW6, KEY), nodes=(3,))
        maps.services.write_all({WEB: ServiceEntry(1, up=True), ANY6: ServiceEntry(2, up=False, drop_no_member=True)})
        yield maps
        maps.close()


def row(flow: Flow, key: bytes) -> int:
    return row_of(key, ROWS, flow.client, flow.client_port, flow.vip, flow.vip_port)


def write_row(maps: Maps, slot: int, bank: int, row: int, nodes: tuple[int, ...], grace_until_ns: int = 0) -> None:
    rows, grace = np.zeros((ROWS, CHAIN), np.uint16), np.zeros(ROWS, np.uint64)
    rows[row, : len(nodes)], grace[row] = nodes, grace_until_ns
    maps.tables.swap(slot, rows, grace, bank)


def facts_of(maps: Maps, flow: Flow = FLOW, now_ns: int = NOW) -> FlowFacts:
    facts = read_facts(maps, flow, now_ns)
    assert facts is not None
    return facts


def test_the_row_is_that_of_the_bank_and_the_service(maps: Maps) -> None:
    assert facts_of(maps) == FlowFacts(
        epoch=5,
        chain=(B, A, C),
        up=True,
        grace=False,
        reachable=frozenset({B, C}),
        silent=frozenset(),
        awaited=frozenset(),
        unmetered=1,
        drop_no_member=False,
    )
    of_any_port = facts_of(maps, FLOW6)
    assert (of_any_port.chain, of_any_port.up, of_any_port.drop_no_member) == ((C,), False, True)
    assert facts_of(maps, replace(FLOW, client_port=41_001)).chain == ()


@pytest.mark.parametrize(
    "flow", [replace(FLOW, vip_port=80), replace(FLOW, protocol="udp"), replace(FLOW6, protocol="tcp")]
)
def test_a_flow_of_no_service_has_none(maps: Maps, flow: Flow) -> None:
    assert read_facts(maps, flow, NOW) is None


def test_without_tables_the_chain_is_empty(maps: Maps) -> None:
    maps.services.write(ServiceKey(VIP, Protocol.TCP, 80), ServiceEntry(9, up=True))
    assert facts_of(maps, replace(FLOW, vip_port=80)).chain == ()


@pytest.mark.parametrize(
    ("alternating", "chain", "unmetered"),
    [(True, (B, D, A, C), 2), (False, (B, A, C, D), 1)],
    ids=["taking turns", "last"],
)
def test_the_rows_of_two_epochs_are_joined(
    maps: Maps, alternating: bool, chain: tuple[IPv4Address, ...], unmetered: int
) -> None:
    write_row(maps, slot=1, bank=0, row=row(FLOW, OTHER_KEY), nodes=(4, 2), grace_until_ns=LATER)
    assert facts_of(maps).chain == (B, A, C)
    maps.conf.write(replace(CONF, other=OtherEpoch(OTHER_KEY, 6, alternating)))
    both = facts_of(maps)
    assert (both.chain, both.unmetered, both.epoch, both.grace) == (chain, unmetered, 5, True)
    assert not facts_of(maps, now_ns=LATER).grace


def test_a_row_is_in_grace_until_its_deadline(maps: Maps) -> None:
    write_row(maps, slot=1, bank=1, row=row(FLOW, KEY), nodes=(2,), grace_until_ns=LATER)
    assert facts_of(maps, now_ns=LATER - 1).grace
    assert not facts_of(maps, now_ns=LATER).grace


def test_silent_nodes_count_once_the_program_looks_for_them(maps: Maps) -> None:
    maps.nodes.write(2, NodeEntry(B, 12, MAC, silent=True, drop_until_ns=LATER))
    maps.nodes.write(3, NodeEntry(C, 13, MAC, silent=True))
    before = facts_of(maps)
    assert (before.silent, before.awaited) == (frozenset(), frozenset())
    assert before.reachable == frozenset()  # never forwarded to in any case
    maps.conf.set_flag(ConfFlag.SILENT, True)
    after = facts_of(maps)
    assert (after.reachable, after.silent, after.awaited) == (frozenset(), frozenset({B, C}), frozenset({B}))
    assert facts_of(maps, now_ns=LATER).awaited == frozenset()
    maps.nodes.write(3, NodeEntry(C, 13, MAC, drop_until_ns=LATER))  # doubted: silent for others
    doubted = facts_of(maps)
    assert (doubted.reachable, doubted.silent, doubted.awaited) == (frozenset({C}), frozenset({B}), frozenset({B, C}))


@pytest.mark.parametrize(
    ("forward", "node", "reachable"),
    [
        (Forward.L2, {"on_link": False}, False),
        (Forward.GUE, {"on_link": False}, True),
        (Forward.IPIP, {}, True),
        (Forward.GUE, {"address6": IPv6Address("2001:db8::12"), "outer6": True}, False),  # this node has no such end
        (Forward.L2, {"mac": None}, False),
    ],
)
def test_a_node_is_reachable_if_this_one_can_forward_so(
    maps: Maps, forward: Forward, node: dict[str, object], reachable: bool
) -> None:
    maps.nodes.write(2, replace(NodeEntry(B, 12, MAC), **node))  # type: ignore[arg-type]
    maps.services.write(WEB, ServiceEntry(1, up=True, forward=forward))
    assert (B in facts_of(maps).reachable) is reachable


@pytest.mark.parametrize("maps", [NatShape(1 << 16, ipv6=False)], indirect=True)
def test_services_of_mode_nat_share_a_table(maps: Maps) -> None:
    """It has rows by the 5-tuple, its own `forward`, and whether the node takes sessions."""
    assert maps.nat is not None
    key = replace(WEB, port=8443)
    maps.services.write(key, ServiceEntry(7, up=True, affinity=Affinity.TWO_TUPLE, nat=True))
    flow = replace(FLOW, vip_port=8443)
    assert read_facts(maps, flow, NOW) is None, "the program has no conf of NAT"
    maps.nat.write_conf(NatConf(1 << 16, 9, IPv4Network("10.255.0.0/31"), forward=Forward.L2, up=False))
    at = row_of(KEY, NAT_ROWS, flow.client, flow.client_port, flow.vip, flow.vip_port)
    write_row(maps, slot=9, bank=1, row=at, nodes=(3, 2))
    maps.nodes.write(3, NodeEntry(C, 13, MAC, on_link=False))
    facts = facts_of(maps, flow)
    assert (facts.chain, facts.up, facts.nat_rows) == ((C, B), False, (at,))
    assert facts.reachable == {B}
    assert facts_of(maps).nat_rows == ()
