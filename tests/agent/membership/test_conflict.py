# SPDX-License-Identifier: Apache-2.0
"""Identities that contradict each other become a problem for the operator once they last long enough."""

from collections.abc import Sequence
from ipaddress import IPv4Address

import pytest

from agent.config.file import parse
from agent.membership.conflict import MIN_DURATION_S, Conflicts, Observed
from agent.membership.obstacle import MAX_LINES
from agent.membership.received import SeenIdentity
from agent.model import Member

CONFIG = parse(
    """\
cluster: 7
node: {interface: eth0}
services:
  - {name: web, vip: 192.0.2.10, protocol: tcp, port: 443, forward: l2, weight: 50}
bgp: {local_as: 65001, identity_prefix: 10.254.0.0/16, peers: [{address: 10.0.0.1, as: 65000}]}
members: {allow: [10.0.0.0/24]}
""",
    "lb.yml",
)
OWN = "10.0.0.11"
OWN_START = 100
MEMBERS = tuple(Member(IPv4Address(f"10.0.0.{n}"), (1,), {}, False, 0.0, "") for n in (11, 12, 14))


def seen(address: str, peer: str = "10.0.0.1", start: int = 1, prefix: str = "", origin: int = 65001) -> SeenIdentity:
    node = IPv4Address(address)
    own_prefix = f"10.254.{node.packed[2]}.{node.packed[3]}/32"
    allowed = any(node in network for network in CONFIG.members.allow)
    return SeenIdentity(peer, prefix or own_prefix, node, start, origin, prefix in ("", own_prefix), allowed)


def after(before: Conflicts, identities: Sequence[SeenIdentity], now: float) -> Conflicts:
    return before.after(Observed(tuple(identities), MEMBERS, IPv4Address(OWN), OWN_START), CONFIG, now)


def problems(*identities: SeenIdentity) -> tuple[str, ...]:
    """The problems once they last long enough; there are none before."""
    conflicts = after(Conflicts(), identities, 0.0)
    assert after(conflicts, identities, 1.0) is conflicts
    assert conflicts.problems(MIN_DURATION_S - 1) == ()
    assert conflicts.next_at(1.0) == (MIN_DURATION_S if conflicts.text else float("inf"))
    assert conflicts.next_at(MIN_DURATION_S) == float("inf")
    return conflicts.problems(MIN_DURATION_S)


def test_sound_cluster_has_no_problem() -> None:
    routers = ("10.0.0.1", "10.0.0.2")
    assert problems(*(seen(f"10.0.0.{n}", peer, start=n) for n in range(12, 16) for peer in routers)) == ()
    assert problems(seen(OWN, start=100), seen(OWN, "10.0.0.2", start=100)) == (), "own reflections"


@pytest.mark.parametrize(
    ("identities", "expected"),
    [
        ([seen("10.1.0.11")], ("10.0.0.11 and 10.1.0.11", "same tag, 11", "another address")),
        ([seen("10.1.0.14")], ("10.0.0.14 and 10.1.0.14", "same tag, 14")),
        ([seen("10.0.0.13"), seen("10.1.0.13")], ("10.0.0.13 and 10.1.0.13", "same tag, 13", "another address")),
        ([seen("10.0.0.12", prefix="10.253.0.12/32")], ("10.253.0.12/32", "10.254.0.0/16", "bgp.identity_prefix")),
        ([seen("10.0.0.12", prefix="10.254.0.13/32")], ("10.254.0.13/32", "not its own")),
        ([seen("10.9.0.33")], ("10.9.0.33", "cluster 7", "members.allow", "add it there")),
        (
            [seen("10.0.0.12", "10.0.0.1", 5, origin=65002), seen("10.0.0.12", "10.0.0.2", 6, origin=65003)],
            ("10.0.0.12", "two nodes", "10.0.0.1 (from AS 65002)", "10.0.0.2 (from AS 65003)", "stop one of them"),
        ),
        ([seen("10.0.0.12", start=5), seen("10.0.0.12", start=5, prefix="10.253.0.12/32")], ("10.253.0.12/32",)),
        ([seen(OWN, start=7, origin=65009)], ("this node's address 10.0.0.11", "(from AS 65009)", "stop one")),
    ],
    ids=[
        "own tag",
        "a member's tag",
        "tag",
        "prefix",
        "another's prefix",
        "outside",
        "address twice",
        "two prefixes",
        "own address",
    ],
)
def test_contradiction_becomes_a_problem_with_what_to_do(
    identities: list[SeenIdentity], expected: tuple[str, ...]
) -> None:
    lines = problems(*identities)
    assert lines
    assert any(all(part in line for part in expected) for line in lines), lines


def test_many_of_a_kind_are_a_few_lines() -> None:
    """With another identity_prefix, or the wrong key, a thousand nodes have the same problem."""
    lines = problems(*(seen(f"10.0.0.{n}", prefix=f"10.9.0.{n}/32") for n in range(20, 70)))
    assert len(lines) == MAX_LINES + 1
    assert lines[-1].startswith(f"{50 - MAX_LINES} more like this: 10.0.0.")


def test_short_contradiction_is_no_problem() -> None:
    """One router propagates each update before the other."""
    conflicts = Conflicts()
    for second in range(100):
        starts = (second, second - second % 2)
        conflicts = after(conflicts, [seen("10.0.0.12", str(peer), v) for peer, v in enumerate(starts)], second)
        assert conflicts.problems(second) == ()


def test_solved_problem_disappears() -> None:
    conflicts = Conflicts()
    for second in (0, MIN_DURATION_S):
        conflicts = after(conflicts, [seen(OWN, start=5 + int(second))], second)
    assert len(conflicts.problems(MIN_DURATION_S)) == 1, "although the other has started again"
    conflicts = after(conflicts, [], MIN_DURATION_S + 1)
    assert conflicts.problems(MIN_DURATION_S + 1) == ()
