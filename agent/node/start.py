# SPDX-License-Identifier: Apache-2.0
"""What an agent starts from: what the one before it left in the state file and in the kernel."""

from __future__ import annotations

import secrets

from agent.announcing.decide import Decisions
from agent.config.epoch import supported_epochs
from agent.config.schema import Config
from agent.node.candidates import Candidates, table_keys
from agent.node.forwarder import Forwarder
from agent.node.own_interface import Interface
from agent.node.plan import Memory, OperatorState, ThisNode
from agent.node.saved_state import SavedState
from agent.table.epoch import EpochSwitch, EpochUse


def this_node(config: Config, interface: Interface, wall: float) -> ThisNode:
    """Return what does not change while this agent runs. It starts at `wall`, seconds since 1970."""
    epochs = tuple(one.number for one in supported_epochs(config))
    started = int(wall) & 0xFFFFFFFF
    return ThisNode(config, interface.address, interface.address6, interface.next_hop6, epochs, started)


def boot_number(saved: int, forwarder: Forwarder | None) -> int:
    """Return the number of this boot: what an earlier agent saved, or had the program answer with, or a new one.

    With another one the others would believe that this node's connections are gone.
    """
    return saved or (forwarder.boot if forwarder is not None else 0) or secrets.randbits(64) or 1


def operator_state(saved: SavedState) -> OperatorState:
    """Return what the operator wanted of this node."""
    return OperatorState(saved.admin_state, saved.drained, dict(saved.weights))


def first_memory(node: ThisNode, saved: SavedState, use: EpochUse | None) -> Memory:
    """Return what the first plan needs: from the state file, and how the kernel's program uses the epochs."""
    known = use or (saved.use if saved.use and saved.use.first in node.epochs else None)
    flaps = {vip: record for vip, record in saved.flaps.items() if vip in node.config.vips}
    return Memory(
        candidates=Candidates(table_keys(node.config)),
        decisions=Decisions({}, flaps),
        epoch_switch=EpochSwitch(known) if known else None,
        announced_once=saved.announced_once,
    )
