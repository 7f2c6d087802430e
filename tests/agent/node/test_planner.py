# SPDX-License-Identifier: Apache-2.0
"""When there is a next plan, and what a node publishes before the first one."""

from dataclasses import replace
from ipaddress import IPv4Address

from support.plan_recording import first_memory

from agent.config.file import parse
from agent.model import Member, Share, State
from agent.node.plan import Inputs, ThisNode
from agent.node.planner import Planner

CONFIG = """\
cluster: 7
node: {interface: eth0}
services:
  - {name: web, vip: 192.0.2.10, protocol: tcp, port: 443, weight: 50}
  - {name: dns, vip: 192.0.2.11, protocol: tcp, port: 53, weight: 50}
bgp: {local_as: 65001, identity_prefix: 10.254.0.0/16, peers: [{address: 10.0.0.1, as: 65000}]}
members: {allow: [10.0.0.0/24]}
"""
VIP = IPv4Address("192.0.2.10")
NODE = ThisNode(parse(CONFIG, "lb.yml"), IPv4Address("10.0.0.11"), None, None, (7,))
WEB, DNS = "192.0.2.10:443/tcp", "192.0.2.11:53/tcp"
GOOD = Inputs(healthy=frozenset({"web", "dns"}), forwarding=True)
OTHER = Member(IPv4Address("10.0.0.12"), (7,), {WEB: Share(50, 50, State.UP)}, False, 0.0, "")


def planner() -> Planner:
    return Planner(NODE, first_memory(NODE))


def settle(one: Planner) -> float:
    """Make plans until nothing is due; return the time."""
    now = 0.0
    while one.follow(GOOD, now, now):
        now += 0.1
        assert now < 10
    return now


def test_there_is_a_next_plan_for_new_inputs_and_when_the_last_ones_time_is_over() -> None:
    one = planner()
    now = settle(one)
    assert one.follow(GOOD, now, now) is None
    before = one.plan
    assert before is not None
    after = one.follow(replace(GOOD, members=(OTHER,)), now, now)
    assert after is one.plan is not before
    assert len(after.members) == 2
    due = one.follow(replace(GOOD, members=(OTHER,)), after.next_at, after.next_at)
    assert due is one.plan is not after


def test_the_end_of_a_hold_down_is_a_reason_for_a_plan() -> None:
    one = planner()
    now = settle(one)
    one.end_hold_downs([VIP])
    assert one.follow(GOOD, now, now)


def test_first_tables_are_those_of_a_node_that_forwards_and_are_no_plan() -> None:
    one = planner()
    memory = one.memory
    tables = one.first_tables(replace(GOOD, forwarding=False), 0.0, 0.0)
    assert tables.up == {"web": True, "dns": True}
    assert (one.plan, one.memory) == (None, memory)
    assert (one.announcements(), one.pools()) == ({}, {})


def test_before_the_first_plan_a_node_publishes_what_an_earlier_agent_announced() -> None:
    one = Planner(NODE, replace(first_memory(NODE), announced_once=frozenset({VIP})))
    shares = one.first_shares(GOOD)
    assert {key: share.announced for key, share in shares.items() if key in (WEB, DNS)} == {WEB: True, DNS: False}
    members = one.first_members(replace(GOOD, members=(OTHER,)))
    assert [str(member.address) for member in members] == ["10.0.0.11", "10.0.0.12"]
