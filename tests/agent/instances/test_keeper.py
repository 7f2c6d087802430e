# SPDX-License-Identifier: Apache-2.0
"""Instances of real servers: found, taken up, chosen among by the real program; and what cannot be is named.

The servers know nothing of it: two processes of one program share 127.0.0.1:18080 in a network namespace.
"""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from support.instance_servers import PORT, VIP, VIP6, Servers, answers
from support.instances import Running, by_pidfile, config, descriptors, running
from support.waiting import wait_for

from agent.errors import AgentError
from agent.instances.group import release_groups
from bpf.kernel import bpf_map
from bpf.kernel.pin import open_pin
from bpf.kernel.program import program_info
from bpf.layout.instance import LISTENERS


def test_the_primary_answers_then_the_standby_then_the_primary(servers: Servers, bpffs: Path, tmp_path: Path) -> None:
    blue = servers.start("blue")
    servers.start("green")
    with running(by_pidfile(tmp_path), bpffs, tmp_path) as keeper:
        wait_for(lambda: keeper.states() == {"blue": "active", "green": "standby"})
        assert answers() == {"blue": 40}
        blue.kill()
        assert answers() == {"green": 40}, "the program knows at once"
        wait_for(lambda: keeper.states() == {"green": "active"})
        servers.start("blue")
        wait_for(lambda: keeper.states() == {"blue": "active", "green": "standby"})
        assert answers() == {"blue": 40}
        assert keeper.keeper.problems == ()


def test_instances_of_one_executable_are_numbered_and_a_place_is_filled_again(
    servers: Servers, bpffs: Path, tmp_path: Path
) -> None:
    first, executable = servers.start("first"), Path("/proc/self/exe")
    servers.start("second")
    label = executable.resolve().name
    with running(config({"match": {"executable": str(executable.resolve())}}), bpffs, tmp_path) as keeper:
        wait_for(lambda: keeper.states() == {f"{label}-1": "active", f"{label}-2": "standby"})
        assert answers() == {"first": 40}
        first.kill()
        assert answers() == {"second": 40}
        wait_for(lambda: keeper.states() == {f"{label}-2": "active"})
        servers.start("third")
        wait_for(lambda: keeper.states() == {f"{label}-1": "active", f"{label}-2": "standby"})
        assert answers() == {"third": 40}


def test_without_failback_the_standby_keeps_what_it_took_over(servers: Servers, bpffs: Path, tmp_path: Path) -> None:
    blue = servers.start("blue")
    servers.start("green")
    with running(by_pidfile(tmp_path, failback=False), bpffs, tmp_path) as keeper:
        wait_for(lambda: keeper.states() == {"blue": "active", "green": "standby"})
        blue.kill()
        servers.start("blue")  # before anyone has looked
        wait_for(lambda: keeper.states() == {"blue": "standby", "green": "active"})
        assert answers() == {"green": 40}
        keeper.call(keeper.keeper.requests.switch("web", "blue"))
        assert answers() == {"blue": 40}


def test_both_families_and_listeners_on_the_vip_itself(servers: Servers, bpffs: Path, tmp_path: Path) -> None:
    """blue and green on all addresses of both families, and a third server on the IPv4 VIP alone, which comes first
    there: the kernel prefers the exact address, and the agent chooses among those that have it."""
    blue = servers.start("blue", address="::")
    servers.start("green", address="::")
    health = {"type": "tcp", "expect": "e", "interval_s": 2, "timeout_s": 2}
    with running(by_pidfile(tmp_path, health), bpffs, tmp_path) as keeper:
        wait_for(lambda: keeper.states() == {"blue": "active", "green": "standby"})
        assert answers() == answers(vip=VIP6) == {"blue": 40}
        keeper.call(keeper.keeper.requests.switch("web6", "green"))
        assert answers() == answers(vip=VIP6) == {"green": 40}
        keeper.call(keeper.keeper.requests.switch("web", "blue"))
        exact = servers.start("exact", address=VIP)
        keeper.call(keeper.keeper.requests.add("web", exact.pid, "exact"))
        wait_for(lambda: keeper.states() == {"blue": "active", "green": "standby", "exact": "standby"})
        assert answers() == {"exact": 40}, "it alone has this address"
        assert answers(vip=VIP6) == {"blue": 40}
        blue.kill()
        assert answers(vip=VIP6) == {"green": 40}


