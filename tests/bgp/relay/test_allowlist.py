# SPDX-License-Identifier: Apache-2.0
"""The allowlist: which prefixes pass, and when its file is read again."""

import os
from ipaddress import ip_network
from pathlib import Path

import pytest

from bgp.errors import BgpError
from bgp.relay.allowlist import Allowlist, Exactly, refused

ALLOWED = [ip_network("192.0.2.0/29"), ip_network("10.254.0.11/32"), ip_network("2001:db8::/64")]
POOLS = [Exactly(ip_network("10.255.0.0/27")), Exactly(ip_network("fd00:ff::/123"))]


@pytest.mark.parametrize(
    ("prefix", "passes"),
    [
        ("192.0.2.1/32", True),
        ("192.0.2.7/32", True),
        ("192.0.2.8/32", False),
        ("192.0.2.0/29", False),  # no host route: it would attract other traffic
        ("192.0.2.0/31", False),
        ("10.254.0.11/32", True),
        ("10.254.0.12/32", False),
        ("0.0.0.0/0", False),
        ("2001:db8::1/128", True),
        ("2001:db8::/64", False),
        ("10.255.0.0/27", True),
        ("10.255.0.0/26", False),
        ("10.255.0.0/28", False),
        ("10.255.0.1/32", False),
        ("fd00:ff::/123", True),
        ("fd00:ff::1/128", False),
        ("2001:db8:0:1::1/128", False),
        ("::/0", False),
    ],
)
def test_only_host_routes_inside_the_list_and_pools_pass(prefix: str, passes: bool):
    assert refused([prefix], [*ALLOWED, *POOLS]) == ([] if passes else [prefix])


def test_empty_list_allows_nothing():
    assert refused(["192.0.2.1/32"], []) == ["192.0.2.1/32"]


def replace(path: Path, text: str) -> None:
    aside = path.with_name("aside")
    aside.write_text(text)
    os.replace(aside, path)


def test_file_is_read_again_only_when_it_is_replaced(tmp_path: Path):
    path = tmp_path / "allow"
    path.write_text("192.0.2.0/29\nlearn 10.254.0.11/32\nexactly 10.255.0.0/27\n2001:db8::/64\n")
    allowlist = Allowlist(path)
    assert allowlist.advertised == (ALLOWED[0], ALLOWED[2], POOLS[0])
    assert allowlist.learned == tuple(ALLOWED)
    assert not allowlist.reload()
    replace(path, "10.254.0.11/32\n")
    assert allowlist.reload()
    assert allowlist.advertised == allowlist.learned == (ALLOWED[1],)
    for broken in (
        "10.254.0.11/16\n",
        "nonsense\n",
        "ü\n",
        "learn\n",
        "exactly 10.255.0.1/27\n",
        "learn learn 10.254.0.0/16\n",
    ):
        replace(path, broken)
        with pytest.raises(BgpError, match=str(path)):
            allowlist.reload()
        assert allowlist.advertised == allowlist.learned == (ALLOWED[1],), "the previous list stays in force"
    path.unlink()
    with pytest.raises(BgpError, match="No such file"):
        allowlist.reload()
    with pytest.raises(BgpError, match="No such file"):
        Allowlist(path)
