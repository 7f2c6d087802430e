# SPDX-License-Identifier: Apache-2.0
"""The state that an agent leaves for the next one on the same boot: the health, the admin state, the boot.

Without it a restarted agent would consider its services unhealthy, and so change weights for no reason. The file is
below /run, so a reboot starts with none, and CLOCK_MONOTONIC stays comparable. The members are saved_members.py's;
orders, which outlive a reboot, are order_file.py's.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from agent import json_value, private_file
from agent.address import Address, Network
from agent.announcing.export_status import StatusEntry
from agent.announcing.hold_down import MAX_HOLD_S, FlapRecord
from agent.channel.nat_state import BackendOrder
from agent.json_value import MONOTONIC_S, U32, U64, WALL_S, real, whole
from agent.model import MAX_WEIGHT, State
from agent.table.epoch import EpochUse

log = logging.getLogger("anylb")

MAX_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class SavedState:
    """The state that outlives an agent."""

    healthy: frozenset[str] = field(default_factory=frozenset)
    admin_state: State = State.UP
    announced_once: frozenset[Address] = field(default_factory=frozenset)
    vips: frozenset[Address] = field(default_factory=frozenset)
    """The VIPs that the agent served, most of them on lo: one that leaves the configuration is removed later."""
    denied: frozenset[Network] = field(default_factory=frozenset)
    """The prefixes that `lbctl deny` added to the configuration's own list."""
    boot: int = 0
    """The number of this boot: with another one its connections are gone. 0: none yet."""
    use: EpochUse | None = None
    """How it used its epochs; needed only when the maps in the kernel, which hold it too, have another size."""
    drained: frozenset[str] = field(default_factory=frozenset)
    """Services that `lbctl backend drain` named."""
    weights: tuple[tuple[str, int], ...] = ()
    """Effective weights that `lbctl backend weight` set, by service."""
    flaps: Mapping[Address, FlapRecord] = field(default_factory=dict)
    """The recent faults of each VIP: a restart does not end their hold-down."""
    backend_orders: Mapping[int, BackendOrder] = field(default_factory=dict)
    """The last order for each backend that had one, by number."""
    export_statuses: tuple[StatusEntry, ...] = ()
    """The export status of each VIP at each peer, with its time."""


class StateFile:
    """The file, for its writer."""

    def __init__(self, path: Path, saved: SavedState) -> None:
        """`saved` is what the file holds now."""
        self.path, self.saved = path, saved
        self._error: str | None = None

    def save(self, saved: SavedState) -> None:
        """Save the state if it differs. A failure is logged once; the next call tries again: without the file only a
        restart costs more."""
        if saved == self.saved:
            return
        try:
            private_file.write(self.path, json.dumps(_to_json(saved)))
        except OSError as error:
            if self._error != error.strerror:
                log.error("%s: %s; a restarted agent will not know the state of this one", self.path, error.strerror)
            self._error = error.strerror
        else:
            self.saved, self._error = saved, None


def load(path: Path) -> SavedState:
    """Return the state that an earlier agent left; an empty one if there is none or it cannot be read."""
    try:
        return _from_json(json_value.decode(private_file.read_own(path, MAX_BYTES)))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return SavedState()


def _to_json(saved: SavedState) -> dict[str, Any]:
    return {
        "healthy": sorted(saved.healthy),
        "admin_state": saved.admin_state,
        "announced_once": sorted(map(str, saved.announced_once)),
        "vips": sorted(map(str, saved.vips)),
        "denied": sorted(map(str, saved.denied)),
        "boot": saved.boot,
        "use": [saved.use.first, saved.use.alternating] if saved.use else None,
        "drained": sorted(saved.drained),
        "weights": dict(saved.weights),
        "flaps": {str(vip): [flap.at, flap.hold_s, flap.count] for vip, flap in saved.flaps.items()},
        "backend_orders": [[number, one.version, one.drained] for number, one in sorted(saved.backend_orders.items())],
        "export_statuses": [entry.to_json() for entry in saved.export_statuses],
    }


def _from_json(data: dict[str, Any]) -> SavedState:
    return SavedState(
        healthy=frozenset(map(str, data["healthy"])),
        admin_state=State(data["admin_state"]),
        announced_once=frozenset(map(_address, data["announced_once"])),
        vips=frozenset(map(_address, data["vips"])),
        denied=frozenset(ip_network(str(one)) for one in data.get("denied", ())),
        boot=whole(data.get("boot", 0), U64),
        use=EpochUse(whole(use[0], U32), bool(use[1])) if (use := data.get("use")) else None,
        drained=frozenset(map(str, data.get("drained", ()))),
        weights=tuple(
            sorted((str(name), whole(weight, MAX_WEIGHT)) for name, weight in data.get("weights", {}).items())
        ),
        flaps={
            _address(vip): FlapRecord(real(f[0], MONOTONIC_S), real(f[1], MAX_HOLD_S), whole(f[2], U32))
            for vip, f in data.get("flaps", {}).items()
        },
        backend_orders={
            whole(number, U32): BackendOrder(whole(version, U32), bool(drained))
            for number, version, drained in data.get("backend_orders", ())
        },
        export_statuses=tuple(map(_status_entry, data.get("export_statuses", ()))),
    )


def _address(value: object) -> Address:
    return ip_address(str(value))


def _status_entry(value: dict[str, Any]) -> StatusEntry:
    real(value["since"], WALL_S)
    return StatusEntry.from_json(value)
