# SPDX-License-Identifier: Apache-2.0
"""Labs whose creators end, at any moment: what is recorded finds all that is left, and nothing else."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.small_lab import LONE, PAIR, UP, assert_connected, assert_no_trace, child, processes_of
from support.waiting import wait_for

from topology.errors import LabError
from topology.lab import record
from topology.lab.lab import Lab
from topology.lab.process import LAB_VARIABLE, ProcessRef

pytestmark = [pytest.mark.lab, pytest.mark.skipif(os.geteuid() != 0, reason="labs need root")]


def test_a_kept_lab_outlives_its_creator_and_is_not_created_twice(name: str, write: Callable[[str], Path]) -> None:
    path = write(PAIR)
    creator = child(UP.format(before="", keep=True, after=""), str(path), name)
    assert creator.communicate(timeout=120)[0] == "up\n"
    lab = Lab.find(name)
    assert_connected(lab)
    with pytest.raises(
        LabError, match=rf"lab {name} is already up: take it down with `lbctl lab down --name {name} {path}`"
    ):
        Lab.up(path, name)
    assert name not in record.remove_stale()
    pids = {node.pid for node in lab.nodes.values()}
    again = Lab.up(path, name, reconfigure=True, keep=False)
    assert not pids & {node.pid for node in again.nodes.values()}
    again.down()
    assert_no_trace(name)
    with pytest.raises(LabError, match=f"lab {name} is not up"):
        Lab.find(name)


def test_an_unkept_lab_dies_with_its_owner(name: str, write: Callable[[str], Path]) -> None:
    after = (
        "lab.spawn('b', ['sleep', '600']); lab.exec('a', ['sh', '-c', 'sleep 600 &']); print('on', flush=True); input()"
    )
    owner = child(
        UP.format(before="", keep=False, after=after.replace("input()", "import time; time.sleep(600)")),
        str(write(PAIR)),
        name,
    )
    try:
        assert owner.stdout is not None
        assert [owner.stdout.readline(), owner.stdout.readline()] == ["up\n", "on\n"]
        wait_for(lambda: len(processes_of(name)) >= 5, "what was started to have the lab's environment")
        assert name not in record.remove_stale()  # its owner lives
    finally:
        owner.kill()
        owner.wait()
    wait_for(lambda: not processes_of(name))
    assert name in record.remove_stale()
    assert_no_trace(name)


STOP_AT = """
import importlib, time
module, attribute, count = {point!r}
owner = importlib.import_module(module)
*outer, last = attribute.split(".")
for part in outer:
    owner = getattr(owner, part)
original, calls = getattr(owner, last), 0
def stop(*args, **kwargs):
    global calls
    calls += 1
    if calls == count:
        print("here", flush=True)
        time.sleep(600)
    return original(*args, **kwargs)
setattr(owner, last, stop)
"""


POINTS = [
    ("topology.lab.init_channel", "InitChannels.start", 1),
    ("topology.lab.init_channel", "InitChannels.start", 3),
    ("topology.lab.init_channel", "InitChannels.await_ready", 1),
    ("topology.lab.init_channel", "InitChannels.await_ready", 3),
    ("topology.lab.link", "create", 1),
    ("topology.lab.link", "prepare", 2),
    ("topology.lab.lab", "Lab.exec", 4),
    ("topology.lab.init_channel", "InitChannels.keep", 1),
]


@pytest.mark.parametrize("point", POINTS, ids=[f"{attribute}-{count}" for _, attribute, count in POINTS])
def test_up_after_kill_9_half_way(name: str, write: Callable[[str], Path], point: tuple[str, str, int]) -> None:
    path = write(PAIR)
    victim = child(UP.format(before=STOP_AT.format(point=point), keep=True, after=""), str(path), name)
    assert victim.stdout is not None
    assert victim.stdout.readline() == "here\n"
    with pytest.raises(LabError, match="another process brings it up or down"):
        Lab.up(path, name)
    assert name not in record.remove_stale()
    victim.kill()
    victim.wait()
    wait_for(lambda: not processes_of(name))  # without help
    if point[:2] == ("topology.lab.link", "create"):
        assert name in record.remove_stale()
        assert_no_trace(name)
    with Lab.up(path, name, keep=False) as lab:
        assert_connected(lab)
    assert_no_trace(name)


def test_up_after_kill_9_during_a_long_exec_line_and_at_any_moment(name: str, write: Callable[[str], Path]) -> None:
    slow = write(PAIR.replace("exec: [ip ", "exec: [sh -c 'sleep 300 & sleep 600', ip "))
    for delay_s in (None, 0.02, 0.05, 0.1, 0.15, 0.2):
        victim = child(UP.format(before="print('go', flush=True)", keep=True, after=""), str(slow), name)
        assert victim.stdout is not None
        assert victim.stdout.readline() == "go\n"
        if delay_s is None:
            wait_for(lambda: len(processes_of(name)) >= 6)  # our four and both sleeps
        else:
            time.sleep(delay_s)  # a moment, not a state: any will do
        victim.kill()
        victim.wait()
        wait_for(lambda: not processes_of(name))
    record.remove_stale()
    assert_no_trace(name)


def test_kill_9_between_keep_and_the_record(name: str, write: Callable[[str], Path]) -> None:
    """The one moment that leaves running inits: recorded as incomplete, so they are found and removed."""
    path = write(PAIR)
    point = ("topology.lab.record", "LabRecord.save", 3)
    victim = child(UP.format(before=STOP_AT.format(point=point), keep=True, after=""), str(path), name)
    assert victim.stdout is not None
    assert victim.stdout.readline() == "here\n"
    victim.kill()
    victim.wait()
    assert len(processes_of(name)) == 3
    assert name in record.remove_stale()
    assert_no_trace(name)


def test_other_processes_survive(name: str, write: Callable[[str], Path]) -> None:
    """Neither a look-alike, nor a process with a recorded pid, nor another lab is touched."""
    path = write(LONE)
    sleep = "import time; time.sleep(600)"
    env = {**os.environ, LAB_VARIABLE: name}
    look_alike = subprocess.Popen([sys.executable, "-c", sleep, "topology.lab.init", name, "a"], env=env)
    other_init = subprocess.Popen(["unshare", "--pid", "--fork", "--kill-child", "sleep", "600"], env=env)
    other_lab = Lab.up(path, f"{name}-other", keep=False)
    try:
        planted = record.LabRecord(name, str(path), "up", True, ProcessRef(look_alike.pid, 1))
        planted.nodes["a"] = {"pid": look_alike.pid, "start": 1, "killed": False}
        planted.save()
        assert name in record.remove_stale()
        planted.nodes["a"]["start"] = ProcessRef.of(look_alike.pid).start  # type: ignore[union-attr]
        planted.save()
        with Lab.up(path, name, keep=False, reconfigure=True) as lab:
            assert lab.nodes["a"].alive
        assert look_alike.poll() is None
        assert other_init.poll() is None
        assert other_lab.exec("a", ["true"]).returncode == 0
    finally:
        other_lab.down()
        for process in (look_alike, other_init):
            process.kill()
            process.wait()


def test_an_unreadable_record_is_stale(name: str, write: Callable[[str], Path]) -> None:
    (record.RECORDS / name).mkdir(parents=True)
    (record.RECORDS / name / "lab.json").write_text('{"name": "x", "nod')
    with Lab.up(write(LONE), name, keep=False) as lab:
        assert lab.nodes["a"].alive
    assert_no_trace(name)
