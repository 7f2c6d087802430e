# SPDX-License-Identifier: Apache-2.0
"""The files that an agent leaves for the next one, together: the state, the members, and the nodes that it knew."""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

from agent.model import Member
from agent.node import saved_members, saved_state
from agent.node.known_nodes import KnownNodes
from agent.node.saved_members import MemberFile
from agent.node.saved_state import SavedState, StateFile
from agent.paths import Paths


class KeptFiles:
    """What an earlier agent left, and the writers of what this one leaves."""

    def __init__(self, paths: Paths) -> None:
        self.state = saved_state.load(paths.state)
        """What the state file held at the start."""
        self._members_path = paths.members
        self._state_file = StateFile(paths.state, self.state)
        self._member_file = MemberFile(paths.members)
        self._known_nodes = KnownNodes(paths.known_nodes)

    @property
    def known_nodes(self) -> frozenset[IPv4Address]:
        """The nodes that were known, also before a reboot."""
        return self._known_nodes.addresses

    def members(self, own: IPv4Address) -> tuple[Member, ...]:
        """Return the members that an earlier agent saved, without this node, whose address may have been another's."""
        return tuple(member for member in saved_members.load(self._members_path) if member.address != own)

    def save(self, state: SavedState, members: tuple[Member, ...], known: bool) -> None:
        """Save what differs. `known`: the view is whole. A state without a use of epochs keeps the one in the file."""
        self._member_file.save(members)
        if known:
            self._known_nodes.save(members)
        self._state_file.save(state if state.use else replace(state, use=self._state_file.saved.use))

    def tasks(self) -> list[Coroutine[Any, Any, None]]:
        """Return what must run for as long as the agent does."""
        return [self._member_file.run()]

    def flush(self) -> None:
        """Write what is not written yet: the next agent reads the files."""
        self._member_file.flush()
