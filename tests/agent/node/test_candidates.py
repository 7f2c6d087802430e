# SPDX-License-Identifier: Apache-2.0
"""What tables are built from: the candidates of each service."""

from dataclasses import replace
from ipaddress import IPv4Address

from agent.model import Member, Share, State
from agent.node.candidates import Candidates, candidates, in_order, takers

A, B, C = (IPv4Address("10.0.0.11") + i for i in range(3))
WEB, DNS, NONE = "192.0.2.10:443/tcp", "192.0.2.11:53/udp", "192.0.2.12:any/tcp"


def test_candidates_omit_left_members_and_give_lost_ones_no_weight() -> None:
    def member(address: IPv4Address, state: State, lost: bool = False) -> Member:
        return Member(address, (1,), {WEB: Share(100, 100 if state is State.UP else 0, state)}, lost, 0.0, "")

    found = candidates(WEB, [member(A, State.UP), member(B, State.LEFT), member(C, State.UP, lost=True)])
    assert [(c.address, c.weight, c.effective, c.state) for c in found] == [
        (A, 100, 100, State.UP),
        (C, 100, 0, State.LOST),
    ]
    assert candidates(DNS, [member(A, State.UP)]) == ()


def test_candidates_are_those_of_each_service_kept_by_value() -> None:
    """Whatever changes, it equals what is computed afresh; what is equal is one object, across services and passes."""
    keys = {"web": WEB, "dns": DNS, "none": NONE}

    def known(address: IPv4Address, web: State, dns: State | None = None) -> Member:
        shares = {WEB: Share(100, 100 if web is State.UP else 0, web)}
        if dns is not None:
            shares[DNS] = Share(100, 100 if dns is State.UP else 0, dns)
        return Member(address, (1,), shares, False, 0.0, "")

    up, down = State.UP, State.DRAINING
    a, b, c = known(A, up, up), known(B, up, up), known(C, up, up)
    drained, half, left = known(B, down, down), known(B, up, down), known(B, State.LEFT)
    views = [(b,), (b, c), (drained, c), (half, c), (c,), (), (b, c), (left,)]
    before = Candidates(keys)
    for others in views:
        found = before.after(others, a)
        view = (a, *others)
        assert found.by_service == {name: candidates(key, view) for name, key in keys.items()}, view
        assert found.after(others, replace(a)) is found
        assert found.ends == {member.address: member.address6 for member in view}
        assert found.unserved == {name for name, row in found.by_service.items() if not takers(row)}
        web, dns = found.by_service["web"], found.by_service["dns"]
        assert (web is dns) == (web == dns)
        kept = {one: one for row in before.by_service.values() for one in row}
        assert all(kept.get(one, one) is one for row in found.by_service.values() for one in row)
        same = all(before.by_service.get(name) == row for name, row in found.by_service.items())
        assert (found.by_service is before.by_service) == same
        before = found


def test_this_node_has_its_place_by_address() -> None:
    a, b, c = (Member(address, (1,), {}, False, 0.0, "") for address in (A, B, C))
    assert in_order((), b) == (b,)
    assert [in_order((b, c), a), in_order((a, c), b), in_order((a, b), c)] == [(a, b, c)] * 3
