# SPDX-License-Identifier: Apache-2.0
"""Offloads of real interfaces, as the kernel reports them."""

import subprocess

import pytest
from support.two_links import ip, two_links

from agent.netlink.ethtool import strips_vlan_tags

pytestmark = pytest.mark.lab


def test_vlan_tags_that_are_stripped() -> None:
    with two_links():
        assert strips_vlan_tags("eth0"), "a veth does, by default"
        subprocess.run(["ethtool", "-K", "eth0", "rxvlan", "off"], check=True, capture_output=True)
        assert not strips_vlan_tags("eth0")
        assert strips_vlan_tags("eth1")
        ip("link", "set", "lo", "up")
        assert not strips_vlan_tags("lo")
        assert not strips_vlan_tags("eth9"), "there is none"
