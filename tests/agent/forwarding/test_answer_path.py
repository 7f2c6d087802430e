# SPDX-License-Identifier: Apache-2.0
"""What counts as a fault of the path of answers, for how long, and the line that an operator reads."""

import math
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from agent.config.file import parse
from agent.forwarding.answer_path import SETTLE_S, PathFacts, PathFault, PathLeg, Settling, path_faults

CONFIG = parse(
    """\
cluster: 7
node: {interface: eth1}
services:
  - {name: web, vip: 192.0.2.10, protocol: tcp, port: 443}
  - {name: alt, vip: 192.0.2.10, protocol: tcp, port: 444}
  - {name: dns, vip: 192.0.2.11, protocol: tcp, port: 53}
  - {name: six, vip: "2001:db8:99::1", protocol: tcp, port: 443}
bgp: {local_as: 65001, identity_prefix: 10.254.0.0/16, peers: [{address: 10.0.0.1, as: 65000}]}
members: {allow: [10.0.0.0/24]}
""",
    "lb.yml",
)
OWN, WEB, DNS, SIX = (ip_address(text) for text in ("10.0.0.11", "192.0.2.10", "192.0.2.11", "2001:db8:99::1"))
ALL, ALL6 = ip_network("0.0.0.0/0"), ip_network("::/0")
ROUTER, SECOND = (PathLeg("eth1", ip_address(f"10.0.0.{n}"), True) for n in (1, 2))
SILENT = replace(ROUTER, resolved=False)
GOOD = PathFacts(
    frozenset((OWN, WEB, DNS, SIX)),
    (OWN,),
    {(WEB, ALL): (ROUTER,), (DNS, ALL): (ROUTER,), (SIX, ALL6): (PathLeg("eth1", ip_address("fe80::1"), True),)},
    {"eth1": frozenset({"eth1"})},
    frozenset(),
)


def faults(facts: PathFacts) -> tuple[PathFault, ...]:
    return path_faults(CONFIG, OWN, facts)


def with_legs(*legs: PathLeg) -> PathFacts:
    return replace(GOOD, legs={**GOOD.legs, (WEB, ALL): legs, (DNS, ALL): legs})


def blocked(facts: PathFacts) -> Mapping[object, str]:
    return {vip: fault.cause for fault in faults(facts) if fault.blocks for vip in fault.vips}


def test_good_path_has_no_fault() -> None:
    assert faults(GOOD) == ()
    assert faults(with_legs(ROUTER, SECOND)) == ()
    assert faults(with_legs(PathLeg("", None, True))) == (), "a route whose next hops the kernel does not list"


@pytest.mark.parametrize(
    ("facts", "line"),
    [
        (
            with_legs(),
            "there is no route to clients in 0.0.0.0/0, so packets of 192.0.2.10, 192.0.2.11 are lost: add it again "
            "(an interface that goes down takes it along), or list where clients are, node.clients",
        ),
        (
            with_legs(SILENT),
            "10.0.0.1 on eth1, the next hop to clients in 0.0.0.0/0, does not answer, so packets of 192.0.2.10, "
            "192.0.2.11 are lost: see whether that router is up, and whether the route is right",
        ),
        (
            replace(with_legs(PathLeg("eth2", None, True)), strict=frozenset({"eth1"})),
            "rp_filter is 1 on eth1, but answers to clients in 0.0.0.0/0 leave by eth2, so packets of 192.0.2.10, "
            "192.0.2.11 are lost: set net.ipv4.conf.eth1.rp_filter to 2, or node.rp_filter to loose",
        ),
    ],
)
def test_fault_of_the_ipv4_path(facts: PathFacts, line: str) -> None:
    (fault,) = faults(facts)
    assert fault.line == line
    assert blocked(facts) == {WEB: fault.cause, DNS: fault.cause}


def test_one_of_two_next_hops_that_is_silent_loses_some_packets() -> None:
    (fault,) = faults(with_legs(ROUTER, replace(SECOND, resolved=False)))
    assert "10.0.0.2 on eth1" in fault.line
    assert "so some packets of 192.0.2.10" in fault.line
    assert not fault.blocks, "what is left is more than a withdrawal leaves"
    assert len(blocked(with_legs(SILENT, replace(SECOND, resolved=False)))) == 2


