# SPDX-License-Identifier: Apache-2.0
"""Which processes are instances, in which order, and what they are called."""

from pathlib import Path
from typing import Any

import pytest

from agent.config.instances import InstancesConfig
from agent.instances.match import Added, Process, ProcessId, find, name_numbered

UNITS = "/system.slice/system-web.slice/web@{}.service"
NGINX = "/usr/sbin/nginx"
PROCESSES = {
    one.pid: one
    for one in (
        Process(1, 0, 0, "/usr/lib/systemd/systemd", ("/init.scope",)),
        Process(20, 1, 900, NGINX, (UNITS.format(2),)),
        Process(21, 20, 901, NGINX, (UNITS.format(2),)),
        Process(30, 1, 800, NGINX + " (deleted)", (UNITS.format(1), "/")),
        Process(40, 1, 700, "/usr/bin/python3", ("/user.slice/run-7.scope/worker",)),
        Process(41, 40, 701, "/bin/sh", ()),
        Process(42, 41, 702, "/usr/bin/python3", ()),
    )
}


def found(match: Any, pidfiles: dict[str, int] | None = None, added: tuple[Added, ...] = ()) -> list[Any]:
    matches = InstancesConfig(match=match).match
    known = {Path(path): pid for path, pid in (pidfiles or {}).items()}
    return [(one.name, [p.pid for p in one.processes]) for one in find(matches, known, added, PROCESSES)]


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        ({"unit": "web@*.service"}, [("web@1.service", [30]), ("web@2.service", [20, 21])]),
        ({"unit": "web@2.service"}, [("web@2.service", [20, 21])]),
        ({"unit": "db.service"}, []),
        ({"cgroup": "/user.slice/run-*.scope"}, [("run-7.scope", [40, 41, 42])]),
        ({"cgroup": "/user.slice"}, [("user.slice", [40, 41, 42])]),
        ({"executable": NGINX}, [("", [30]), ("", [20]), ("", [21])]),
        ({"pidfile": "/run/web.pid"}, [("web", [40, 41, 42])]),
        ({"pidfile": "/run/gone.pid"}, []),
        (
            [{"unit": "web@2.service"}, {"unit": "web@*.service"}],
            [("web@2.service", [20, 21]), ("web@1.service", [30])],
        ),
    ],
)
def test_each_kind_of_match(match: Any, expected: list[Any]) -> None:
    assert found(match, {"/run/web.pid": 40, "/run/gone.pid": 99}) == expected


def test_processes_that_were_added_follow_unless_they_have_ended() -> None:
    added = (Added("one", ProcessId(40, 700)), Added("another", ProcessId(20, 1)), Added("taken", ProcessId(30, 800)))
    assert found({"unit": "web@1.service"}, added=added) == [("web@1.service", [30]), ("one", [40, 41, 42])]


def test_a_number_is_kept_and_a_free_one_given_again() -> None:
    first, second, third = find(InstancesConfig(match=({"executable": NGINX},)).match, {}, (), PROCESSES)
    names = name_numbered([first, second], {})
    assert names == {first.id: "nginx-1", second.id: "nginx-2"}
    assert name_numbered([second], {name: one for one, name in names.items()}) == {second.id: "nginx-2"}
    again = name_numbered([second, third], {"nginx-2": second.id})
    assert again == {second.id: "nginx-2", third.id: "nginx-1"}
