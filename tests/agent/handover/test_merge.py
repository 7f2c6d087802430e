# SPDX-License-Identifier: Apache-2.0
"""Two records of one slot: each rule by an example, and what holds for all pairs."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.session_records import free, record

from agent.handover.merge import Outcome, merged, outcomes
from agent.handover.record import Records
from bpf.layout.session import SessionState

_, SYN, EST, FIN, CLOSED, BUSY, RESERVED = SessionState
OLD = {"created_age": 100, "stamp_age": 3}
YOUNG = {"created_age": 20, "stamp_age": 3}
SILENT_SINCE = {"created_age": 100, "stamp_age": 50}


@pytest.mark.parametrize(
    ("own", "other", "expected"),
    [
        (free(), record(), Outcome.TAKE),
        (record(state=BUSY), record(), Outcome.WAIT),
        (record(client=0, state=RESERVED, **OLD), record(client=2, **YOUNG), Outcome.TAKE),
        (record(), record(), Outcome.MERGE),
        (record(state=CLOSED), record(), Outcome.MERGE),
        (record(client=1, **SILENT_SINCE), record(client=2, **YOUNG), Outcome.TAKE),
        (record(client=1, **YOUNG), record(client=2, **SILENT_SINCE), Outcome.DROP),
        (record(client=1, state=CLOSED, **SILENT_SINCE), record(client=1, **YOUNG), Outcome.TAKE),
        (record(client=1, **YOUNG), record(client=1, state=CLOSED, **SILENT_SINCE), Outcome.DROP),
        (record(client=1, state=CLOSED, **OLD), record(client=2, **YOUNG), Outcome.TAKE),
        (record(client=1, **OLD), record(client=2, state=CLOSED, **YOUNG), Outcome.DROP),
        (record(client=1, **OLD), record(client=2, **YOUNG), Outcome.REFUSE),
        (record(client=1, **YOUNG), record(client=2, **OLD), Outcome.TAKE_AND_RESET),
    ],
    ids=lambda one: one.name if isinstance(one, Outcome) else "",
)
def test_rules(own: Records, other: Records, expected: Outcome) -> None:
    assert outcomes(own, other).tolist() == [expected]


def test_the_same_session_gets_all_flags_the_more_advanced_state_and_what_came_later() -> None:
    own = record(state=FIN, flags=1, stamp_age=5, client_ack=10, backend_ack=20)
    other = record(state=EST, flags=6, stamp_age=3, client_ack=11, backend_ack=21, created_age=11)
    for one in (merged(own, other), merged(other, own)):
        found = [one[name].item() for name in ("state", "flags", "stamp_age", "client_ack", "backend_ack")]
        assert found == [FIN, 7, 3, 11, 21]


@st.composite
def records(draw: st.DrawFn) -> Records:
    created = draw(st.integers(0, 5))
    values: dict[str, Any] = {
        "client": draw(st.integers(1, 2)),
        "state": draw(st.sampled_from((SYN, EST, FIN, CLOSED))),
        "created_age": created,
        "stamp_age": draw(st.integers(0, created)),
    }
    one: Records = record(**values)
    return one


@given(records(), records())
def test_two_nodes_that_exchange_their_records_keep_the_same_session(one: Records, other: Records) -> None:
    there, here = Outcome(outcomes(one, other)[0]), Outcome(outcomes(other, one)[0])
    keeps_one = {Outcome.DROP, Outcome.REFUSE}
    takes = {Outcome.TAKE, Outcome.TAKE_AND_RESET}
    if Outcome.MERGE in (there, here):
        assert there == here
    else:
        both_closed = one["state"] == other["state"] == CLOSED
        assert (there in takes and here in keeps_one) or (there in keeps_one and here in takes) or both_closed
    resets = {Outcome.TAKE_AND_RESET, Outcome.REFUSE}
    assert (there in resets) == (here in resets)


def test_many_at_once_are_as_each_alone() -> None:
    own = np.concatenate([record(client=1, **OLD), free(), record(client=3, state=BUSY)])
    other = np.concatenate([record(client=2, **YOUNG), record(), record(client=3)])
    assert outcomes(own, other).tolist() == [Outcome.REFUSE, Outcome.TAKE, Outcome.WAIT]