def test_strict_filter_does_no_harm_where_answers_leave_by_the_same_interface() -> None:
    strict = frozenset({"eth1", "eth1.100", "bond0"})
    leaves = {
        frozenset({"eth1"}): "eth1",
        frozenset({"eth1", "eth1.100"}): "eth1.100",
        frozenset({"bond0"}): "bond0",
    }
    for receivers, egress in leaves.items():
        facts = replace(with_legs(PathLeg(egress, None, True)), receivers={"eth1": receivers}, strict=strict)
        assert faults(facts) == ()
        (fault,) = faults(replace(facts, legs=with_legs(PathLeg("eth9", None, True)).legs))
        assert fault.cause.startswith(f"rp_filter is 1 on {', '.join(sorted(receivers))}, but")
    receivers_of = {name: frozenset({name}) for name in ("eth1", "eth2")}
    two = replace(with_legs(ROUTER), receivers=receivers_of, strict=frozenset({"eth2"}))
    assert [fault.cause[:25] for fault in faults(two)] == ["rp_filter is 1 on eth2, b"], "clients' packets arrive there"


def test_ipv6_has_no_such_filter() -> None:
    facts = replace(GOOD, strict=frozenset({"eth1"}), receivers={"eth1": frozenset({"eth1"})})
    assert faults(replace(facts, legs={**facts.legs, (SIX, ALL6): (PathLeg("eth2", None, True),)})) == ()
    assert blocked(replace(GOOD, legs={**GOOD.legs, (SIX, ALL6): ()})).keys() == {SIX}


def test_address_that_changed_blocks_all_vips_and_is_the_only_fault() -> None:
    facts = replace(with_legs(), addresses=GOOD.addresses - {OWN}, own=(ip_address("10.0.0.77"),))
    (fault,) = faults(facts)
    assert fault.line == (
        "this node's address 10.0.0.11 is gone (eth1 has 10.0.0.77), so packets of 192.0.2.10, 192.0.2.11, "
        "2001:db8:99::1 are lost: give it back, or restart lb-bgp and then lb-agent to use another"
    )
    assert "eth1 has no address" in faults(replace(facts, own=()))[0].line


def test_vip_that_is_not_on_lo_is_blocked() -> None:
    assert blocked(replace(GOOD, addresses=GOOD.addresses - {SIX})) == {SIX: f"{SIX} is not on lo"}


def test_only_listed_clients_need_a_route() -> None:
    office = ip_network("10.1.0.0/16")
    node = CONFIG.node.model_copy(update={"clients": (office,)})
    config = CONFIG.model_copy(update={"node": node})
    assert path_faults(config, OWN, replace(GOOD, legs={(WEB, office): (ROUTER,), (DNS, office): (ROUTER,)})) == ()
    (fault,) = path_faults(config, OWN, replace(GOOD, legs={(WEB, ALL): (ROUTER,), (DNS, office): (ROUTER,)}))
    assert (fault.vips, fault.cause) == ((WEB,), "there is no route to clients in 10.1.0.0/16")


def test_many_vips_are_one_short_line() -> None:
    vips = tuple(ip_address("192.0.2.0") + n for n in range(250))
    assert "packets of 192.0.2.0, 192.0.2.1, 192.0.2.2 and 247 more are" in PathFault("x", "y", vips).line


GONE, TRANSIENT = PathFault("gone", "", (WEB,)), PathFault("transient", "", (WEB,), known_at_once=False)


def test_fault_must_last() -> None:
    one = Settling().after((GONE,), 10.0)
    assert (one.settled(10.0), one.next_at(10.0)) == ((), 10.0 + SETTLE_S)
    again = one.after((GONE, TRANSIENT), 11.0)
    assert again.settled(11.0) == ()
    assert again.settled(10.0 + SETTLE_S) == (GONE,)
    assert again.next_at(10.0 + SETTLE_S) == 11.0 + SETTLE_S
    assert again.next_at(99.0) == math.inf
    assert again.settled(99.0) == (GONE, TRANSIENT)
    back = again.after((), 12.0).after((GONE,), 13.0)
    assert back.settled(10.0 + SETTLE_S) == (), "a new one"


def test_what_is_missing_at_the_start_counts_at_once_unless_it_takes_its_time() -> None:
    first = Settling.first((GONE, TRANSIENT), 10.0)
    assert first.settled(10.0) == (GONE,)
    assert first.settled(10.0 + SETTLE_S) == (GONE, TRANSIENT)
