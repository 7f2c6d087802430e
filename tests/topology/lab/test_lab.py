# SPDX-License-Identifier: Apache-2.0
"""Labs come up, match their file, are usable and private, and leave no trace.

 a ──── switch (br0) ──── b        and, where a test names them, the two segment labs of the project
10.0.0.1                10.0.0.2
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.waiting import wait_for

from topology.errors import LabError
from topology.lab import link, record
from topology.lab.lab import Lab
from topology.lab.process import LAB_VARIABLE, ProcessRef

pytestmark = [pytest.mark.lab, pytest.mark.skipif(os.geteuid() != 0, reason="labs need root")]

TOPOLOGY = Path(__file__).resolve().parents[3] / "topology"
PAIR = """
name: ignored
topology:
  defaults: {kind: linux, image: none, network-mode: none}
  nodes:
    a:
      env: {COLOR: "${COLOR:=blue}"}
      sysctls: {net.ipv4.ip_forward: 1, net.ipv4.conf.default.forwarding: 0}
      labels: {rack: r1}
      exec:
        - ip address add 10.0.0.1/24 dev eth1
        - ip route add 10.9.0.0/16 via 10.0.0.2 metric 7
    switch:
      exec:
        - ip link add br0 type bridge
        - ip link set eth1 master br0
        - ip link set eth2 master br0
        - ip link set br0 up
    b:
      exec: [ip address add 10.0.0.2/24 dev eth1]
  links:
    - {endpoints: ["a:eth1", "switch:eth1"], mtu: 1500}
    - type: veth
      mtu: 1400
      endpoints:
        - {node: b, interface: eth1, mac: "02:00:00:00:00:0b"}
        - {node: switch, interface: eth2}
"""
LONE = "name: ignored\ntopology: {nodes: {a: {kind: linux, network-mode: none}}}\n"


@pytest.fixture
def name(request: pytest.FixtureRequest) -> Iterator[str]:
    """A lab name of this test's own; a lab of this name is removed afterwards."""
    lab_name = f"t{os.getpid()}-{abs(hash(request.node.name)) % 10**6}"
    yield lab_name
    Lab.remove(lab_name)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    def write_file(text: str) -> Path:
        path = tmp_path / "lab.clab.yml"
        path.write_text(text)
        return path

    return write_file


def processes_of(name: str) -> list[int]:
    """Return every process on this machine with the lab's name in its environment, found without our own code."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if f"ANYLB_LAB={name}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def assert_no_trace(name: str) -> None:
    assert processes_of(name) == []
    assert not (record.RECORDS / name).exists()
    assert name not in Path("/proc/self/mountinfo").read_text()


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
            assert link.read_offloads(lab.nodes[node].pid, interface) == {"tx": False, "gro": True}
        assert_connected(lab)
    assert_no_trace(name)


ASK = "import socket; print(socket.create_connection(('10.0.0.2', 7), timeout=5).recv(9).decode(), end='')"
SERVE = """
import socket
s = socket.create_server(("", 7))
print("ready", flush=True)
while True:
    s.accept()[0].send(b"hello")
