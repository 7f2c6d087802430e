# SPDX-License-Identifier: Apache-2.0
"""What `lbctl instance list` shows of an instance. Pure."""

from __future__ import annotations

from typing import Any

from agent.instances.choice import Decision, Instance
from agent.instances.record import Record


def instance_status(one: Instance, decision: Decision, record: Record, why: str) -> dict[str, Any]:
    """Return an instance as JSON values; `why`: its last answer to a check."""
    weight = decision.weight(one.name)
    drained = one.name in record.operator.drained
    return {
        "name": one.name,
        "state": _state(one, drained, weight > 0),
        "why": why,
        "weight": weight,
        "listeners": len(one.cookies),
        "pid": one.pids[0],
        "processes": len(one.pids),
        "added": any(added.name == one.name for added in record.added),
    }


def _state(one: Instance, drained: bool, takes: bool) -> str:
    if not one.cookies:
        return "not listening"
    if drained:
        return "draining"
    return "unhealthy" if one.healthy is False else "active" if takes else "standby"
