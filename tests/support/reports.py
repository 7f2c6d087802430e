# SPDX-License-Identifier: Apache-2.0
"""Identities of five other nodes as peers advertise them, for the tests of the view. This node is a sixth."""

from ipaddress import IPv4Address

from agent.membership.peer_table import Advertisement, PeerReport
from agent.membership.view import View
from agent.model import Share, State

A, B, C, D, E = (IPv4Address(f"10.0.0.{number}") for number in range(11, 16))
DOWN = PeerReport(up=False, advertisements={})


def identity(address: IPv4Address, state: State = State.UP, weight: int = 100, version: int = 0) -> Advertisement:
    """Return an identity with one service, of id 5."""
    return Advertisement(address, 1, {5: Share(100, weight if state is State.UP else 0, state)}, version=version)


def up(*identities: Advertisement, since: float = 0.0) -> PeerReport:
    """Return the report of a peer whose session is up and that advertises these identities."""
    return PeerReport(up=True, advertisements={one.address: one for one in identities}, since=since)


def states(view: View) -> dict[IPv4Address, State]:
    """Return the state of each member."""
    return {member.address: member.state for member in view.members}


FIVE = tuple(identity(address, version=8) for address in (A, B, C, D, E))
ALL_UP = dict.fromkeys((A, B, C, D, E), State.UP)