"""


def assert_connected(lab: Lab) -> None:
    """A TCP connection from a to b."""
    log = lab.root("b") / "run/server.log"
    server = lab.spawn("b", ["python", "-c", SERVE], log=log)
    wait_for(lambda: "ready" in log.read_text())
    assert lab.exec("a", ["python", "-c", ASK]).stdout == "hello"
    server.kill()
    assert server.wait() == -signal.SIGKILL


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
        orphan = int(lab.exec("a", ["sh", "-c", "sleep 0.3 & echo $!"]).stdout)
        status = lab.root("a") / f"proc/{orphan}/status"
        assert "PPid:\t1\n" in status.read_text()
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
        assert link.read_offloads(lab.nodes["a"].pid, "eth1") == {"tx": False, "gro": True}
        assert_connected(lab)
        with pytest.raises(LabError, match="no interface eth9"):
            lab.link("a", "eth9", up=False)


def test_kill_is_a_power_loss(name: str, write: Callable[[str], Path]) -> None:
    path = write(PAIR)
    with Lab.up(path, name, keep=False) as lab:
        process = lab.spawn("b", ["sleep", "600"])
        wait_for(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sleep\n")
        lab.kill("b")
        assert process.wait(5) == -signal.SIGKILL
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
    assert process.wait(5) == -signal.SIGKILL
    assert_no_trace(name)


FAULTS = [
    (
        LONE.replace("none}", "none, binds: ['nosuch:/etc/x']}"),
        r":2:\d+: topology.nodes.a.binds\[0\]: bind source .*/nosuch does",
    ),
    (
        LONE.replace("none}", "none, binds: ['.:/nosuch-dir/x']}"),
        r"topology.nodes.a: bind target /nosuch-dir/x does not exist",
    ),
    (LONE.replace("none}", "none, exec: [nosuch -x]}"), r"topology.nodes.a.exec\[0\]: a: nosuch: No such file"),
    (
        LONE.replace("none}", "none, exec: [sh -c 'sleep 99 & exit 4']}"),
        r":2:\d+: topology.nodes.a.exec\[0\]: a: `sh .* exited with 4",
    ),
    (LONE.replace("none}", "none, cmd: nosuch}"), r"topology.nodes.a: cmd: nosuch: No such file"),
    (
        LONE.replace("none}", "none, cmd: sh -c 'echo why; exit 5', exec: [sleep 9]}"),
        r"topology.nodes.a: cmd exited with 5: why",
    ),
    (
        LONE.replace("none}", "none, sysctls: {net.ipv4.nosuch: 1}}"),
        r"nodes.a: sysctl net.ipv4.nosuch = 1: no such key",
    ),
    (
        LONE.replace("none}", "none, sysctls: {net.ipv4.ip_forward: x}}"),
        r"sysctl net.ipv4.ip_forward = x: Invalid argument",
    ),
]


@pytest.mark.parametrize(("text", "message"), FAULTS, ids=[message[-30:] for _, message in FAULTS])
def test_a_fault_takes_everything_down(name: str, write: Callable[[str], Path], text: str, message: str) -> None:
    path = write(text)
    with pytest.raises(LabError, match=message) as caught:
        Lab.up(path, name)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert_no_trace(name)


def test_a_failed_exec_line_may_be_kept(name: str, write: Callable[[str], Path]) -> None:
    with pytest.raises(LabError, match="exited with 1"):
        Lab.up(write(LONE.replace("none}", "none, exec: ['false', touch /run/next]}")), name, keep_failed=True)
    assert Lab.find(name).nodes["a"].alive


def child(code: str, *arguments: str) -> "subprocess.Popen[str]":
    """A Python process of its own that imports the runner."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


UP = """
import ctypes, os, sys
from pathlib import Path
from topology.errors import LabError
from topology.lab.lab import Lab
path, name = Path(sys.argv[1]), sys.argv[2]
{before}
try:
    lab = Lab.up(path, name, keep={keep})
except LabError as error:
    sys.exit(f"error: {{error}}")
print("up", flush=True)
{after}
"""


def test_without_permissions_the_error_is_one_line(name: str, write: Callable[[str], Path]) -> None:
    path = write(LONE)
    not_root = child(UP.format(before="os.setuid(65534)", keep=True, after=""), str(path), name)
    assert (
        not_root.communicate(timeout=30)[0]
        == "error: a lab needs root (network namespaces, mounts): run it with sudo\n"
    )
    # PR_CAPBSET_DROP, CAP_SYS_ADMIN: root in a container without permission to create namespaces
    powerless = "ctypes.CDLL(None).prctl(24, 21, 0, 0, 0)"
    output = child(UP.format(before=powerless, keep=True, after=""), str(path), name).communicate(timeout=30)[0]
    assert "no permission to create namespaces (unshare: Operation not permitted)" in output
    assert output.count("\n") == 1
    assert_no_trace(name)


def test_a_kept_lab_outlives_its_creator_and_is_not_created_twice(name: str, write: Callable[[str], Path]) -> None:
    path = write(PAIR)
    creator = child(UP.format(before="", keep=True, after=""), str(path), name)
    assert creator.communicate(timeout=30)[0] == "up\n"
    lab = Lab.find(name)
    assert_connected(lab)
    with pytest.raises(LabError, match=rf"lab {name} is already up: take it down with `lbctl lab down {path}`"):
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
    assert owner.stdout is not None
    assert [owner.stdout.readline(), owner.stdout.readline()] == ["up\n", "on\n"]
    assert len(processes_of(name)) >= 5
    assert name not in record.remove_stale()  # its owner lives
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


ECHO = """
import socket
with socket.create_connection(("10.0.0.10", 7000), timeout=5, source_address=("10.1.1.200", 0)) as s:
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
