# SPDX-License-Identifier: Apache-2.0
"""BFD for every kind of BGP session, with BIRD 2 and FRR: IPv4 over several hops, IPv6, and link-local addresses.

    b1 10.0.0.11 fd00::11 fe80::11 ── router 10.0.0.1 fd00::1 fe80::1

One link carries all three sessions; a multihop session works over a single hop too.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, ip_address
from pathlib import Path

import pytest
from support.bfd_lab import ROUTERS, START
from support.waiting import wait_for

from bgp.bfd.config import BfdTimers
from bgp.bfd.status import BfdStatus, decode_statuses
from bgp.router.facts import Neighbor, Router, SessionSettings
from topology.lab.lab import Lab

pytestmark = pytest.mark.lab

PEERS = ("10.0.0.1", "fd00::1", "fe80::1")
LAB = """
name: bfd-kinds-{router}
topology:
  defaults: {{kind: linux, image: anylb/lab, network-mode: none}}
  nodes:
    router:
      binds: ["{conf}:/etc/{router}/{router}.conf:ro"]
      exec:
        - ip address add 10.0.0.1/24 dev eth1
        - ip -6 address add fd00::1/64 dev eth1 nodad
        - ip -6 address add fe80::1/64 dev eth1 nodad
        {start}
    b1:
      exec:
        - ip address add 10.0.0.11/24 dev eth1
        - ip -6 address add fd00::11/64 dev eth1 nodad
        - ip -6 address add fe80::11/64 dev eth1 nodad
  links:
    - {{endpoints: ["b1:eth1", "router:eth1"], mtu: 1500}}
"""
SPEAK = """
from ipaddress import ip_address
from bgp.bfd.config import BfdTimers
from bgp.exabgp.config import NeighborConfig, SpeakerConfig
from bgp.exabgp import speaker
env = speaker.render_env
speaker.render_env = lambda config: env(config).replace("level = WARNING", "level = INFO")  # sessions too
def peer(router, own, **more):
    return NeighborConfig(ip_address(router), 65000, ip_address(own), hold_time_s=90, bfd=BfdTimers(300, 3), **more)
speaker.run(SpeakerConfig(65001, ip_address("10.0.0.11"), (
    peer("10.0.0.1", "10.0.0.11", multihop=2),
    peer("fd00::1", "fd00::11"),
    peer("fe80::1", "fe80::11", interface="eth1"),
)))
"""


def router_config(router: str) -> str:
    """Return the router's configuration, as `lbctl announce config` prints it."""

    def neighbor(name: str, local: str, address: str, hops: int | None = None) -> Neighbor:
        own, node = ip_address(local), ip_address(address)
        interface = "eth1" if node.is_link_local else None
        families = ("ipv4" if node.version == 4 else "ipv6",)
        session = SessionSettings(own, families, hold_time_s=90, multihop=hops, bfd=BfdTimers(300, 3))  # type: ignore[arg-type]
        identity = IPv4Network("10.254.0.11/32") if node.version == 4 else None
        return Neighbor(name, node, 65001, session, identity, interface)

    neighbors = (
        neighbor("far", "10.0.0.1", "10.0.0.11", 2),
        neighbor("six", "fd00::1", "fd00::11"),
        neighbor("near", "fe80::1", "fe80::11"),
    )
    vips, identities = (IPv4Network("10.99.0.1/32"),), IPv4Network("10.254.0.0/16")
    log = "/var/log/bird.log" if router == "bird" else "/var/log/frr/frr.log"
    return ROUTERS[router](Router(65000, IPv4Address("10.0.0.1"), neighbors, vips, identities, log=log))


class KindsLab:
    """The lab, the status file of b1's BFD process, and the log of its ExaBGP."""

    def __init__(self, lab: Lab, log: Path) -> None:
        self.lab, self.log = lab, log
        self.speaker: subprocess.Popen[bytes] = lab.spawn("b1", [sys.executable, "-c", SPEAK], log=log)

    def statuses(self) -> dict[str, BfdStatus]:
        path = self.lab.root("b1") / "run/anylb-bgp/bfd.status.json"
        return decode_statuses(path.read_bytes() if path.exists() else b"")

    def all_are(self, state: str, detection_ms: float) -> bool:
        found = self.statuses()
        return [(found[p].state, found[p].detection_ms) for p in PEERS if p in found] == [(state, detection_ms)] * 3


@pytest.fixture(params=["bird", "frr"])
def kinds_lab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[KindsLab]:
    router = request.param
    conf, file = tmp_path / f"{router}.conf", tmp_path / "kinds.clab.yml"
    conf.write_text(router_config(router))
    file.write_text(LAB.format(router=router, conf=conf, start="\n        ".join(f"- {c}" for c in START[router])))
    with Lab.up(file, name=f"bfd-kinds-{router}-{os.getpid()}", keep=False) as lab:
        yield KindsLab(lab, tmp_path / "b1.log")


def test_each_kind_of_session_comes_up_and_is_torn_down(kinds_lab: KindsLab):
    wait_for(lambda: kinds_lab.all_are("up", 900), "three sessions up, at the interval of both ends")
    connected = "connected to peer-"
    wait_for(lambda: kinds_lab.log.read_text().count(connected) >= len(PEERS), "three BGP sessions")
    time.sleep(2)
    assert kinds_lab.all_are("up", 900), "they stay up"
    kinds_lab.lab.link("router", "eth1", up=False)
    wait_for(lambda: kinds_lab.all_are("down", 0), "three sessions down")
    for peer in PEERS:
        wait_for(lambda peer=peer: f"teardown scheduled for neighbor {peer}\n" in kinds_lab.log.read_text(), peer)
