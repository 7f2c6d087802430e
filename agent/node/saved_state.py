# SPDX-License-Identifier: Apache-2.0
"""The state that an agent leaves for the next one on the same boot: the health, the admin state, the version.

Without it a restarted agent would consider its services unhealthy, and so change weights for no reason. The file is
below /run, so a reboot starts with none, and CLOCK_MONOTONIC stays comparable. The members are member_file.py's;
orders, which outlive a reboot, are order_file.py's.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from agent.address import Address, Network
from agent.announcing.export_status import StatusEntry
from agent.announcing.hold_down import FlapRecord
from agent.membership.identity_version import Version
from agent.model import State
from agent.table.epoch import EpochUse

log = logging.getLogger("anylb")


@dataclass(frozen=True, slots=True)
class SavedState:
    """The state that outlives an agent."""

    healthy: frozenset[str] = field(default_factory=frozenset)
    admin_state: State = State.UP
    announced_once: frozenset[Address] = field(default_factory=frozenset)
    vips: frozenset[Address] = field(default_factory=frozenset)
    """The VIPs that the agent put on lo: one whose service leaves the configuration must be removed later."""
    denied: frozenset[Network] = field(default_factory=frozenset)
    """The prefixes that `lbctl deny` added to the configuration's own list."""
    version: Version | None = None
    """The version under which this node last announced its identity."""
    use: EpochUse | None = None
    """How it used its epochs; needed only when the maps in the kernel, which hold it too, have another size."""
    drained: frozenset[str] = field(default_factory=frozenset)
    """Services that `lbctl backend drain` named."""
    weights: tuple[tuple[str, int], ...] = ()
    """Effective weights that `lbctl backend weight` set, by service."""
    flaps: Mapping[Address, FlapRecord] = field(default_factory=dict)
    """The recent faults of each VIP: a restart does not end their hold-down."""
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
            self._write(saved)
        except OSError as error:
            if self._error != error.strerror:
                log.error("%s: %s; a restarted agent will not know the state of this one", self.path, error.strerror)
            self._error = error.strerror
        else:
            self.saved, self._error = saved, None

    def _write(self, saved: SavedState) -> None:
        """Write another file and rename it, so that no reader ever sees half a file."""
        temporary = self.path.with_suffix(".new")
        temporary.write_text(json.dumps(_to_json(saved)), encoding="utf-8")
        os.replace(temporary, self.path)


def load(path: Path) -> SavedState:
    """Return the state that an earlier agent left; an empty one if there is none or it cannot be read."""
    try:
        return _from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return SavedState()


def _to_json(saved: SavedState) -> dict[str, Any]:
    return {
        "healthy": sorted(saved.healthy),
        "admin_state": saved.admin_state,
        "announced_once": sorted(map(str, saved.announced_once)),
        "vips": sorted(map(str, saved.vips)),
        "denied": sorted(map(str, saved.denied)),
        "version": [saved.version.number, saved.version.content] if saved.version else None,
        "use": [saved.use.first, saved.use.alternating] if saved.use else None,
        "drained": sorted(saved.drained),
        "weights": dict(saved.weights),
        "flaps": {str(vip): [flap.at, flap.hold_s, flap.count] for vip, flap in saved.flaps.items()},
        "export_statuses": [entry.to_json() for entry in saved.export_statuses],
    }


def _from_json(data: dict[str, Any]) -> SavedState:
    number, content = data.get("version") or (0, "")
    return SavedState(
        healthy=frozenset(map(str, data["healthy"])),
        admin_state=State(data["admin_state"]),
        announced_once=frozenset(map(ip_address, data["announced_once"])),
        vips=frozenset(map(ip_address, data["vips"])),
        denied=frozenset(map(ip_network, data.get("denied", ()))),
        version=Version(int(number), str(content)) if number else None,
        use=EpochUse(int(use[0]), bool(use[1])) if (use := data.get("use")) else None,
        drained=frozenset(map(str, data.get("drained", ()))),
        weights=tuple(sorted((str(name), int(weight)) for name, weight in data.get("weights", {}).items())),
        flaps={
            ip_address(vip): FlapRecord(float(f[0]), float(f[1]), int(f[2])) for vip, f in data.get("flaps", {}).items()
        },
        export_statuses=tuple(map(StatusEntry.from_json, data.get("export_statuses", ()))),
    )
