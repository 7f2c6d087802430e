# SPDX-License-Identifier: Apache-2.0
"""Reports that are the same objects as before are skipped until time alone changes the view: never longer."""

from collections.abc import Mapping

import pytest
from support.reports import ALL_UP, DOWN, FIVE, A, up

from agent.membership.peer_table import PeerReport
from agent.membership.view import View

Story = list[tuple[float, dict[str, PeerReport]]]
FOUR = FIVE[1:]
STORIES: dict[str, Story] = {
    "a lost member is forgotten": [(0, {"r": up(*FIVE)}), (10, {"r": up(*FOUR)})],
    "a member flaps, and its damping ends": [
        (second, {"r": up(*(FOUR if second % 2 else FIVE))}) for second in range(9)
    ],
    "a peer comes back and does not advertise one again": [
        (0, {"r": up(*FIVE)}),
        (10, {"r": DOWN}),
        (20, {"r": up(*FOUR, since=20.0)}),
    ],
    "most members vanish and do not reply": [(0, {"r": up(*FIVE)}), (10, {"r": up(FIVE[0])})],
    "only a disconnected router advertised one": [
        (0, {"r": up(*FIVE), "q": up(*FOUR)}),
        (10, {"r": DOWN, "q": up(*FOUR)}),
    ],
}


@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES)
def test_view_of_unchanged_reports_is_that_of_equal_ones(story: Story) -> None:
    same, equal = View(), View()
    differs = set()
    for (begin, reports), end in zip(story, [*(at for at, _ in story[1:]), story[-1][0] + 1500.0], strict=True):
        now = float(begin)
        while now < end:
            same.observe(reports, now)
            equal.observe(copied(reports), now)
            assert same.take_due_probes(now) == equal.take_due_probes(now)
            assert same.members == equal.members, now
            differs.add(str(same.members))
            now += 0.5
    assert len(differs) > 1, "time changed it"


def test_members_are_the_same_object_until_one_changes() -> None:
    view, reports = View(), {"r": up(*FIVE)}
    view.observe(reports, 0.0)
    members = view.members
    view.observe(reports, 0.5)
    view.observe(copied(reports), 1.0)
    assert view.members is members
    assert {member.address for member in members} == ALL_UP.keys()
    view.observe({"r": up(*FOUR)}, 2.0)
    assert next(member for member in view.members if member.address == A).lost


def copied(reports: Mapping[str, PeerReport]) -> dict[str, PeerReport]:
    """Return equal reports that are other objects."""
    return {name: PeerReport(one.up, dict(one.advertisements), one.since, one.eor) for name, one in reports.items()}
