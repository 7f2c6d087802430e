# SPDX-License-Identifier: Apache-2.0
"""A speaker on b5 of segment.clab.yml that announces identities of other nodes; no agent of b5's runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address

from support.cluster_lab import ClusterLab

from bgp.community import Identity, encode

CONFIG = """\
neighbor 10.0.0.1 {{
  router-id {own}; local-address {own}; local-as 65001; peer-as 65000;
  family {{ ipv4 unicast; }}
  static {{ {routes} }}
}}
"""
LIES_ACCEPTED = "import where net = 10.254.0.10/32 ||", "import where net ~ identities ||"
"""What the router's configuration has for that: the printed one takes from b5 its own identity alone."""
START = 5
"""When each of the announced agents has started: not when a real one did."""


@contextmanager
def announced_by_b5(cluster: ClusterLab, *lies: tuple[str, int | None]) -> Iterator[None]:
    """Announce these addresses as nodes, each with its own tag, or with another one."""
    own, folder = cluster.addresses["b5"], cluster.lab.root("b5") / "run"
    routes = " ".join(_route(IPv4Address(address), tag, own) for address, tag in lies)
    (folder / "lies.conf").write_text(CONFIG.format(own=own, routes=routes))
    command = ["env", "exabgp.daemon.user=root", "exabgp", "server", "/run/lies.conf"]
    speaker = cluster.lab.spawn("b5", command, folder / "lies.log")
    try:
        yield
    finally:
        speaker.terminate()
        speaker.wait(60)


def _route(address: IPv4Address, tag: int | None, own: str) -> str:
    """Return the route by which `own` announces an address as a node, in ExaBGP's configuration language."""
    communities = " ".join(":".join(map(str, one)) for one in encode(Identity(4242, address, start=START)))
    prefix = IPv4Address("10.254.0.0") + (int(address) & 0xFFFF if tag is None else tag)
    return f"route {prefix}/32 next-hop {own} large-community [ {communities} ];"
