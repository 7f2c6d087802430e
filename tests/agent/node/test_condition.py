# SPDX-License-Identifier: Apache-2.0
"""Shares and announcements for each condition of a node."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest

from agent.config.file import parse
from agent.config.schema import Config
from agent.errors import AgentError
from agent.model import Announcement, Share, State
from agent.node.condition import Condition, announcement, effective_weight, own_share, pool_announcement

TEXT = """\
cluster: 7
node: {interface: eth0}
services:
  - {name: web, vip: 192.0.2.10, protocol: tcp, port: 443, forward: l2, weight: 50}
  - {name: alt, vip: 192.0.2.10, protocol: tcp, port: 80, forward: l2}
bgp: {local_as: 65001, identity_prefix: 10.254.0.0/16, peers: [{address: 10.0.0.1, as: 65000}]}
members: {allow: [10.0.0.0/24]}
xdp: {mode: MODE}
"""
VIP = IPv4Address("192.0.2.10")


def config(mode: str = "auto") -> Config:
    return parse(TEXT.replace("MODE", mode), "lb.yml")


HEALTHY = Condition(forwarding=True, healthy=frozenset({"web", "alt"}))


@pytest.mark.parametrize(
    ("condition", "share"),
    [
        (HEALTHY, Share(50, 50, State.UP)),
        (replace(HEALTHY, healthy=frozenset({"alt"})), Share(50, 0, State.UP)),
        (replace(HEALTHY, forwarding=False), Share(50, 0, State.UP)),  # what routers still send would be lost
        (replace(HEALTHY, admin_state=State.DRAINING), Share(50, 0, State.DRAINING)),
        (replace(HEALTHY, admin_state=State.LEFT), Share(50, 0, State.LEFT)),
        (replace(HEALTHY, weights={"web": 20}), Share(50, 20, State.UP)),
        (replace(HEALTHY, weights={"alt": 20}), Share(50, 50, State.UP)),
        (replace(HEALTHY, weights={"web": 70}), Share(50, 50, State.UP)),  # the nominal weight was lowered later
        (replace(HEALTHY, drained=frozenset({"web"})), Share(50, 0, State.DRAINING)),
        (replace(HEALTHY, drained=frozenset({"alt"})), Share(50, 50, State.UP)),
        (replace(HEALTHY, drained=frozenset({"web"}), admin_state=State.LEFT), Share(50, 0, State.LEFT)),
        (replace(HEALTHY, blocked={VIP: "no route"}), Share(50, 0, State.UP)),  # its answers would be lost
        (replace(HEALTHY, blocked={IPv4Address("192.0.2.99"): "no route"}), Share(50, 50, State.UP)),
    ],
)
def test_own_share(condition: Condition, share: Share) -> None:
    assert own_share(config().services[0], condition) == share


def test_ipv6_vip_needs_a_peer_that_carries_it_and_a_next_hop() -> None:
    vip6 = IPv6Address("2001:db8:99::1")
    text = TEXT.replace("MODE", "auto").replace("192.0.2.10", "'2001:db8:99::1'")
    alone = announcement(parse(text, "lb.yml"), vip6, HEALTHY)
    assert (alone.wanted, alone.why) == (False, "no BGP peer carries IPv6; add it to a peer's families")
    carried = text.replace("as: 65000}", "as: 65000, families: [ipv4, ipv6]}")
    assert announcement(parse(carried, "lb.yml"), vip6, HEALTHY).wanted
    bare = replace(HEALTHY, has_ipv6=False)
    why = announcement(parse(carried, "lb.yml"), vip6, bare).why
    assert why == "the node's interface has no IPv6 address to be the next hop"
    elsewhere = carried.replace("weight: 50", "announce: {next_hop: '2001:db8::c'}")
    assert announcement(parse(elsewhere, "lb.yml"), vip6, bare).wanted


def test_vip_whose_path_is_lost_is_withdrawn_only_while_another_node_serves_it() -> None:
    lost = replace(HEALTHY, blocked={VIP: "no route"}, announced_once=frozenset({VIP}))
    assert announcement(config(), VIP, lost, elsewhere={VIP}) == Announcement(False, "no route", fault=True)
    assert announcement(config(), VIP, lost).wanted, "the last announcer stays"
    assert announcement(config(), VIP, HEALTHY, elsewhere={VIP}).wanted
    drained = replace(lost, admin_state=State.DRAINING)
    assert announcement(config(), VIP, drained, elsewhere={VIP}).why == "the node is draining"


DRAINED = replace(HEALTHY, drained=frozenset({"web"}))
UNHEALTHY = replace(HEALTHY, healthy=frozenset({"alt"}))


@pytest.mark.parametrize(
    ("mode", "condition", "wanted", "why"),
    [
        ("auto", HEALTHY, True, "healthy"),
        ("auto", UNHEALTHY, False, "unhealthy: web"),
        ("auto", replace(UNHEALTHY, announced_once=frozenset({VIP})), True, "forwarding for web"),
        ("off", replace(UNHEALTHY, announced_once=frozenset({VIP})), False, "unhealthy: web"),
        ("off", HEALTHY, True, "healthy"),
        ("auto", replace(HEALTHY, admin_state=State.DRAINING), False, "the node is draining"),
        ("auto", replace(HEALTHY, admin_state=State.LEFT), False, "the node is left"),
        ("auto", replace(HEALTHY, forwarding=False), False, "the data path is not ready"),
        (
            "auto",
            replace(HEALTHY, forwarding=False, announced_once=frozenset({VIP})),
            False,
            "the data path is not ready",
        ),
    ],
)
def test_announcement(mode: str, condition: Condition, wanted: bool, why: str) -> None:
    found = announcement(config(mode), VIP, condition)
    assert (found.wanted, found.why) == (wanted, why)


@pytest.mark.parametrize(
    ("mode", "policy", "unserved", "condition", "wanted", "why"),
    [
        ("auto", "withdraw", {"web", "alt"}, UNHEALTHY, False, "no member is healthy: web"),
        ("auto", "fail_open", {"web", "alt"}, UNHEALTHY, True, "no member is healthy: failing open"),
        ("off", "fail_open", {"web", "alt"}, UNHEALTHY, True, "no member is healthy: failing open"),
        ("off", "withdraw", {"web", "alt"}, UNHEALTHY, False, "no member is healthy: web"),
        # Some member serves one of the VIP's services: it stays, on every node.
        ("auto", "withdraw", {"web"}, UNHEALTHY, True, "forwarding for web"),
        ("off", "fail_open", {"web"}, UNHEALTHY, False, "unhealthy: web"),
        # A node whose own service is healthy withdraws too, if its operator drained it as the last one.
        (
            "auto",
            "withdraw",
            {"web", "alt"},
            replace(HEALTHY, drained=frozenset({"web"})),
            False,
            "no member is healthy: web",
        ),
    ],
)
def test_announcement_when_no_member_is_healthy(
    mode: str, policy: str, unserved: set[str], condition: Condition, wanted: bool, why: str
) -> None:
    text = TEXT.replace("MODE", mode).replace("weight: 50", f"weight: 50, when_unhealthy: {policy}")
    condition = replace(condition, announced_once=frozenset({VIP}))
    found = announcement(parse(text, "lb.yml"), VIP, condition, unserved)
    assert (found.wanted, found.why) == (wanted, why)
    # Before its services are healthy for the first time a VIP is not announced, whatever the policy.
    if "web" not in condition.healthy:
        assert not announcement(
            parse(text, "lb.yml"), VIP, replace(condition, announced_once=frozenset()), unserved
        ).wanted


def test_node_that_is_a_member_only_announces_nothing() -> None:
    member_only = parse(
        TEXT.replace("MODE", "auto").replace("interface: eth0", "interface: eth0, announce: false"), "lb.yml"
    )
    found = announcement(member_only, VIP, HEALTHY)
    assert (found.wanted, found.why) == (False, "node.announce is false: a member only")
    assert own_share(member_only.services[0], HEALTHY) == Share(50, 50, State.UP)


@pytest.mark.parametrize(
    ("text", "weight"), [("0", 0), ("7", 7), ("50", 50), ("50%", 25), ("1%", 1), ("100%", 50), ("nominal", 50)]
)
def test_effective_weight(text: str, weight: int) -> None:
    assert effective_weight(text, 50) == weight


@pytest.mark.parametrize("text", ["51", "101%", "-1", "", "%", "half", "5.5", "²", "9" * 5000, "9" * 5000 + "%"])
def test_invalid_effective_weight(text: str) -> None:
    with pytest.raises(AgentError, match=r"is not a weight|is more than the nominal weight, 50"):
        effective_weight(text, 50)


POOL, POOL6 = IPv4Network("10.255.0.0/27"), IPv6Network("fd00:ff::/123")
NAT = """\
nat: {pool: 10.255.0.0/27, pool6: 'fd00:ff::/123', weight: WEIGHT}
services:
  - {name: web, vip: 192.0.2.10, protocol: tcp, port: 443, mode: nat, backends: [{address: 10.9.0.11, port: 80}]}
