# SPDX-License-Identifier: Apache-2.0
"""The plan over time: what follows from each change of the inputs, that time alone changes it only when it says so, and
that a recorded sequence of inputs gives the recorded plans again."""

import random
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from support.plan_recording import RECORDINGS, first_memory, load, summaries, summary

from agent.announcing.order import Order, OrderKind
from agent.config.file import parse
from agent.forwarding.answer_path import PathFault
from agent.membership.conflict import MIN_DURATION_S
from agent.membership.received import SeenIdentity
from agent.model import Member, Method, Share, State
from agent.node.plan import Inputs, OperatorState, Plan, ThisNode, plan
from agent.table.epoch import ARM_S, EpochUse
from bgp.community import decode

VIP = IPv4Address("192.0.2.10")
WALL = 1_700_000_000.0
OTHER_EPOCH = 99
FIRST = 7
CONFIG = """\
cluster: 7
node: {interface: eth0}
services:
  - {name: web, vip: 192.0.2.10, protocol: tcp, port: 443, weight: 50}
  - {name: dns, vip: 192.0.2.11, protocol: tcp, port: 53, weight: 50}
bgp: {local_as: 65001, identity_prefix: 10.254.0.0/16, peers: [{address: 10.0.0.1, as: 65000}]}
members: {allow: [10.0.0.0/24]}
"""
NODE = ThisNode(parse(CONFIG, "lb.yml"), IPv4Address("10.0.0.11"), None, None, (FIRST,), start=5)
WEB, DNS = SERVICES = ("192.0.2.10:443/tcp", "192.0.2.11:53/tcp")


def member(n: int, state: State = State.UP, lost: bool = False, epochs: tuple[int, ...] = (FIRST,)) -> Member:
    shares = {service: Share(50, 50 if state is State.UP else 0, state) for service in SERVICES}
    return Member(IPv4Address(f"10.0.0.{n}"), epochs, shares, lost, 0.0, "")


GOOD = Inputs(members=(member(12), member(13)), healthy=frozenset({"web", "dns"}), forwarding=True)


def after(before: Plan | None, inputs: Inputs, now: float = 0.0) -> Plan:
    return plan(NODE, inputs, before.memory if before else first_memory(NODE), now, WALL + now)


def vips(one: Plan) -> set[str]:
    """The prefixes that the node wants announced, besides its identity."""
    return {route.prefix for route in one.desired.desired} - {route.prefix for route in one.desired.fallback}


def announces(one: Plan) -> bool:
    """Whether the node's identity says that it announces a VIP. The fallback never does."""
    identities = [decode(routes[0].large_communities, 7) for routes in (one.desired.desired, one.desired.fallback)]
    live, fallback = (identity for identity in identities if identity)
    assert fallback == replace(live, announces=0)
    assert live.start == NODE.start
    return live.announces > 0


def test_first_plan_has_tables_and_announces_once_the_node_forwards() -> None:
    starting = after(None, replace(GOOD, forwarding=False))
    assert [c.address.packed[3] for c in starting.tables.candidates["web"]] == [11, 12, 13]
    assert starting.tables.up == {"web": False, "dns": False}, "and no node sends it new flows"
    assert starting.shares == dict.fromkeys(SERVICES, Share(50, 0, State.UP, announced=False))
    assert (vips(starting), announces(starting)) == (set(), False)
    assert starting.announcements[VIP].why == "the data path is not ready"
    ready = after(starting, GOOD)
    assert (vips(ready), announces(ready)) == ({"192.0.2.10/32", "192.0.2.11/32"}, True)
    assert ready.tables.up == {"web": True, "dns": True}
    assert ready.shares == dict.fromkeys(SERVICES, Share(50, 50, State.UP))


def test_equal_inputs_give_an_equal_plan_of_the_same_objects() -> None:
    first = after(after(None, GOOD), GOOD)
    again = after(first, replace(GOOD), 1.0)
    assert again == first
    assert again.tables.candidates is first.tables.candidates
    assert again.tables.candidates["web"] is again.tables.candidates["dns"], "rows do not depend on the service"
    assert again.members is first.members


def test_what_the_node_serves_changes_no_route() -> None:
    """BGP carries which nodes may be there and what routers send; the rest the node publishes itself."""
    before = after(None, GOOD)
    sick = after(before, replace(GOOD, healthy=frozenset({"dns"}), operator=OperatorState(weights={"dns": 5})))
    assert sick.shares == {WEB: Share(50, 0, State.UP), DNS: Share(50, 5, State.UP)}
    assert sick.memory.own is before.memory.own
    assert sick.desired == before.desired


