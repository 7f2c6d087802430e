# SPDX-License-Identifier: Apache-2.0
"""What an agent starts from: what the one before it left in the state file and in the kernel."""

from __future__ import annotations

import secrets
from collections.abc import Callable, MutableMapping

from agent.announcing.decide import Decisions
from agent.config.schema import Config
from agent.health.rise_fall import Health
from agent.node.backend_keeper import BackendKeeper
from agent.node.candidates import Candidates, table_keys
from agent.node.forwarder import Forwarder
from agent.node.membership import Membership
from agent.node.plan import Memory, OperatorState, ThisNode
from agent.node.saved_state import SavedState
from agent.sessions.keeper import SessionKeeper
from agent.sessions.session_table import SessionTable
from agent.sessions.watch import SessionWatch
from agent.table.epoch import EpochSwitch, EpochUse
from bpf.layout.counter import Counter


def boot_number(saved: int, forwarder: Forwarder | None) -> int:
    """Return the number of this boot: what an earlier agent saved, or had the program answer with, or a new one.

    Another one would tell the others that this node's connections are gone.
    """
    return saved or (forwarder.boot if forwarder is not None else 0) or secrets.randbits(64) or 1


def session_keeper(config: Config, forwarder: Forwarder | None, on_change: Callable[[], None]) -> SessionKeeper | None:
    """Return the keeper of this node's sessions; None if it has none. Raises BpfError without atomic operations."""
    maps = forwarder.datapath.maps if forwarder is not None else None
    if forwarder is None or maps is None or maps.sessions is None or maps.nat is None:
        return None
    names = {forwarder.map_writer.slot(service.name): service.name for _, service in config.nat_services}
    counters = maps.counters

    def refused() -> int:
        return sum(counters.of_slot(slot)[Counter.DROP_NAT_FULL.name.lower()] for slot in names)

    table = SessionTable(maps.sessions, maps.nat)
    watch = SessionWatch(table, maps.nat.open_events, maps.nat.set_watched)
    return SessionKeeper(table, watch, refused, names, on_change)


def backend_keeper(
    node: ThisNode,
    saved: SavedState,
    forwarder: Forwarder | None,
    membership: Membership,
    sessions: SessionKeeper | None,
    health: MutableMapping[str, Health],
    on_change: Callable[[], None],
) -> BackendKeeper | None:
    """Return the keeper of the backends; None without NAT."""
    if forwarder is None or forwarder.nat is None:
        return None
    return BackendKeeper(node, forwarder.nat, forwarder, membership, sessions, saved.backend_orders, health, on_change)


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
