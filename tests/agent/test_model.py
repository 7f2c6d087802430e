# SPDX-License-Identifier: Apache-2.0
"""The values that decisions are made of: what a member's shares mean, and that services have one name everywhere."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest

from agent.address import Address
from agent.channel.state import ServiceEndpoint
from agent.membership.identity import announces
from agent.model import Member, Share, State, service_key, without_new_flows

WEB, DNS = "192.0.2.10:443/tcp", "192.0.2.11:53/udp"
UP, DRAINING, LEFT = Share(100, 60, State.UP), Share(100, 0, State.DRAINING), Share(100, 0, State.LEFT)


def member(*shares: Share, lost: bool = False) -> Member:
    return Member(IPv4Address("10.0.0.11"), (9, 8), dict(zip((WEB, DNS), shares, strict=False)), lost, 0.0, "")


@pytest.mark.parametrize(
    ("vip", "protocol", "port", "key"),
    [
        (IPv4Address("192.0.2.10"), "tcp", 443, WEB),
        (IPv4Address("192.0.2.10"), "tcp", 0, "192.0.2.10:any/tcp"),
        (IPv6Address("2001:db8::10"), "udp", 53, "[2001:db8::10]:53/udp"),
    ],
)
def test_plan_and_channel_name_a_service_alike(vip: Address, protocol: str, port: int, key: str) -> None:
    """The view takes what others publish of a service by the text of its endpoint."""
    assert service_key(vip, protocol, port) == str(ServiceEndpoint(vip, protocol, port)) == key


@pytest.mark.parametrize(
    ("shares", "lost", "state"),
    [
        ((UP, DRAINING), False, State.UP),
        ((LEFT, DRAINING), False, State.DRAINING),
        ((LEFT, LEFT), False, State.LEFT),
        ((), False, State.LEFT),
        ((UP, UP), True, State.LOST),
    ],
)
def test_state_of_a_node_as_a_whole(shares: tuple[Share, ...], lost: bool, state: State) -> None:
    assert member(*shares, lost=lost).state is state


def test_share_of_one_service() -> None:
    assert member(UP).share(WEB) == UP
    assert member(UP).share(DNS) is None
    assert member(LEFT).share(WEB) is None
    assert member(UP, lost=True).share(WEB) == Share(100, 0, State.LOST)
    assert member(LEFT, lost=True).share(WEB) is None


def test_share_without_new_flows_keeps_its_place() -> None:
    assert without_new_flows(UP) == DRAINING
    assert without_new_flows(replace(UP, announced=False)) == replace(DRAINING, announced=False)
    assert without_new_flows(LEFT) == LEFT


def test_announcer_is_a_present_member_with_any_announced_share() -> None:
    silent = replace(UP, announced=False)
    assert announces(member(silent, DRAINING))
    assert not announces(member(silent, silent))
    assert not announces(member(UP, lost=True))


def test_epochs_of_a_member() -> None:
    assert (member().epoch, member().supports) == (9, {9, 8})