def test_pool_is_announced_while_the_node_forwards_whatever_is_healthy() -> None:
    node = replace(NODE, config=parse(CONFIG + "nat: {pool: 10.255.0.0/27}\n", "lb.yml"))

    def step(before: Plan | None, inputs: Inputs) -> Plan:
        return plan(node, inputs, before.memory if before else first_memory(node), 0.0, WALL)

    starting = step(None, replace(GOOD, forwarding=False))
    assert vips(starting) == set()
    sick = step(starting, replace(GOOD, healthy=frozenset()))
    assert vips(sick) == {"10.255.0.0/27"}, "no VIP yet, and the pool"
    assert not announces(sick)
    usual = step(sick, GOOD)
    assert vips(usual) == {"192.0.2.10/32", "192.0.2.11/32", "10.255.0.0/27"}
    draining = step(usual, replace(GOOD, operator=OperatorState(State.DRAINING)))
    assert vips(draining) == set()
    assert {str(pool): one.why for pool, one in draining.pools.items()} == {"10.255.0.0/27": "the node is draining"}


def test_drain_withdraws_and_says_so() -> None:
    drained = after(after(None, GOOD), replace(GOOD, operator=OperatorState(State.DRAINING)))
    assert (vips(drained), announces(drained)) == (set(), False)
    assert drained.shares == dict.fromkeys(SERVICES, Share(50, 0, State.DRAINING, announced=False))
    assert drained.tables.up == {"web": False, "dns": False}


def serving(n: int, effective: int = 50, announced: bool = True) -> Member:
    return replace(member(n), shares=dict.fromkeys(SERVICES, Share(50, effective, State.UP, announced)))


LOST = (PathFault("no route", "add it", (VIP,)),)


@pytest.mark.parametrize(
    ("other", "withdraws"),
    [
        (serving(12), True),
        (serving(12, announced=False), False),
        (serving(12, effective=0), False),  # where all have lost their path, all announce
        (replace(serving(12), lost=True), False),
        (replace(serving(12), silent_since=1.0), False),
    ],
)
def test_vip_without_a_path_to_clients_is_left_to_a_node_that_serves_it(other: Member, withdraws: bool) -> None:
    before = after(None, replace(GOOD, members=(other,)))
    assert vips(before) == {"192.0.2.10/32", "192.0.2.11/32"}
    lost = after(before, replace(GOOD, members=(other,), path_faults=LOST), 1.0)
    assert vips(lost) == ({"192.0.2.11/32"} if withdraws else vips(before))
    assert lost.problems == ("no route, so packets of 192.0.2.10 are lost: add it",)
    assert (lost.shares[WEB].effective, lost.shares[DNS].effective) == (0, 50)
    assert lost.tables.up == {"web": False, "dns": True}
    assert lost.announcements[VIP].fault == withdraws
    back = after(lost, replace(GOOD, members=(other,)), 2.0)
    assert (VIP in [vip for vip, one in back.announcements.items() if one.wanted]) != withdraws, "held down"
    assert vips(after(back, replace(GOOD, members=(other,)), 10.0)) == vips(before)


def test_path_that_loses_some_packets_is_a_problem_and_withdraws_nothing() -> None:
    some = (replace(LOST[0], blocks=False),)
    made = after(None, replace(GOOD, members=(serving(12),), path_faults=some))
    assert vips(made) == {"192.0.2.10/32", "192.0.2.11/32"}
    assert made.problems == ("no route, so some packets of 192.0.2.10 are lost: add it",)


def test_a_vip_is_published_as_announced_once_a_router_has_it() -> None:
    wanted = after(None, GOOD)
    assert {share.announced for share in wanted.shares.values()} == {True}
    assert {share.announced for share in wanted.published.values()} == {False}
    advertised = after(wanted, replace(GOOD, advertised=frozenset({f"{VIP}/32"})))
    assert [share.announced for share in advertised.published.values()] == [True, False]


def test_announcers_are_the_members_that_say_so_themselves() -> None:
    silent = replace(member(13), lost=True)
    only = replace(member(14), shares={WEB: Share(50, 50, State.UP, announced=False)})
    one = after(None, replace(GOOD, members=(member(12), silent, only)))
    assert one.desired.announcers == ("10.254.0.11/32", "10.254.0.12/32")


