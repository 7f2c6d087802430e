# SPDX-License-Identifier: Apache-2.0
"""What an agent leaves for its successor on the same boot: the view, the health, the node's intent.

Without it a restarted agent would believe its services unhealthy and forget who is lost, and so change weights and
chains for no reason. The file lies below /run, so that a reboot begins afresh; CLOCK_MONOTONIC stays comparable. What
outlives a reboot is order_file.py's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any

from agent.address import Address, Network
from agent.announcing.export_status import StatusEntry
from agent.announcing.hold_down import FlapRecord
from agent.membership.identity_version import Version
from agent.model import Member, Share, State
from agent.table.epoch import EpochUse


@dataclass(frozen=True, slots=True)
class SavedState:
    """The state that outlives an agent."""

    members: tuple[Member, ...] = ()
    healthy: frozenset[str] = field(default_factory=frozenset)
    intent: State = State.UP
    begun: frozenset[Address] = field(default_factory=frozenset)
    vips: frozenset[Address] = field(default_factory=frozenset)
    """The addresses that the agent put on lo, so that one whose service left the configuration can be taken off."""
    denied: frozenset[Network] = field(default_factory=frozenset)
    """What `lbctl deny` added to the configuration's own list."""
    version: Version | None = None
    """What this node's identity was last announced under."""
    use: EpochUse | None = None
    """How it used its epochs; what the kernel does tells it too, as long as the rows are as many."""
    drained: frozenset[str] = field(default_factory=frozenset)
    """Services that `lbctl backend drain` named."""
    weights: tuple[tuple[str, int], ...] = ()
    """Effective weights that `lbctl backend weight` set, by service."""
    falls: Mapping[Address, FlapRecord] = field(default_factory=dict)
    """How VIPs have been falling of late: a restart does not forgive it."""
    standings: tuple[StatusEntry, ...] = ()
    """How each VIP stood at each peer, and since when."""


def save(path: Path, saved: SavedState) -> None:
    """Write aside and rename, so that a reader never sees half a file."""
    aside = path.with_suffix(".new")
    aside.write_text(json.dumps(_to_json(saved)), encoding="utf-8")
    os.replace(aside, path)


def load(path: Path) -> SavedState:
    """The predecessor's state; an empty one where there is none or it cannot be read (it is only ever a shortcut)."""
    try:
        return _from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return SavedState()


def _to_json(saved: SavedState) -> dict[str, Any]:
    return {
        "members": [
            {
                "address": str(member.address),
                "epoch": member.epoch,
                "shares": {str(sid): [s.weight, s.effective, s.state, s.announced] for sid, s in member.shares.items()},
                "lost": member.lost,
                "since": member.since,
                "why": member.why,
                "address6": str(member.address6) if member.address6 else None,
                "version": member.version,
                "epochs": member.epochs,
                "changed": member.changed,
                "change": member.change,
            }
            for member in saved.members
        ],
        "healthy": sorted(saved.healthy),
        "intent": saved.intent,
        "begun": sorted(map(str, saved.begun)),
        "vips": sorted(map(str, saved.vips)),
        "denied": sorted(map(str, saved.denied)),
        "version": [saved.version.number, saved.version.content] if saved.version else None,
        "use": [saved.use.first, saved.use.alternating] if saved.use else None,
        "drained": sorted(saved.drained),
        "weights": dict(saved.weights),
        "falls": {str(vip): [fall.at, fall.hold_s, fall.count] for vip, fall in saved.falls.items()},
        "standings": [entry.to_json() for entry in saved.standings],
    }


def _from_json(data: dict[str, Any]) -> SavedState:
    members = tuple(
        Member(
            IPv4Address(entry["address"]),
            int(entry["epoch"]),
            {int(sid): _share(*share) for sid, share in entry["shares"].items()},
            bool(entry["lost"]),
            float(entry["since"]),
            str(entry["why"]),
            IPv6Address(entry["address6"]) if entry.get("address6") else None,
            int(entry.get("version", 0)),
            tuple(map(int, entry.get("epochs", ()))),
            float(entry.get("changed", 0.0)),
            str(entry.get("change", "")),
        )
        for entry in data["members"]
    )
    number, content = data.get("version") or (0, "")
    return SavedState(
        members=members,
        healthy=frozenset(map(str, data["healthy"])),
        intent=State(data["intent"]),
        begun=frozenset(map(ip_address, data["begun"])),
        vips=frozenset(map(ip_address, data["vips"])),
        denied=frozenset(map(ip_network, data.get("denied", ()))),
        version=Version(int(number), str(content)) if number else None,
        use=EpochUse(int(use[0]), bool(use[1])) if (use := data.get("use")) else None,
        drained=frozenset(map(str, data.get("drained", ()))),
        weights=tuple(sorted((str(name), int(weight)) for name, weight in data.get("weights", {}).items())),
        falls={
            ip_address(vip): FlapRecord(float(f[0]), float(f[1]), int(f[2])) for vip, f in data.get("falls", {}).items()
        },
        standings=tuple(map(StatusEntry.from_json, data.get("standings", ()))),
    )


def _share(weight: int, effective: int, state: str, announced: bool = True) -> Share:
    return Share(int(weight), int(effective), State(state), bool(announced))
