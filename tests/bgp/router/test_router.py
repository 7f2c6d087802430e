# SPDX-License-Identifier: Apache-2.0
"""The router's configuration: each kind of router accepts its own, and none contains a password.

The router itself checks the syntax; tests/cluster/test_interop.py tests the effect.
"""

import subprocess
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from bgp.bfd.config import BfdTimers
from bgp.errors import BgpError
from bgp.router import KINDS
from bgp.router.facts import Neighbor, Router, SessionSettings

CHECKS = {
    "bird": ["bird", "-p", "-c"],
    "frr": ["vtysh", "-C", "-f"],
    "gobgp": ["gobgpd", "-d", "-f"],
    "openbgpd": ["bgpd", "-n", "-f"],
}
V4 = SessionSettings(ip_address("10.0.0.1"), ("ipv4",), hold_time_s=3)
IDENTITY = ip_network("10.254.0.11/32"), ip_network("10.254.0.12/32"), ip_network("10.254.0.13/32")
V6 = SessionSettings(ip_address("fd00::1"), ("ipv6",), hold_time_s=3)
PLAIN = Router(
    65000,
    ip_address("10.0.0.1"),
    (
        Neighbor("b1", ip_address("10.0.0.11"), 65001, V4, IDENTITY[0]),
        Neighbor("b2", ip_address("10.0.0.12"), 65002, V4, IDENTITY[1]),
    ),
    (ip_network("192.0.2.10/32"),),
    ip_network("10.254.0.0/16"),
)


def neighbors_with(**changes: object) -> tuple[Neighbor, ...]:
    """Return the plain router's neighbors with changed session settings."""
    return tuple(replace(one, session=replace(one.session, **changes)) for one in PLAIN.neighbors)