def test_the_operator_switches_drains_and_sets_weights(servers: Servers, bpffs: Path, tmp_path: Path) -> None:
    servers.start("blue")
    servers.start("green")
    with running(by_pidfile(tmp_path), bpffs, tmp_path) as keeper:
        wait_for(lambda: keeper.states() == {"blue": "active", "green": "standby"})
        keeper.call(keeper.keeper.requests.switch(None, "green"))
        assert answers() == {"green": 40}
        keeper.call(keeper.keeper.requests.switch(None, "blue"))
        assert answers() == {"blue": 40}
        keeper.call(keeper.keeper.requests.drain(None, "blue", True))
        assert keeper.states() == {"blue": "draining", "green": "active"}
        assert answers() == {"green": 40}
        keeper.call(keeper.keeper.requests.drain(None, "blue", False))
        with pytest.raises(AgentError, match="red is no instance of web; it has blue, green"):
            keeper.call(keeper.keeper.requests.switch(None, "red"))
        with pytest.raises(AgentError, match="the policy of web is standby, which has no weights"):
            keeper.call(keeper.keeper.requests.weight(None, "blue", 1))
    with running(by_pidfile(tmp_path, policy="weighted"), bpffs, tmp_path) as keeper:
        wait_for(lambda: keeper.states() == {"blue": "active", "green": "active"})
        assert set(answers(80)) == {"blue", "green"}
        keeper.call(keeper.keeper.requests.weight(None, "blue", 0))
        assert answers() == {"green": 40}
    with running(by_pidfile(tmp_path, policy="spread"), bpffs, tmp_path) as keeper:
        wait_for(lambda: keeper.states() == {"blue": "active", "green": "active"})
        wait_for(lambda: set(answers(80)) == {"blue", "green"}, "weights are of no other policy")


@pytest.mark.slow
def test_an_instance_that_fails_its_check_is_passed_over_until_it_answers_again(
    servers: Servers, bpffs: Path, tmp_path: Path
) -> None:
    """A stopped process still listens, and the kernel accepts connections for it: only its silence shows."""
    blue = servers.start("blue")
    green = servers.start("green")
    health = {"type": "tcp", "expect": "e", "interval_s": 0.5, "timeout_s": 0.5, "rise": 1}
    with running(by_pidfile(tmp_path, health), bpffs, tmp_path) as keeper:
        wait_for(lambda: keeper.states() == {"blue": "active", "green": "standby"})
        os.kill(blue.pid, signal.SIGSTOP)
        wait_for(lambda: keeper.states() == {"blue": "unhealthy", "green": "active"})
        assert answers() == {"green": 40}, "blue would not answer at all"
        os.kill(blue.pid, signal.SIGCONT)
        wait_for(lambda: keeper.states() == {"blue": "active", "green": "standby"})
        os.kill(green.pid, signal.SIGSTOP)
        wait_for(lambda: keeper.states() == {"blue": "active", "green": "unhealthy"})
        with pytest.raises(AgentError, match="green fails its check"):
            keeper.call(keeper.keeper.requests.switch(None, "green"))


def test_the_choice_outlives_the_agent_and_the_next_one_takes_it_over(
    servers: Servers, bpffs: Path, tmp_path: Path
) -> None:
    servers.start("blue")
    green = servers.start("green")
    with running(by_pidfile(tmp_path), bpffs, tmp_path) as keeper:
        wait_for(lambda: keeper.states() == {"blue": "active", "green": "standby"})
        keeper.call(keeper.keeper.requests.switch(None, "green"))
    assert answers() == {"green": 40}
    with running(by_pidfile(tmp_path), bpffs, tmp_path) as keeper:
        wait_for(lambda: keeper.states() == {"blue": "standby", "green": "active"})
        assert answers() == {"green": 40}
    green.kill()
    assert answers() == {"blue": 40}, "without an agent too"


