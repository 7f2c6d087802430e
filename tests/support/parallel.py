# SPDX-License-Identifier: Apache-2.0
"""What workers of pytest-xdist run, and what they report: most tests take less time than xdist spends on them."""

import re
from collections.abc import Sequence
from typing import Any

import pytest
from xdist.scheduler.loadscope import LoadScopeScheduling

LAB_OF_ITS_OWN = re.compile(r"(cluster/|_lab\.py|test_demo\.py).*\[(?:.*-)?(bird|frr|gobgp|openbgpd|ipv4|ipv6)\b")

SHARED_PROGRAM = re.compile(r"tests/bpf/(maps|program|reference)/")
"""The verifier takes as long for the program as these files' tests: one worker loads it for all of them."""

SHARED_LAB = re.compile(r"(tests/cluster/(?:membership_cluster|nat_cluster|node_agent|operator_cluster))/")
"""Folders whose files have one lab."""

SHORT_S = 0.005
"""pytest lists no shorter phases among the slowest ones (`--durations`)."""


def group(nodeid: str) -> str:
    """Return what one worker runs as a whole: a file, since its tests share a lab.

    Where a file has a lab for each router or address family, each of them is a group.
    """
    if SHARED_PROGRAM.match(nodeid):
        return "tests/bpf"
    if folder := SHARED_LAB.match(nodeid):
        return folder[1]
    file = nodeid.split("::")[0]
    lab = LAB_OF_ITS_OWN.search(nodeid)
    return f"{file} {lab[2]}" if lab else file


class Collection(list[str]):
    """A worker's tests by number. xdist looks for the number of each, which takes a second for 6,000 in a list."""

    def __init__(self, nodeids: Sequence[str]) -> None:
        super().__init__(nodeids)
        self._numbers = {nodeid: number for number, nodeid in enumerate(nodeids)}

    def index(self, nodeid: str, *_: Any) -> int:
        return self._numbers[nodeid]


class ByGroup(LoadScopeScheduling):
    """A group for each worker that has nearly ended its last one."""

    def _split_scope(self, nodeid: str) -> str:
        return group(nodeid)

    def add_node_collection(self, node: Any, collection: Sequence[str]) -> None:
        super().add_node_collection(node, Collection(collection))

    def _pending_of(self, workload: dict[str, dict[str, bool]]) -> int:
        for scope in [scope for scope, tests in workload.items() if all(tests.values())]:
            del workload[scope]
        return super()._pending_of(workload)


def report_less(config: pytest.Config) -> None:
    """Have this worker report no start of a test, and no set-up or teardown which nothing is shown of.

    Three of a test's six messages are left.
    """
    if config.option.xmlpath or config.option.verbose > 0:
        return
    (worker,) = (one for one in config.pluginmanager.get_plugins() if type(one).__name__ == "WorkerInteractor")
    send = worker.sendevent

    def send_what_is_shown(name: str, **values: Any) -> None:
        if name != "logstart" and not (name == "testreport" and _is_nothing(values["data"])):
            send(name, **values)

    worker.sendevent = send_what_is_shown


def _is_nothing(report: dict[str, Any]) -> bool:
    return report["when"] != "call" and report["outcome"] == "passed" and report["duration"] < SHORT_S
