# SPDX-License-Identifier: Apache-2.0
"""The journal's lines about a plan: how it differs from the one before."""

from __future__ import annotations

import logging

from agent.node.plan import Plan

log = logging.getLogger("anylb")


def log_changes(before: Plan | None, after: Plan) -> None:
    """Log what an operator needs to find in the journal later: announcements, members, epochs, problems."""
    known = before.announced if before else {}
    for one, new in after.announced.items():
        if new != known.get(one):
            log.info("%s: %s, %s", one, "announcing" if new.wanted else "not announcing", new.why)
    if before is not None:
        _log_members(before, after)
    first = after.tables.epoch_switch.use.first
    if before is None or first != before.tables.epoch_switch.use.first:
        log.info("new flows use epoch %#x", first)
    for line in sorted(set(after.problems) - set(before.problems if before else ())):
        log.warning("%s", line)
    for line in sorted(set(before.problems if before else ()) - set(after.problems)):
        log.info("no longer: %s", line)


def _log_members(before: Plan, after: Plan) -> None:
    states = {member.address: member.state for member in before.members}
    for member in after.members:
        if states.pop(member.address, None) != member.state:
            why = max((member.since, member.why), (member.changed, member.change))[1]
            log.info("member %s: %s%s", member.address, member.state, f", {why}" if why else "")
    for address in states:
        log.info("member %s: forgotten", address)