def test_the_kernel_shows_the_program_and_its_map_by_their_names(servers: Servers, bpffs: Path, tmp_path: Path) -> None:
    servers.start("blue")
    servers.start("green")
    with running(by_pidfile(tmp_path), bpffs, tmp_path) as keeper:
        wait_for(lambda: len(keeper.states()) == 2)
        (pin,) = (bpffs / "instances").glob("*/hot_standby_*")
        program = open_pin(pin)
        assert program is not None
        info = program_info(program)
        assert info.name == "hot_standby"
        maps = [bpf_map.open_map(number) for number in info.map_ids]
        assert [bpf_map.map_matches(fd, LISTENERS) for fd in maps].count(True) == 1
        for fd in (program, *maps):
            os.close(fd)


def test_what_is_no_longer_configured_is_removed(servers: Servers, bpffs: Path, tmp_path: Path) -> None:
    servers.start("blue")
    servers.start("green")
    with running(by_pidfile(tmp_path), bpffs, tmp_path) as keeper:
        wait_for(lambda: keeper.states() == {"blue": "active", "green": "standby"})
    assert release_groups(bpffs / "instances")
    assert not (bpffs / "instances").exists()
    assert set(answers(100)) == {"blue", "green"}, "the kernel chooses again"
    assert not release_groups(bpffs / "instances")
    with running(by_pidfile(tmp_path), bpffs, tmp_path) as keeper:
        wait_for(lambda: keeper.states() == {"blue": "active", "green": "standby"})
        wait_for(lambda: answers() == {"blue": 40})
    with running(config(None), bpffs, tmp_path) as keeper:  # a reload without the setting
        wait_for(lambda: not (bpffs / "instances").exists())
        assert set(answers(100)) == {"blue", "green"}
        with pytest.raises(AgentError, match="no service of this node has instances"):
            keeper.call(keeper.keeper.requests.switch(None, "green"))


def test_an_instance_added_by_hand_until_it_is_removed(servers: Servers, bpffs: Path, tmp_path: Path) -> None:
    blue = servers.start("blue")
    red = servers.start("red")
    settings = config({"match": {"pidfile": str(blue.pidfile)}})
    with running(settings, bpffs, tmp_path) as keeper:
        wait_for(lambda: keeper.states() == {"blue": "active"})
        with pytest.raises(AgentError, match=f"process {blue.pid} belongs to instance blue already"):
            keeper.call(keeper.keeper.requests.add(None, blue.pid, None))
        keeper.call(keeper.keeper.requests.add(None, red.pid, "by-hand"))
        assert keeper.states() == {"blue": "active", "by-hand": "standby"}
        with pytest.raises(AgentError, match=r"blue was found by instances\.match"):
            keeper.call(keeper.keeper.requests.remove(None, "blue"))
    with running(settings, bpffs, tmp_path) as keeper:
        wait_for(lambda: keeper.states() == {"blue": "active", "by-hand": "standby"}, "the next agent knows it")
        keeper.call(keeper.keeper.requests.switch(None, "by-hand"))
        assert answers() == {"red": 40}
        keeper.call(keeper.keeper.requests.remove(None, "by-hand"))
        assert keeper.states() == {"blue": "active"}
        assert answers() == {"blue": 40}


def problem(keeper: Running, part: str) -> bool:
    return any(part in line for line in keeper.keeper.problems)


def test_a_server_without_reuseport_is_named(servers: Servers, bpffs: Path, tmp_path: Path) -> None:
    blue = servers.start("blue", reuse=False)
    with running(by_pidfile(tmp_path), bpffs, tmp_path) as keeper:
        line = f"web: blue: process {blue.pid} listens on 0.0.0.0:{PORT} without SO_REUSEPORT"
        wait_for(lambda: problem(keeper, line))
        assert answers() == {"blue": 40}, "it serves as before"