def test_nodes_that_believe_the_same_have_the_same_digest() -> None:
    """What each node publishes, and what it observes of the others; since when, and why, is no part of it."""

    def seen_from(own: int, *others: Member) -> int:
        node = replace(NODE, address=IPv4Address(f"10.0.0.{own}"))
        inputs = replace(GOOD, members=others)
        return plan(node, inputs, first_memory(node), 0.0, WALL).memory.cluster.digest

    here, there = member(12), replace(member(12), since=9.0, why="answers again", changed=4.0, change="it booted")
    digest = seen_from(11, here, member(13))
    assert digest == seen_from(13, member(11), there)
    assert digest == seen_from(12, member(11), member(13))
    weights = replace(member(13), shares={**member(13).shares, DNS: Share(50, 4, State.UP)})
    for other in (weights, replace(member(13), lost=True), replace(member(13), epochs=(FIRST, OTHER_EPOCH))):
        assert seen_from(11, here, other) != digest
    assert seen_from(11, here) != digest


def test_digest_follows_each_change_of_the_members() -> None:
    views = [
        (member(12),),
        (member(12), member(13)),
        (member(12, State.DRAINING), member(13)),
        (member(12), member(13)),
    ]
    before = after(None, GOOD)
    for members in views:
        before = after(before, replace(GOOD, members=members))
        assert before.memory.cluster.digest == after(None, replace(GOOD, members=members)).memory.cluster.digest


def test_member_that_falls_silent_changes_no_row_and_no_route() -> None:
    before = after(None, GOOD)
    silent = after(before, replace(GOOD, members=(replace(member(12), silent_since=1.0), member(13))), 1.0)
    assert silent.tables.candidates is before.tables.candidates
    assert (silent.desired, silent.memory.cluster.digest) == (before.desired, before.memory.cluster.digest)
    lost = after(silent, replace(GOOD, members=(replace(member(12), silent_since=1.0, lost=True), member(13))), 4.0)
    assert [(c.address.packed[3], c.effective, c.state) for c in lost.tables.candidates["web"]] == [
        (11, 50, State.UP), (12, 0, State.LOST), (13, 50, State.UP),
    ]  # fmt: skip


def test_hold_down_ends_by_time_alone() -> None:
    sick = replace(GOOD, forwarding=False)
    down = after(after(None, GOOD), sick, 1.0)
    held = after(down, GOOD, 2.0)
    assert vips(held) == set()
    assert held.next_at == 3.0
    assert vips(after(held, GOOD, held.next_at)) == {"192.0.2.10/32", "192.0.2.11/32"}


def test_order_ends_by_time_alone() -> None:
    order = Order(VIP, OrderKind.DOWN, Method.WITHDRAW, "", WALL, WALL + 60)
    ordered = after(after(None, GOOD), replace(GOOD, orders=frozenset({order})), 1.0)
    assert vips(ordered) == {"192.0.2.11/32"}
    assert ordered.next_at == 60.0
    assert vips(after(ordered, replace(GOOD, orders=frozenset({order})), 60.0)) == {"192.0.2.10/32", "192.0.2.11/32"}


def test_contradiction_becomes_a_problem_by_time_alone() -> None:
    refused = SeenIdentity("r1", "10.254.0.14/32", IPv4Address("10.9.0.14"), 5, None, own_prefix=True, allowed=False)
    seen = after(after(None, GOOD), replace(GOOD, seen=(refused,)), 1.0)
    assert seen.problems == ()
    assert seen.next_at == 1.0 + MIN_DURATION_S
    (line,) = after(seen, replace(GOOD, seen=(refused,)), seen.next_at).problems
    assert line.startswith("10.9.0.14 announces itself")


def test_obstacle_becomes_a_problem_by_time_alone() -> None:
    obstacle = ("silent", "10.0.0.14", "10.0.0.14 is named, but its data path does not answer")
    seen = after(after(None, GOOD), replace(GOOD, obstacles=(obstacle,)), 1.0)
    assert (seen.problems, seen.next_at) == ((), 1.0 + MIN_DURATION_S)
    assert after(seen, replace(GOOD, obstacles=(obstacle,)), seen.next_at).problems == (obstacle[2],)
    assert after(seen, GOOD, seen.next_at).problems == ()


def test_faults_of_other_modules_and_foreign_epochs_are_problems() -> None:
    inputs = replace(GOOD, members=(member(12, epochs=(OTHER_EPOCH,)),), faults=("the echo's port is taken",))
    found = after(None, inputs)
    assert len(found.problems) == 2
    assert found.problems[0].startswith("10.0.0.12 has epoch 0x63")