INTERNAL = tuple(replace(one, asn=65000) for one in neighbors_with(internal=True))
DUAL = (*PLAIN.neighbors, Neighbor("b1_v6", ip_address("fd00::11"), 65001, V6))
VIPS = (ip_network("192.0.2.10/32"), ip_network("2001:db8::10/128"), ip_network("198.51.100.0/24"))
POOLS = (ip_network("10.255.0.0/27"), ip_network("fd00:ff::/123"))
LINK = replace(V6, local=ip_address("fe80::1"))
CASES = {
    "plain": PLAIN,
    "one node": replace(PLAIN, neighbors=PLAIN.neighbors[:1]),
    "internal": replace(PLAIN, neighbors=INTERNAL),
    "both families": replace(PLAIN, neighbors=DUAL, vips=VIPS),
    "both families, no IPv6 VIP": replace(PLAIN, neighbors=DUAL),
    "an IPv6 session that carries IPv4": replace(
        PLAIN, neighbors=(replace(DUAL[2], session=replace(V6, families=("ipv4", "ipv6")), identity=IDENTITY[0]),)
    ),
    "no IPv4 VIP": replace(PLAIN, vips=VIPS[1:2]),
    "IPv6 alone": replace(PLAIN, neighbors=DUAL[2:], vips=VIPS[1:2]),
    "IPv4 and IPv6 in one session": replace(PLAIN, neighbors=neighbors_with(families=("ipv4", "ipv6")), vips=VIPS),
    "link-local": replace(
        PLAIN,
        neighbors=(*PLAIN.neighbors, Neighbor("b1_v6", ip_address("fe80::11"), 65001, LINK, None, "lo")),
        vips=VIPS,
    ),
    "pools of NAT": replace(PLAIN, neighbors=DUAL, vips=VIPS, pools=POOLS),
    "pools and no VIP of their families": replace(PLAIN, neighbors=DUAL, vips=(), pools=POOLS),
    "active": replace(PLAIN, neighbors=neighbors_with(passive=False)),
    "GTSM": replace(PLAIN, neighbors=neighbors_with(ttl_security=True)),
    "multihop": replace(PLAIN, neighbors=neighbors_with(multihop=2)),
    "password": replace(PLAIN, neighbors=neighbors_with(password_file="/etc/anylb/md5")),  # noqa: S106 - a path
    "BFD": replace(PLAIN, neighbors=neighbors_with(bfd=BfdTimers(300, 3))),
    "a log and a maker": replace(PLAIN, log="/var/log/router.log", made_by="lbctl announce config"),
    "two of one AS, one of the router's": replace(
        PLAIN,
        neighbors=(
            *PLAIN.neighbors,
            Neighbor("b3", ip_address("10.0.0.13"), 65001, V4, IDENTITY[2]),
            Neighbor("b4", ip_address("10.0.0.14"), 65000, replace(V4, internal=True), ip_network("10.254.0.14/32")),
        ),
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", CHECKS)
def test_the_router_accepts_its_configuration(kind: str, case: str, tmp_path: Path) -> None:
    file = tmp_path / "router.conf"
    file.write_text(KINDS[kind](CASES[case]))
    file.chmod(0o600)  # OpenBGPD reads no other: it may contain passwords
    done = subprocess.run([*CHECKS[kind], str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr + file.read_text()


@pytest.mark.parametrize("kind", CHECKS)
def test_the_router_refuses_a_wrong_configuration(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "router.conf"
    file.write_text(KINDS[kind](PLAIN) + "\nnonsense here\n")
    file.chmod(0o600)
    done = subprocess.run([*CHECKS[kind], str(file)], capture_output=True, text=True, check=False)
    assert done.returncode != 0


@pytest.mark.parametrize("kind", KINDS)
def test_host_routes_of_a_range_of_vips_are_accepted(kind: str) -> None:
    text = KINDS[kind](replace(PLAIN, vips=VIPS))
    (line,) = [line for line in text.splitlines() if "198.51.100.0/24" in line]
    assert "32" in (line if kind != "gobgp" else text.partition(line)[2].splitlines()[1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_pool_is_accepted_as_it_is(kind: str) -> None:
    text = KINDS[kind](replace(PLAIN, neighbors=DUAL, pools=POOLS))
    rules = {
        "bird": "[ 192.0.2.10/32, 10.255.0.0/27 ]",
        "frr": "ip prefix-list vips-ipv4 permit 10.255.0.0/27\n",
        "gobgp": 'ip-prefix = "10.255.0.0/27"\n    masklength-range = "27..27"\n',
        "openbgpd": "\n  10.255.0.0/27\n",
    }
    assert rules[kind] in text
    assert rules[kind] not in KINDS[kind](PLAIN), "only a pool that is given"
    assert "10.255.0.0/27, fd00:ff::/123" in text.splitlines()[3], "the heading names it"


@pytest.mark.parametrize("kind", KINDS)
def test_password_is_a_placeholder(kind: str) -> None:
    assert "REPLACE-BY-CONTENT-OF-/etc/anylb/md5" in KINDS[kind](CASES["password"])


@pytest.mark.parametrize("kind", KINDS)
def test_an_identity_is_accepted_from_its_own_node_alone(kind: str) -> None:
    text = KINDS[kind](PLAIN)
    for identity in IDENTITY[:2]:
        assert text.count(str(identity)) == 1, "one filter names it"
    assert "10.254.0.0/16" in text, "what nodes receive"


def test_contradictory_facts_are_refused() -> None:
    with pytest.raises(BgpError, match="no node is given"):
        replace(PLAIN, neighbors=())
    with pytest.raises(BgpError, match=r"b1 10.0.0.11 and b1 10.0.0.12 share a name"):
        replace(PLAIN, neighbors=(PLAIN.neighbors[0], replace(PLAIN.neighbors[1], name="b1")))
    with pytest.raises(BgpError, match="b1: a session has an identity if it carries IPv4, and only then"):
        replace(PLAIN, neighbors=(replace(PLAIN.neighbors[0], identity=None),))
    with pytest.raises(BgpError, match="internal in the router"):
        replace(PLAIN, neighbors=neighbors_with(internal=True))
