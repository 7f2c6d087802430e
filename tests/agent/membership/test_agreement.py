# SPDX-License-Identifier: Apache-2.0
"""Whether all nodes have this one's view and tables, by the digests in their answers."""

from dataclasses import replace

from support.observations import A, B, C, answers, silent

from agent.membership.agreement import Agreement, Digests
from agent.membership.digest import tables_digest

OWN = Digests(view=3, tables=7)
SAME = replace(answers(), view_digest=3, tables_digest=7)


def test_nodes_that_answer_with_other_digests_differ_since_then() -> None:
    agreed = Agreement().after(OWN, {A: SAME, B: SAME}, 100.0)
    assert agreed == Agreement(3, {}, 100.0)
    assert agreed.after(OWN, {A: SAME, B: replace(SAME, since=9.0)}, 101.0) is agreed
    other_tables, other_view = replace(SAME, tables_digest=8), replace(SAME, view_digest=4, tables_digest=8)
    differing = agreed.after(OWN, {A: other_tables, B: SAME}, 102.0)
    assert differing == Agreement(3, {A: "tables"}, 102.0)
    assert differing.after(OWN, {A: replace(other_tables, tables_digest=9), B: SAME}, 103.0) is differing
    assert differing.after(OWN, {A: other_view, B: SAME}, 104.0) == Agreement(3, {A: "view"}, 104.0)
    assert differing.after(Digests(3, 8), {A: other_tables, B: SAME}, 105.0).differing == {B: "tables"}


def test_only_nodes_that_answer_and_are_ready_count() -> None:
    """One that starts has no tables yet, and what a silent one answered last is old."""
    liveness = {A: replace(SAME, ready=False, view_digest=4), B: replace(silent(1.0), view_digest=4), C: SAME}
    assert Agreement().after(OWN, liveness, 5.0) == Agreement(2, {}, 5.0)
    assert Agreement(2, {}, 5.0).after(OWN, {}, 6.0) == Agreement(1, {}, 6.0)


def test_digest_of_tables_is_the_same_in_any_order() -> None:
    one = {"192.0.2.10:443/tcp": "ab12", "192.0.2.11:53/udp": "cd34"}
    assert tables_digest(one) == tables_digest(dict(reversed(one.items())))
    swapped = dict(zip(one, reversed(one.values()), strict=True))
    assert (
        len({tables_digest(one), tables_digest(swapped), tables_digest({}), tables_digest(dict([*one.items()][:1]))})
        == 4
    )
