# SPDX-License-Identifier: Apache-2.0
"""What this node knows of the others, as JSON for `lbctl status`: which nodes answer, agree, and reach each other."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Any

from agent.node.membership import Membership


def membership_status(membership: Membership) -> dict[str, Any]:
    """Return whether all nodes agree, and which nodes some do not reach."""
    agreement = membership.agreement
    return {
        "nodes": agreement.nodes,
        "agree": not agreement.differing,
        "since": agreement.since,
        "differing": [{"address": str(address), "in": what} for address, what in sorted(agreement.differing.items())],
        "services": [line for kind, _, line in membership.obstacles if kind == "services"],
        "isolated": membership.isolated,
        "unreachable": _unreachable(membership),
    }


def echo_status(membership: Membership, address: IPv4Address) -> dict[str, Any]:
    """Return whether a node answers, since when it does not, and its round trip times and losses by encapsulation."""
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


def _unreachable(membership: Membership) -> list[dict[str, Any]]:
    """Return the nodes that some do not reach, with those that do not and those that do."""
    by: dict[IPv4Address, set[IPv4Address]] = {}
    own, view = membership.own, membership.view
    lists = {
        own: view.unreachable,
        **{address: state.unreachable for address, state in membership.present_states().items()},
    }
    for observer, unreachable in lists.items():
        for address in unreachable:
            by.setdefault(address, set()).add(observer)
    return [
        {
            "address": str(address),
            "by": [str(one) for one in sorted(observers)],
            "reached_by": [
                str(one) for one in sorted(lists.keys() - observers - {address}) if _reaches(membership, one, address)
            ],
        }
        for address, observers in sorted(by.items())
    ]


def _reaches(membership: Membership, observer: IPv4Address, address: IPv4Address) -> bool:
    """Whether a node reaches another one; one that does not know it reports nothing of it."""
    if observer != membership.own:
        return membership.view.reaches(observer, address)
    liveness = membership.liveness.get(address)
    return liveness is not None and bool(liveness.answers)
