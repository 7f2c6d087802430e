# SPDX-License-Identifier: Apache-2.0
"""Which workers run which groups of tests (support/parallel.py)."""

from collections import Counter, deque
from types import SimpleNamespace

import pytest
from support.parallel import LABS, ByGroup, group, has_lab

LAB_FILES = ["cluster/test_deny.py", "cluster/test_epochs.py", "cluster/test_members.py", "cluster/test_night.py",
             "cluster/test_operator.py", "cluster/test_units.py"]  # fmt: skip
OTHER_FILES = ["agent/table/test_maglev.py", "proof/test_fixtures.py", "agent/table/test_rendezvous.py"]


class Worker:
    """A worker as xdist's are: it begins a test when it knows the next one, or that there is none."""

    def __init__(self, number: int, tests: list[str]) -> None:
        self.gateway = SimpleNamespace(id=f"gw{number}")
        self.shutting_down = False
        self.pending: deque[int] = deque()
        self.ran: list[str] = []
        self._tests = tests

    def send_runtest_some(self, indices: list[int]) -> None:
        assert not self.shutting_down
        self.pending += indices

    def shutdown(self) -> None:
        self.shutting_down = True

    def run_one(self) -> int | None:
        """Run the next test; return its number, None if there is nothing that can begin."""
        if not self.pending or (len(self.pending) == 1 and not self.shutting_down):
            return None
        done = self.pending.popleft()
        self.ran.append(self._tests[done])
        return done


def files(names: list[str], tests: int) -> list[str]:
    return [f"tests/{name}::test_{number}" for name in names for number in range(tests)]


def play(tests: list[str], workers: int) -> list[Worker]:
    """Run all tests, on each worker one after the other in turn; return the workers."""
    option = SimpleNamespace(loadscopereorder=False, tx=[f"{workers}*popen"])
    config = SimpleNamespace(option=option, getvalue=lambda name: getattr(option, name))
    scheduler = ByGroup(config, SimpleNamespace(loadscopesched=lambda *_: None))  # type: ignore[arg-type]
    made = [Worker(number, tests) for number in range(workers)]
    for one in made:
        scheduler.add_node(one)  # type: ignore[arg-type]
        scheduler.add_node_collection(one, tests)  # type: ignore[arg-type]
    scheduler.schedule()
    ran = True
    while ran:
        ran = False
        for one in made:
            if (done := one.run_one()) is not None:
                scheduler.mark_test_complete(one, done)  # type: ignore[arg-type]
                ran = True
    assert not scheduler.has_pending
    return made


@pytest.mark.parametrize("workers", [1, 2, LABS, LABS + 1, LABS + 2])
@pytest.mark.parametrize(("labs", "others"), [(1, 30), (3, 1), (30, 1), (30, 30)])
def test_each_test_runs_once_and_labs_on_the_first_workers_alone(workers: int, labs: int, others: int) -> None:
    tests = [*files(OTHER_FILES, others), *files(LAB_FILES, labs)]
    made = play(tests, workers)
    assert Counter(name for one in made for name in one.ran) == Counter(tests)
    for number, one in enumerate(made):
        where = {group(name) for name in one.ran}
        assert number < LABS or not any(has_lab(name) for name in where)
        order = [group(name) for name in one.ran]
        assert [name for place, name in enumerate(order) if name != order[place - 1 : place]] == order
    for name in set(map(group, tests)):
        assert sum(name in set(map(group, one.ran)) for one in made) == 1, "a group is one worker's"


def test_all_workers_run_what_needs_no_lab_once_labs_are_handed_out() -> None:
    made = play([*files(OTHER_FILES, 9), *files(LAB_FILES[:1], 3)], LABS + 1)
    assert sum(bool(one.ran) for one in made) == LABS + 1
    assert all(one.shutting_down for one in made)


def test_files_with_a_lab_are_those_that_are_marked() -> None:
    assert all(has_lab(f"tests/{name}") for name in LAB_FILES)
    assert not any(has_lab(f"tests/{name}") for name in OTHER_FILES)
