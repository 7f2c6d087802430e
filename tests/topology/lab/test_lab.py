# SPDX-License-Identifier: Apache-2.0
"""Labs come up, match their file, are usable and private, and leave no trace: those of support/small_lab.py, and the
two segment labs of the project."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.small_lab import LONE, PAIR, assert_connected, assert_no_trace
from support.waiting import wait_for

from topology.errors import LabError
from topology.lab.lab import Lab

pytestmark = [pytest.mark.lab, pytest.mark.skipif(os.geteuid() != 0, reason="labs need root")]

TOPOLOGY = Path(__file__).resolve().parents[3] / "topology"


def offloads(lab: Lab, node: str, interface: str) -> dict[str, bool]:
    """Return whether transmit checksum offload (`tx`) and GRO (`gro`) are on."""
    shown = lab.exec(node, ["ethtool", "-k", interface]).stdout.splitlines()
    return {
        key: f"{name}: on" in shown for key, name in (("tx", "tx-checksumming"), ("gro", "generic-receive-offload"))
    }


def test_a_lab_matches_its_file(name: str, write: Callable[[str], Path]) -> None:
    with Lab.up(write(PAIR), name, {"COLOR": "red"}, keep=False) as lab:
        assert list(lab.nodes) == ["a", "switch", "b"]
        assert lab.exec("a", ["sh", "-c", "hostname; echo $COLOR"]).stdout.split() == ["a", "red"]
        assert lab.exec("a", ["cat", "/proc/sys/net/ipv4/ip_forward"]).stdout == "1\n"
        assert lab.exec("b", ["cat", "/proc/sys/net/ipv4/ip_forward"]).stdout == "0\n"
        assert lab.exec("a", ["which", "lbctl"]).stdout.strip() == f"{os.path.dirname(sys.executable)}/lbctl"
        data = lab.inspect()
        json.dumps(data)
        assert data["name"] == name
        assert data["links"] == [["a:eth1", "switch:eth1"], ["b:eth1", "switch:eth2"]]
        nodes = {node["name"]: node for node in data["nodes"]}
        assert nodes["a"]["labels"] == {"rack": "r1"}
        interfaces = {i["name"]: i for i in nodes["b"]["interfaces"]}
        assert set(interfaces) == {"lo", "eth1"}
        assert interfaces["eth1"]["mac"] == "02:00:00:00:00:0b"
        assert (interfaces["eth1"]["mtu"], interfaces["eth1"]["up"]) == (1400, True)
        assert "10.0.0.2/24" in interfaces["eth1"]["addresses"]
        assert interfaces["lo"]["up"]
        for node, interface in (("a", "eth1"), ("switch", "eth1"), ("switch", "eth2"), ("b", "eth1")):
            assert offloads(lab, node, interface) == {"tx": False, "gro": True}
        assert_connected(lab)
    assert_no_trace(name)


def test_nodes_are_private(name: str, write: Callable[[str], Path], tmp_path: Path) -> None:
    """Writes of a node stay in it, reads see the host's files, and a node sees its own processes alone."""
    mark = f"mark-{name}"
    (tmp_path / "seen").write_text("host")
    with Lab.up(write(PAIR), name, keep=False) as lab:
        for place in ("/etc", "/tmp", "/run", "/var/log", "/var/tmp", "/dev/shm", "/sys/fs/bpf"):  # noqa: S108
            lab.exec("a", ["mkdir", f"{place}/{mark}"])
            assert not Path(place, mark).exists()
            assert lab.exec("b", ["test", "-e", f"{place}/{mark}"], check=False).returncode == 1
            assert (lab.root("a") / place[1:] / mark).is_dir()
        for place in ("/", "/usr", "/root", "/home", "/opt"):
            written = lab.exec("a", ["touch", f"{place}/{mark}"], check=False)
            assert "Read-only file system" in written.stderr
            assert not Path(place, mark).exists()
        assert lab.exec("a", ["cat", str(tmp_path / "seen")]).stdout == "host"
        assert lab.exec("a", ["test", "-e", "/etc/passwd"]).returncode == 0
        processes = lab.exec("a", ["sh", "-c", "ls /proc | grep -c '^[0-9]'"]).stdout
        assert int(processes) <= 5  # the init and this very pipeline
        assert lab.exec("a", ["ls", "/sys/class/net"]).stdout.split() == ["eth1", "lo"]
        assert lab.exec("a", ["sh", "-c", "echo $HOME $SHELL"]).stdout.strip() == "/root"  # nothing of the host's