def test_a_process_in_another_network_namespace_is_named(servers: Servers, bpffs: Path, tmp_path: Path) -> None:
    away = subprocess.Popen(["unshare", "-n", "sleep", "1000"])
    try:
        (tmp_path / "blue.pid").write_text(str(away.pid))
        with running(by_pidfile(tmp_path), bpffs, tmp_path) as keeper:
            wait_for(lambda: problem(keeper, f"process {away.pid} (blue) is in another network namespace"))
    finally:
        away.kill()
        away.wait()


@pytest.mark.usefixtures("looks_soon")
def test_a_listener_that_is_no_instance_is_named(servers: Servers, bpffs: Path, tmp_path: Path) -> None:
    servers.start("blue")
    servers.start("red")
    with running(by_pidfile(tmp_path), bpffs, tmp_path) as keeper:
        wait_for(lambda: problem(keeper, f"a process that is no instance listens on 0.0.0.0:{PORT} too"))
        assert answers() == {"blue": 40}


def test_a_pidfile_without_a_number_is_named(servers: Servers, bpffs: Path, tmp_path: Path) -> None:
    (tmp_path / "blue.pid").write_text("blue\n")
    with running(by_pidfile(tmp_path), bpffs, tmp_path) as keeper:
        wait_for(lambda: problem(keeper, f"{tmp_path}/blue.pid: has no process number in its first line"))


def test_without_the_right_it_is_named(
    servers: Servers, bpffs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    blue = servers.start("blue")
    monkeypatch.setattr("agent.instances.group.copy_socket", refuse)
    with running(by_pidfile(tmp_path), bpffs, tmp_path) as keeper:
        line = (
            f"web: blue: the listener of process {blue.pid} cannot be taken: Operation not permitted: the agent needs"
        )
        wait_for(lambda: problem(keeper, line))


def test_without_the_right_to_see_what_processes_run_it_is_named(
    servers: Servers, bpffs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.instances.processes.may_read_executables", lambda: False)
    with running(config({"match": {"executable": "/usr/sbin/nginx"}}), bpffs, tmp_path) as keeper:
        wait_for(lambda: problem(keeper, "web: the files that processes run cannot be seen: the agent needs CAP_SYS"))


def test_an_instance_that_has_ended_is_gone_before_its_parent_has_waited_for_it(
    servers: Servers, bpffs: Path, tmp_path: Path
) -> None:
    blue = servers.start("blue")
    servers.start("green")
    with running(by_pidfile(tmp_path), bpffs, tmp_path) as keeper:
        wait_for(lambda: keeper.states() == {"blue": "active", "green": "standby"})
        os.kill(blue.pid, signal.SIGKILL)
        wait_for(lambda: keeper.states() == {"green": "active"}, timeout_s=60)


@pytest.mark.slow
def test_instances_that_come_and_go_leak_nothing(servers: Servers, bpffs: Path, tmp_path: Path) -> None:
    green = servers.start("green")
    with running(by_pidfile(tmp_path), bpffs, tmp_path) as keeper:
        wait_for(lambda: keeper.states() == {"green": "active"})
        wait_for(lambda: green.pid in keeper.keeper._watch._open, "its end to be watched")
        before = descriptors()
        for _ in range(10):
            blue = servers.start("blue")
            wait_for(lambda: keeper.states() == {"blue": "active", "green": "standby"})
            blue.kill()
            wait_for(lambda: keeper.states() == {"green": "active"})
        # What ends with an exception may be in a cycle, which only a collection frees, and this process makes few.
        wait_for(lambda: descriptors() <= before, "a health check to end")
        assert len(os.listdir(bpffs / "instances")) == 1
        assert len(keeper.keeper._pools[f"tcp/{PORT}"]._taken._groups) == 1
        (group,) = keeper.keeper._pools[f"tcp/{PORT}"]._taken._groups.values()
        assert len(group._kernel.maps.cookies()) == 1
