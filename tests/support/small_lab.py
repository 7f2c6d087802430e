# SPDX-License-Identifier: Apache-2.0
"""Two small labs for the tests of labs, who is in one, and a process of its own that brings one up.

 a ──── switch (br0) ──── b        PAIR; LONE is one node without a link
10.0.0.1                10.0.0.2
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

from support.waiting import wait_for

from topology.lab import record
from topology.lab.lab import Lab

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


ASK = "import socket; print(socket.create_connection(('10.0.0.2', 7), timeout=60).recv(9).decode(), end='')"


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