def test_binds(name: str, write: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "conf").write_text("one")
    (tmp_path / "shared").mkdir()
    text = LONE.replace("none}", "none, binds: ['conf:/etc/new/dir/conf:ro', 'shared:/run/shared']}")
    with Lab.up(write(text), name, keep=False) as lab:
        assert lab.exec("a", ["cat", "/etc/new/dir/conf"]).stdout == "one"
        assert lab.exec("a", ["sh", "-c", "echo two > /etc/new/dir/conf"], check=False).returncode != 0
        lab.exec("a", ["sh", "-c", "echo three > /run/shared/out"])
        assert (tmp_path / "shared" / "out").read_text() == "three\n"
    assert (tmp_path / "conf").read_text() == "one"


def test_exec_reports_failures_and_returns_before_background_children(name: str, write: Callable[[str], Path]) -> None:
    with Lab.up(write(LONE), name, keep=False) as lab:
        started = time.monotonic()
        assert lab.exec("a", ["sh", "-c", "sleep 60 & echo done"]).stdout == "done\n"
        assert time.monotonic() - started < 30
        with pytest.raises(LabError, match=r"a: `sh -c echo why >&2; exit 3` exited with 3: why"):
            lab.exec("a", ["sh", "-c", "echo why >&2; exit 3"])
        assert lab.exec("a", ["false"], check=False).returncode == 1
        with pytest.raises(LabError, match=r"a: nosuch: No such file or directory"):
            lab.exec("a", ["nosuch"], check=False)
        with pytest.raises(LabError, match=r"a: `sleep 60` did not end within 0.2 s"):
            lab.exec("a", ["sleep", "60"], timeout=0.2)
        with pytest.raises(LabError, match=r"has no node 'z'; nodes: a"):
            lab.exec("z", ["true"])
        results: list[str] = []
        threads = [
            threading.Thread(target=lambda i=i: results.append(lab.exec("a", ["echo", str(i)]).stdout))
            for i in range(20)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(int(result) for result in results) == list(range(20))


def test_the_init_reaps_orphans(name: str, write: Callable[[str], Path]) -> None:
    with Lab.up(write(LONE), name, keep=False) as lab:
        orphan = int(lab.exec("a", ["sh", "-c", "sleep 600 & echo $!"]).stdout)
        status = lab.root("a") / f"proc/{orphan}/status"
        assert "PPid:\t1\n" in status.read_text()
        lab.exec("a", ["kill", str(orphan)])
        wait_for(lambda: not status.exists())


def test_a_node_ends_with_its_cmd(name: str, write: Callable[[str], Path], tmp_path: Path) -> None:
    """It runs under the init, receives SIGTERM, and the node ends with it."""
    script = "trap 'echo bye > /run/out/state; exit 0' TERM; echo up > /run/out/state; while :; do sleep 0.05; done"
    text = f"""
name: x
topology:
  nodes: {{a: {{kind: linux, network-mode: none, cmd: "sh -c \\"{script}\\"", binds: ["out:/run/out"]}}}}
"""
    (tmp_path / "out").mkdir()
    state = tmp_path / "out" / "state"
    with Lab.up(write(text), name, keep=False) as lab:
        wait_for(lambda: state.exists() and state.read_text() == "up\n")
        os.kill(lab.nodes["a"].pid, signal.SIGTERM)
        wait_for(lambda: not lab.nodes["a"].alive)
        assert state.read_text() == "bye\n"
        with pytest.raises(LabError, match=r"node a of lab .* is dead"):
            lab.exec("a", ["true"])
    assert_no_trace(name)


def test_sigterm_ends_a_node_whose_programs_ignore_it(name: str, write: Callable[[str], Path]) -> None:
    with Lab.up(write(LONE), name, keep=False) as lab:
        lab.spawn("a", ["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"])
        os.kill(lab.nodes["a"].pid, signal.SIGTERM)
        wait_for(lambda: not lab.nodes["a"].alive)


def test_a_flap_keeps_routes_set_by_hand(name: str, write: Callable[[str], Path]) -> None:
    with Lab.up(write(PAIR), name, keep=False) as lab:
        lab.exec("a", ["ip", "route", "add", "default", "via", "10.0.0.2", "advmss", "1200"])
        lab.exec("a", ["ip", "-6", "address", "add", "2001:db8::1/64", "dev", "eth1", "nodad"])
        lab.exec("a", ["ip", "-6", "route", "add", "2001:db8:1::/48", "via", "2001:db8::2"])
        lab.exec("a", ["ip", "route", "add", "10.8.0.0/16", "via", "10.0.0.2", "proto", "bird"])
        before = {v: lab.exec("a", ["ip", v, "route", "show", "dev", "eth1"]).stdout.splitlines() for v in ("-4", "-6")}
        lab.link("a", "eth1", up=False)
        assert lab.exec("a", ["ip", "-4", "route", "show", "dev", "eth1"]).stdout == ""
        Lab.find(name).link("a", "eth1", up=True)  # as another process does
        daemons = [route for route in before["-4"] if "proto bird" in route]  # restored by its daemon
        for version, routes in before.items():
            after = lab.exec("a", ["ip", version, "route", "show", "dev", "eth1"]).stdout.splitlines()
            wanted = sorted({route for route in routes if "fe80" not in route} - set(daemons))
            assert sorted(route for route in after if "fe80" not in route) == wanted
        assert len(daemons) == 1
        assert offloads(lab, "a", "eth1") == {"tx": False, "gro": True}
        assert_connected(lab)
        with pytest.raises(LabError, match="no interface eth9"):
            lab.link("a", "eth9", up=False)


def test_kill_is_a_power_loss(name: str, write: Callable[[str], Path]) -> None:
    path = write(PAIR)
    with Lab.up(path, name, keep=False) as lab:
        process = lab.spawn("b", ["sleep", "600"])
        wait_for(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sleep\n")
        lab.kill("b")
        assert process.wait(60) == -signal.SIGKILL
        assert not lab.nodes["b"].alive
        assert "eth2" not in lab.exec("switch", ["ls", "/sys/class/net"]).stdout.split()
        assert lab.exec("a", ["true"]).returncode == 0
        assert [node["alive"] for node in lab.inspect()["nodes"]] == [True, True, False]
        with pytest.raises(LabError, match="already up"):  # a node killed on purpose does not make the lab incomplete
            Lab.up(path, name, keep=False)
    assert_no_trace(name)


def test_down_although_the_caller_has_not_reaped_its_programs(name: str, write: Callable[[str], Path]) -> None:
    """A zombie in a node keeps its pid namespace, but not the node."""
    lab = Lab.up(write(LONE), name, keep=False)
    process = lab.spawn("a", ["sleep", "600"])
    wait_for(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sleep\n")
    Lab.find(name).down()
    assert not lab.nodes["a"].alive
    assert process.wait(60) == -signal.SIGKILL
    assert_no_trace(name)


ECHO = """
import socket
with socket.create_connection(("10.0.0.10", 7000), timeout=20, source_address=("10.1.1.200", 0)) as s:
    s.sendall(b"17\\n")
    print(s.recv(99).decode(), end="")
"""


@pytest.mark.parametrize("router", ["bird", "frr"])
def test_the_segment_comes_up_with_a_real_router(name: str, router: str) -> None:
    file = TOPOLOGY / ("segment.clab.yml" if router == "bird" else "segment-frr.clab.yml")
    with Lab.up(file, name, {"XDP": "off"}, keep=False) as lab:
        if router == "bird":
            shown = lab.exec("router", ["birdc", "show", "protocols"]).stdout
            sessions = [line.split()[0] for line in shown.splitlines() if " BGP " in line]
            assert sessions == ["b1", "b2", "b3", "b4", "b5", "b6"]
        else:
            shown = lab.exec("router", ["vtysh", "-c", "show running-config"]).stdout
            for line in (
                "neighbor 10.0.0.10 peer-group nodes",
                "neighbor 10.0.0.10 remote-as 65001",
                "maximum-paths 64",
                "zebra nexthop-group keep 1",
            ):
                assert line in shown
            group = lab.exec("router", ["vtysh", "-c", "show bgp peer-group nodes"]).stdout
            assert all(f"10.0.0.{host}" in group for host in (10, 11, 12, 13, 14))
        for key, value in (("ip_forward", 1), ("fib_multipath_hash_policy", 3), ("fib_multipath_hash_fields", 55)):
            assert int(lab.exec("router", ["cat", f"/proc/sys/net/ipv4/{key}"]).stdout, 0) == value
        wait_for(lambda: lab.exec("client", ["python", "-c", ECHO], check=False).stdout == "b5 17\n")
        assert lab.exec("b2", ["printenv", "ANYLB_XDP"]).stdout == "off\n"
        assert "cluster" in lab.exec("b2", ["cat", "/etc/anylb/lb.yml"]).stdout
    assert_no_trace(name)
