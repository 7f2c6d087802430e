# SPDX-License-Identifier: Apache-2.0
"""The table of sessions in the plan: which nodes are in it, and how a node gives its rows up."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest
from support.observations import A, B, Surroundings, node_state
from support.plan_recording import first_memory

from agent.channel.nat_state import NatState
from agent.config.file import parse
from agent.forwarding.answer_path import PathFault
from agent.model import NAT_KEY, NAT_TABLE, Member, Share, State
from agent.node.plan import Inputs, OperatorState, Plan, ThisNode, plan

VIP = IPv4Address("192.0.2.10")
CONFIG = """\
cluster: 7
node: {interface: eth0}
services:
  - {name: web, vip: 192.0.2.10, protocol: tcp, port: 443, mode: nat, backends: [{address: 10.9.0.11, port: 8443}]}
  - {name: dns, vip: 192.0.2.11, protocol: tcp, port: 53}
nat: {pool: 10.255.0.0/27, weight: 40}
bgp: {local_as: 65001, identity_prefix: 10.254.0.0/16, peers: [{address: 10.0.0.1, as: 65000}]}
members: {allow: [10.0.0.0/24], key: none}
"""
WEB, DNS = "192.0.2.10:443/tcp", "192.0.2.11:53/tcp"


def node(config: str = CONFIG) -> ThisNode:
    return ThisNode(parse(config, "lb.yml"), IPv4Address("10.0.0.11"), None, None, (7,), start=5)


FULL = Share(100, 100, State.UP, announced=False)


def member(n: int, share: Share | None = FULL) -> Member:
    shares = {DNS: Share(100, 100, State.UP)} | ({NAT_KEY: share} if share else {})
    return Member(IPv4Address(f"10.0.0.{n}"), (7,), shares, False, 0.0, "")


def first(inputs: Inputs, config: str = CONFIG) -> Plan:
    return plan(node(config), inputs, first_memory(node(config)), 0.0, 1.7e9)


GOOD = Inputs(members=(member(12), member(13)), healthy=frozenset({"web", "dns"}), forwarding=True)


def owners(made: Plan, table: str = NAT_TABLE) -> dict[int, tuple[int, int, State]]:
    return {c.address.packed[3]: (c.effective, c.weight, c.state) for c in made.tables.candidates[table]}


def test_table_of_sessions_has_the_nodes_that_do_nat_by_their_weights() -> None:
    made = first(replace(GOOD, members=(member(12), member(13, None))))
    assert owners(made) == {11: (40, 40, State.UP), 12: (100, 100, State.UP)}
    assert made.published[NAT_KEY] == Share(40, 40, State.UP, announced=False)
    assert made.tables.up == {"web": True, "dns": True, NAT_TABLE: True}


def test_node_without_nat_has_no_such_table() -> None:
    made = first(GOOD, "\n".join(line for line in CONFIG.splitlines() if "nat" not in line))
    assert set(made.tables.candidates) == set(made.tables.up) == {"dns"}
    assert set(made.published) == {DNS}


def test_node_of_weight_0_does_no_nat_and_knows_who_does() -> None:
    made = first(GOOD, CONFIG.replace("weight: 40", "weight: 0"))
    assert set(owners(made)) == {12, 13}
    assert NAT_KEY not in made.published
    assert made.tables.up[NAT_TABLE] is False


@pytest.mark.parametrize(
    ("inputs", "share"),
    [
        (replace(GOOD, operator=OperatorState(State.DRAINING)), (0, 40, State.DRAINING)),
        (replace(GOOD, operator=OperatorState(State.LEFT)), None),
        (replace(GOOD, forwarding=False), (0, 40, State.UP)),
        (replace(GOOD, path_faults=(PathFault("no route", "add it", (VIP,)),)), (0, 40, State.UP)),
        (replace(GOOD, path_faults=(PathFault("no route", "add it", (VIP,), blocks=False),)), (40, 40, State.UP)),
        (
            replace(GOOD, path_faults=(PathFault("no route", "add it", (IPv4Address("192.0.2.11"),)),)),
            (40, 40, State.UP),
        ),
        # Sessions do not depend on backends: without one that is up no row moves, and answers still find their row.
        (replace(GOOD, healthy=frozenset()), (40, 40, State.UP)),
    ],
)
def test_node_gives_its_rows_up_as_services_do(inputs: Inputs, share: tuple[int, int, State] | None) -> None:
    made = first(inputs)
    assert owners(made).get(11) == share
    assert made.tables.up[NAT_TABLE] is bool(share and share[0])


MOVED = CONFIG.replace("10.255.0.0/27", "10.255.1.0/27") + "table: {previous: {nat: {pool: 10.255.0.0/27}}}\n"


@pytest.mark.parametrize(
    ("supported", "used", "announced"),
    [((7, 6), False, False), ((7, 6), True, True), ((6,), False, True)],
    ids=["empty", "in use", "some node has no other pool yet"],
)
def test_former_pool_is_announced_until_no_node_has_a_session_of_it(
    supported: tuple[int, ...], used: bool, announced: bool
) -> None:
    here = replace(node(MOVED), epochs=(7, 6))
    others = tuple(replace(one, epochs=supported) for one in GOOD.members)
    made = plan(here, replace(GOOD, members=others, former_pool_used=used), first_memory(here), 0.0, 1.7e9)
    shown = {str(pool): one.wanted for pool, one in made.pools.items()}
    assert shown == {"10.255.1.0/27": True, "10.255.0.0/27": announced}
    prefixes = {str(route.prefix) for route in made.desired.desired}
    assert "10.255.1.0/27" in prefixes
    assert ("10.255.0.0/27" in prefixes) is announced
    assert made.pools[IPv4Network("10.255.0.0/27")].why in {
        "sessions still have addresses of it",
        "no session has an address of it any more: remove table.previous.nat",
    }


@pytest.mark.parametrize(
    ("now", "before", "while_nodes_differ"),
    [("26", "27", {"26", "27"}), ("27", "26", {"26"})],
    ids=["larger", "smaller"],
)
def test_no_node_has_a_longer_prefix_of_the_pool_than_the_others(
    now: str, before: str, while_nodes_differ: set[str]
) -> None:
    """Routers would send it all answers of backends: the last node with the smaller pool, or the first one."""
    previous = f"table: {{previous: {{nat: {{pool: 10.255.0.0/{before}}}}}}}\n"
    here = replace(node(CONFIG.replace("10.255.0.0/27", f"10.255.0.0/{now}") + previous), epochs=(7, 6))
    assert {str(one) for one in here.config.pool_prefixes} == {f"10.255.0.0/{one}" for one in (now, before)}
    for supported, expected in (((6,), while_nodes_differ), ((7, 6), {now})):
        others = tuple(replace(one, epochs=supported) for one in GOOD.members)
        made = plan(here, replace(GOOD, members=others), first_memory(here), 0.0, 1.7e9)
        prefixes = {str(route.prefix) for route in made.desired.desired}
        assert {one for one in prefixes if one.startswith("10.255")} == {f"10.255.0.0/{one}" for one in expected}


def test_lost_member_keeps_its_later_places() -> None:
    assert owners(first(replace(GOOD, members=(replace(member(12), lost=True),))))[12] == (0, 100, State.LOST)


def test_share_that_a_node_publishes_is_a_share_of_its_member() -> None:
    around, state = Surroundings(), node_state()
    around.see(0.0, states={A: replace(state, nat=NatState(9, 5, State.UP))})
    shares = {one.address: one.shares for one in around.view.members}
    assert shares[A][NAT_KEY] == Share(9, 5, State.UP, announced=False)
    assert NAT_KEY not in shares[B]
    around.see(1.0, states={A: replace(state, version=2)})
    assert NAT_KEY not in around.view.members[0].shares
