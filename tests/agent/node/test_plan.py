# SPDX-License-Identifier: Apache-2.0
"""The plan over time: what follows from each change of the inputs, that time alone changes it only when it says so, and
that a recorded sequence of inputs gives the recorded plans again."""

import random
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from support.plan_recording import INPUTS, PLANS, first_memory, load, summaries, summary

from agent.announcing.order import Order, OrderKind
from agent.config.file import parse
from agent.membership.conflict import MIN_DURATION_S
from agent.membership.received import SeenIdentity
from agent.model import Member, Method, Share, State
from agent.node.plan import Inputs, OperatorState, Plan, ThisNode, plan
from agent.table.epoch import ARM_S, EpochUse

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
NODE = ThisNode(parse(CONFIG, "lb.yml"), IPv4Address("10.0.0.11"), None, None, (FIRST,))
SERVICES = tuple(first_memory(NODE).candidates.service_ids.values())


def member(n: int, state: State = State.UP, lost: bool = False, epoch: int = FIRST, **more: object) -> Member:
    shares = {number: Share(50, 50 if state is State.UP else 0, state) for number in SERVICES}
    return replace(Member(IPv4Address(f"10.0.0.{n}"), epoch, shares, lost, 0.0, ""), **more)  # type: ignore[arg-type]


GOOD = Inputs(members=(member(12), member(13)), healthy=frozenset({"web", "dns"}), forwarding=True)


def after(before: Plan | None, inputs: Inputs, now: float = 0.0) -> Plan:
    return plan(NODE, inputs, before.memory if before else first_memory(NODE), now, WALL + now)


def vips(one: Plan) -> set[str]:
    """The prefixes that the node wants announced, besides its identity."""
    return {route.prefix for route in one.desired.desired} - {route.prefix for route in one.desired.fallback}


def test_first_plan_has_tables_and_announces_once_the_node_forwards() -> None:
    starting = after(None, replace(GOOD, forwarding=False))
    assert [c.address.packed[3] for c in starting.tables.candidates["web"]] == [11, 12, 13]
    assert starting.tables.up == {"web": True, "dns": True}
    assert vips(starting) == set()
    assert starting.announcements[VIP].why == "the data path is not ready"
    ready = after(starting, GOOD)
    assert vips(ready) == {"192.0.2.10/32", "192.0.2.11/32"}
    assert all(share.announced for share in ready.shares.values())
    assert ready.memory.own.version.number > starting.memory.own.version.number, (
        "the identity says so, under a new version"
    )


def test_equal_inputs_give_an_equal_plan_of_the_same_objects() -> None:
    first = after(after(None, GOOD), GOOD)
    again = after(first, replace(GOOD), 1.0)
    assert again == first
    assert again.tables.candidates is first.tables.candidates
    assert again.tables.candidates["web"] is again.tables.candidates["dns"], "rows do not depend on the service"
    assert again.members is first.members


def test_drain_changes_the_identity_and_withdraws() -> None:
    drained = after(after(None, GOOD), replace(GOOD, operator=OperatorState(State.DRAINING)))
    assert vips(drained) == set()
    assert {share.state for share in drained.shares.values()} == {State.DRAINING}
    assert drained.tables.up == {"web": False, "dns": False}


def test_version_exceeds_that_of_an_announced_fallback_once() -> None:
    before = after(None, GOOD)
    silent = after(before, replace(GOOD, fallbacks=1))
    assert silent.memory.own.version.number > before.memory.own.version.fallback
    assert after(silent, replace(GOOD, fallbacks=1)).memory.own.version == silent.memory.own.version


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
    stranger = SeenIdentity("r1", "10.254.0.14/32", IPv4Address("10.9.0.14"), 5, None, own_prefix=True, allowed=False)
    seen = after(after(None, GOOD), replace(GOOD, seen=(stranger,)), 1.0)
    assert seen.problems == ()
    assert seen.next_at == 1.0 + MIN_DURATION_S
    (line,) = after(seen, replace(GOOD, seen=(stranger,)), seen.next_at).problems
    assert line.startswith("10.9.0.14 announces itself")


def test_faults_of_other_modules_and_foreign_epochs_are_problems() -> None:
    inputs = replace(GOOD, members=(member(12, epoch=OTHER_EPOCH),), faults=("the prober's port is taken",))
    found = after(None, inputs)
    assert len(found.problems) == 2
    assert found.problems[0].startswith("10.0.0.12 has epoch 0x63")


def test_switch_of_epochs_goes_on_without_another_input() -> None:
    """All steps from the old epoch to the preferred one come from `next_at` alone."""
    node = replace(NODE, epochs=(FIRST, OTHER_EPOCH))
    both = replace(GOOD, members=(member(12, epochs=(OTHER_EPOCH,)), member(13, epochs=(OTHER_EPOCH,))))
    old = replace(both, members=(member(12, epoch=OTHER_EPOCH), member(13, epoch=OTHER_EPOCH)))
    current = plan(node, old, first_memory(NODE), 0.0, WALL)
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
    replace(GOOD, reflections=((1 << 31, "another content"),)),
]


@pytest.mark.parametrize("seed", range(8))
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


def test_recorded_inputs_give_the_recorded_plans() -> None:
    recording = load(INPUTS.read_text())
    assert len(recording.steps) > 20
    assert summaries(recording.plans()) == PLANS.read_text()