def test_switch_of_epochs_goes_on_without_another_input() -> None:
    """All steps from the old epoch to the preferred one come from `next_at` alone."""
    node = replace(NODE, epochs=(FIRST, OTHER_EPOCH))
    both = replace(GOOD, members=tuple(member(n, epochs=(FIRST, OTHER_EPOCH)) for n in (12, 13)))
    old = replace(GOOD, members=tuple(member(n, epochs=(OTHER_EPOCH,)) for n in (12, 13)))
    current = plan(node, old, first_memory(node), 0.0, WALL)
    assert current.tables.epoch_switch.use == EpochUse(OTHER_EPOCH)
    now, uses, inputs = 10.0, [], both
    for _ in range(20):
        current = plan(node, inputs, current.memory, now, WALL + now)
        uses.append(current.tables.epoch_switch.use)
        if current.next_at == float("inf"):
            break
        now = max(now, current.next_at)
    assert list(dict.fromkeys(uses)) == [
        EpochUse(OTHER_EPOCH),
        EpochUse(OTHER_EPOCH, alternating=True),
        EpochUse(FIRST, alternating=True),
    ]
    assert now == 10.0 + 2 * ARM_S


CHOICES: list[Inputs] = [
    GOOD,
    replace(GOOD, members=(member(12),)),
    replace(GOOD, members=(member(12, State.DRAINING), member(13))),
    replace(GOOD, members=(member(12, lost=True), member(13))),
    replace(GOOD, healthy=frozenset({"web"})),
    replace(GOOD, healthy=frozenset()),
    replace(GOOD, forwarding=False),
    replace(GOOD, operator=OperatorState(State.DRAINING)),
    replace(GOOD, operator=OperatorState(drained=frozenset({"web"}), weights={"dns": 5})),
    replace(GOOD, orders=frozenset({Order(VIP, OrderKind.DOWN, Method.WITHDRAW, "", WALL, WALL + 20)})),
    replace(GOOD, orders=frozenset({Order(VIP, OrderKind.DRAIN, Method.PREPEND, "", WALL)})),
    replace(GOOD, seen=(SeenIdentity("r1", "10.254.0.12/32", IPv4Address("10.9.0.12"), 5, 65001),)),
    replace(GOOD, obstacles=(("silent", "10.0.0.14", "10.0.0.14 is named, and does not answer"),)),
    replace(GOOD, members=(replace(member(12), silent_since=3.0), member(13))),
]


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 8))])
def test_plan_of_each_tick_equals_the_plan_made_only_when_due(seed: int) -> None:
    """What makes a node do nothing at rest: a plan holds until an input differs or `next_at` has come."""

    def steps() -> Iterator[tuple[float, Inputs]]:
        choose, inputs = random.Random(seed), GOOD
        for tick in range(600):
            if choose.random() < 0.05:
                inputs = choose.choice(CHOICES)
            yield tick / 2, inputs

    always: Plan | None = None
    when_due: Plan | None = None
    planned_from, made = None, 0
    for now, inputs in steps():
        always = after(always, inputs, now)
        if when_due is None or inputs != planned_from or now >= when_due.next_at:
            when_due, planned_from, made = after(when_due, inputs, now), inputs, made + 1
        assert summary(when_due) == summary(always), now
    assert made < 200, "it is made when something changes, not each time"


@pytest.mark.parametrize(("inputs", "plans"), RECORDINGS.items(), ids=lambda path: path.stem)
def test_recorded_inputs_give_the_recorded_plans(inputs: Path, plans: Path) -> None:
    recording = load(inputs.read_text())
    assert len(recording.steps) > 20
    assert summaries(recording.plans()) == plans.read_text()


def test_members_that_do_not_fit_own_nothing_and_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.node.capacity.fitting.__defaults__", (2,))
    monkeypatch.setattr("agent.node.capacity.problem.__defaults__", (2,))
    full = after(None, GOOD)
    assert [one.address for one in full.tables.candidates["web"]] == [NODE.address, member(12).address]
    (line,) = full.problems
    assert line.startswith("3 members are 1 more than a node's table holds: 10.0.0.13 own no connections")
    lower = after(full, replace(GOOD, members=(member(9), member(10), *GOOD.members)))
    assert [one.address for one in lower.tables.candidates["web"]] == [member(9).address, member(10).address]
    assert NODE.address in lower.tables.ends, "this node forwards to them"
    assert vips(lower) == vips(full), "and announces"
    assert after(lower, replace(GOOD, members=GOOD.members[:1])).problems == ()
