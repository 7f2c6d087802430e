# SPDX-License-Identifier: Apache-2.0
"""The window and the timers, each against a model that visits everything."""

from hypothesis import given
from hypothesis import strategies as st

from agent.channel.pacing import Slot, Timers, Window

SIZE, DURATION_S = 3, 10.0
steps = st.lists(
    st.tuples(st.sampled_from(["add", "release", "expire"]), st.integers(0, 5), st.sampled_from([0.0, 1.0, 5.0, 11.0]))
)


@given(steps)
def test_the_window_counts_what_is_young_and_not_released(steps: list[tuple[str, int, float]]) -> None:
    window, model, now = Window(SIZE, DURATION_S), dict[Slot, float](), 100.0
    for step, number, wait_s in steps:
        now += wait_s
        slot = (number, 1, 0)
        window.expire(now)
        model = {key: at for key, at in model.items() if now - at < DURATION_S}
        if step == "add" and window.is_open:
            window.add(slot, now)
            model[slot] = now
        elif step == "release":
            window.release(slot)
            model.pop(slot, None)
        assert window.is_open == (len(model) < SIZE)
        assert window.opens_at == min((at + DURATION_S for at in model.values()), default=float("inf"))


@given(st.lists(st.tuples(st.sampled_from(["set", "cancel", "pop"]), st.integers(0, 5), st.integers(0, 20))))
def test_timers_are_due_once_in_the_order_of_time(steps: list[tuple[str, int, int]]) -> None:
    timers, model = Timers[int](), dict[int, int]()
    for step, key, at in steps:
        if step == "set":
            timers.set(key, at)
            model[key] = at
        elif step == "cancel":
            timers.cancel(key)
            model.pop(key, None)
        else:
            due = list(timers.pop_due(at))
            assert sorted(due) == sorted(key for key in model if model[key] <= at)
            times = [model.pop(key) for key in due]
            assert times == sorted(times)
        assert timers.next_at == min(model.values(), default=float("inf"))