"""


def with_nat(weight: int = 100, old: str = "members:", new: str = "members:") -> Config:
    services = TEXT[TEXT.index("services:") : TEXT.index("bgp:")]
    text = TEXT.replace(services, NAT).replace("MODE", "auto").replace("WEIGHT", str(weight))
    assert old in text
    return parse(text.replace(old, new), "lb.yml")


@pytest.mark.parametrize(
    ("condition", "wanted", "why", "fault"),
    [
        (HEALTHY, True, "forwarding", False),
        (replace(HEALTHY, healthy=frozenset()), True, "forwarding", False),  # sessions that exist get answers
        (replace(HEALTHY, drained=frozenset({"web"})), True, "forwarding", False),
        (replace(HEALTHY, forwarding=False), False, "the data path is not ready", True),
        (replace(HEALTHY, admin_state=State.DRAINING), False, "the node is draining", False),
        (replace(HEALTHY, admin_state=State.LEFT), False, "the node is left", False),
        (replace(HEALTHY, blocked={VIP: "no route"}), False, "no route", True),
    ],
)
def test_pool(condition: Condition, wanted: bool, why: str, fault: bool) -> None:
    assert pool_announcement(with_nat(), POOL, condition, {VIP}) == Announcement(wanted, why, fault)
    if condition.blocked:
        assert pool_announcement(with_nat(), POOL, condition).wanted, "no other node serves"


def test_node_that_does_no_nat_announces_no_pool() -> None:
    assert pool_announcement(with_nat(0), POOL, HEALTHY).why == "nat.weight is 0: this node does no NAT"
    member = with_nat(old="interface: eth0", new="interface: eth0, announce: false")
    assert pool_announcement(member, POOL, HEALTHY).why == "node.announce is false: a member only"
    off = parse(TEXT.replace("MODE", "off") + NAT.partition("services:")[0].replace("WEIGHT", "1"), "lb.yml")
    assert pool_announcement(off, POOL, HEALTHY).why == "xdp.mode is off: this node does no NAT"
    assert "no BGP peer carries IPv6" in pool_announcement(with_nat(), POOL6, HEALTHY).why
    both = with_nat(old="as: 65000", new="as: 65000, families: [ipv4, ipv6]")
    assert pool_announcement(both, POOL6, HEALTHY).wanted
    assert "no IPv6 address" in pool_announcement(both, POOL6, replace(HEALTHY, has_ipv6=False)).why
