# SPDX-License-Identifier: Apache-2.0
"""The bench's two labs, up and ready: one with anylb on the servers, one of plain ECMP and proxies.

Both end with this process.
"""

import contextlib
import socket
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

from topology.demo.agent_client import tables_agree
from topology.demo.cluster import VIP, Cluster
from topology.demo.router_watch import RouterWatch
from topology.lab.lab import Lab
from topology.lab.netns import inside_net

FOLDER: Final = Path(__file__).parent / "lab"
SERVERS: Final = ("b1", "b2", "b3", "b4")
PROXY_VIP: Final = "10.99.0.2"
NAT_NODES: Final = ("n1", "n2")
NAT_VIP: Final = "10.99.0.6"
NAT_POOL: Final = "10.255.0.0/27"
TUNNEL_VIPS: Final = {"ipip": "10.99.0.4", "gue": "10.99.0.5"}
"""The VIPs by name of the service."""
START_S: Final = 60.0


@contextlib.contextmanager
def anylb_lab(name: str) -> Iterator[Cluster]:
    """Bring up the lab with the daemons on all servers, until all tables agree and the router has all routes."""
    with Lab.up(FOLDER / "bench.clab.yml", name, keep=False) as lab:
        lab.exec("router", ["bird", "-c", "/etc/bird/bird.conf"])
        cluster = Cluster(lab, "bird")
        for node in SERVERS:
            cluster.start(node, "speaker", "agent")
        hops = frozenset(cluster.addresses[node] for node in SERVERS)
        for vip in (VIP, *TUNNEL_VIPS.values()):
            with RouterWatch(lab.nodes["router"].pid, vip) as router:
                cluster.wait(f"all routes to {vip}", lambda: router.history.current == hops, START_S)
        takers = frozenset(SERVERS)
        cluster.wait("tables", lambda: tables_agree(map(cluster.service_status, SERVERS), takers, frozenset()), START_S)
        yield cluster


@contextlib.contextmanager
def plain_lab(name: str) -> Iterator[Cluster]:
    """Bring up the lab with servers without XDP: the VIP by static ECMP routes, the proxies, and nodes that do NAT."""
    with Lab.up(FOLDER / "bench.clab.yml", name, keep=False) as lab:
        cluster = Cluster(lab, "bird")
        for node in SERVERS:
            lab.exec(node, ["ip", "address", "add", f"{VIP}/32", "dev", "lo"])
        hops = [word for node in SERVERS for word in ("nexthop", "via", cluster.addresses[node])]
        lab.exec("router", ["ip", "route", "add", f"{VIP}/32", *hops])
        lab.exec("router", ["ip", "route", "add", f"{PROXY_VIP}/32", "via", "10.0.0.20"])
        for node in NAT_NODES:
            cluster.start(node, "agent")
        hops = [word for node in NAT_NODES for word in ("nexthop", "via", cluster.addresses[node])]
        for prefix in (f"{NAT_VIP}/32", NAT_POOL):
            lab.exec("router", ["ip", "route", "add", prefix, *hops])
        log = lab.root("proxy") / "var/log/anylb/proxy.log"
        lab.spawn("proxy", ["haproxy", "-f", "/etc/haproxy-bench.cfg", "-db"], log=log)
        lab.exec("proxy", ["nginx", "-c", "/etc/nginx-bench.conf", "-e", "/run/nginx/error.log"])
        for address, port in ((VIP, 80), (PROXY_VIP, 80), (PROXY_VIP, 8080), (NAT_VIP, 80)):
            cluster.wait(f"{address}:{port}", partial(answers, lab, (address, port)), START_S)
        yield cluster


def answers(lab: Lab, at: tuple[str, int]) -> bool:
    """Return whether a server answers the lab's client."""
    with inside_net(lab.nodes["client"].pid):
        client = socket.socket()
    with client:
        client.settimeout(1.0)
        try:
            client.connect(at)
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return client.recv(100).startswith(b"HTTP/1.1 200")
        except OSError:
            time.sleep(0.05)
            return False
