# SPDX-License-Identifier: Apache-2.0
"""What this node hears of the others, as JSON for `lbctl status`: who answers, who agrees, who does not hear whom."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Any

from agent.node.membership import Membership


def membership_status(membership: Membership) -> dict[str, Any]:
    """Return whether all nodes agree, and who does not hear whom."""
    agreement = membership.agreement
    return {
        "nodes": agreement.nodes,
        "agree": not agreement.differing,
        "since": agreement.since,
        "differing": [{"address": str(address), "in": what} for address, what in sorted(agreement.differing.items())],
        "isolated": membership.isolated,
        "unheard": _unheard(membership),
    }


def echo_status(membership: Membership, address: IPv4Address) -> dict[str, Any]:
    """Return whether a node answers, since when it does not, and its round trip times and losses by each way."""
    liveness = membership.liveness.get(address)
    return {
        "answers": liveness.answers if liveness else None,
        "agent_lives": bool(liveness and liveness.agent_lives),
        "ways": {
            str(via): {
                "rtt_ms": None if stats.rtt_s is None else round(stats.rtt_s * 1000, 3),
                "asked": stats.asked,
                "unanswered": stats.unanswered,
            }
            for via, stats in membership.echo_stats(address).items()
        },
    }


def _unheard(membership: Membership) -> list[dict[str, Any]]:
    """Return the nodes that some do not hear, with those that do not and those that do."""
    by: dict[IPv4Address, set[IPv4Address]] = {}
    own, view = membership.own, membership.view
    voices = {own: view.unheard, **{address: state.unheard for address, state in membership.heard_states().items()}}
    for voice, unheard in voices.items():
        for address in unheard:
            by.setdefault(address, set()).add(voice)
    return [
        {
            "address": str(address),
            "by": [str(one) for one in sorted(deaf)],
            "heard_by": [
                str(one) for one in sorted(voices.keys() - deaf - {address}) if _hears(membership, one, address)
            ],
        }
        for address, deaf in sorted(by.items())
    ]


def _hears(membership: Membership, voice: IPv4Address, address: IPv4Address) -> bool:
    """Whether a node hears another one; one that does not know it says nothing of it."""
    if voice != membership.own:
        return membership.view.hears(voice, address)
    liveness = membership.liveness.get(address)
    return liveness is not None and bool(liveness.answers)
