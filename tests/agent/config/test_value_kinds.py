# SPDX-License-Identifier: Apache-2.0
"""Values of another kind than the setting takes, keys that resemble a known one, and addresses that cannot be meant."""

import pytest

from agent.config.file import parse
from agent.errors import ConfigError

GOOD = """\
cluster: 7
node: {interface: eth0}
services:
  - name: web
    vip: 192.0.2.10
    protocol: tcp
    port: 443
bgp:
  local_as: 65001
  identity_prefix: 10.254.0.0/16
  peers:
    - address: 10.0.0.1
      as: 65000
members:
  allow: [10.0.0.0/24]
"""
HERE = "is not a unicast address of another machine"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        # a list, a mapping or nothing where one value is wanted
        ("interface: eth0", "interface: [eth0, eth1]",
         "2:19: node.interface: is a list; give one name, or write interfaces for several"),
        ("interface: eth0", "interface: {eth0: 1}", "2:19: node.interface: is a mapping; give one value"),
        ("name: web", "name: [web]", "4:11: services[0].name: is a list; give one value"),
        ("name: web", "name:", "4:10: services[0].name: is empty; give a value"),
        ("vip: 192.0.2.10", "vip: [192.0.2.10]", "5:10: services[0].vip: is a list; give one value"),
        ("protocol: tcp", "protocol: [tcp, udp]", "6:15: services[0].protocol: is a list; give one value"),
        ("port: 443", "port: [80, 443]", "7:11: services[0].port: is a list; give one value"),
        ("port: 443", "port: 443\n    health: {interval_s: [1]}",
         "8:26: services[0].health.interval_s: is a list; give one value"),
        ("port: 443", "port: 443\n    announce: {communities: [['1:2']]}",
         "8:30: services[0].announce.communities[0]: is a list; give one value"),
        ("as: 65000", "as: 65000\n      passive: [true]", "14:16: bgp.peers[0].passive: is a list; give one value"),
        ("as: 65000", "as: 65000\n      password_file: [a]",
         "14:22: bgp.peers[0].password_file: is a list; give one value"),
        ("10.254.0.0/16", "[10.254.0.0/16]", "10:20: bgp.identity_prefix: is a list; give one value"),
        ("cluster: 7", "cluster: {a: 7}", "1:10: cluster: is a mapping; give one value"),
        # one value where a list or a mapping is wanted
        ("[10.0.0.0/24]", "10.0.0.0/24", "15:10: members.allow: is not a list; write ['10.0.0.0/24']"),
        ("[10.0.0.0/24]", "{a: 1}", "15:10: members.allow: is a mapping, not a list"),
        ("[10.0.0.0/24]", "", "15:9: members.allow: is empty; list at least one"),
        ("{interface: eth0}", "eth0", "2:7: node: is not a mapping; write its keys and values"),
        ("{interface: eth0}", "[eth0]", "2:7: node: is a list, not a mapping"),
        # keys
        ("port: 443", "port: 443\n    forwrad: l2", "8:5: services[0].forwrad: unknown key; did you mean forward?"),
        ("as: 65000", "as: 65000\n      hold_time: 3",
         "14:7: bgp.peers[0].hold_time: unknown key; did you mean hold_time_s?"),
        ("as: 65000", "as: 65000\n      bfd: {interval: 300}",
         "14:13: bgp.peers[0].bfd.interval: unknown key; did you mean interval_ms?"),
        ("as: 65000", "as: 65000\n      ass: 65001", "14:7: bgp.peers[0].ass: unknown key; did you mean as?"),
        ("as: 65000", "as: 65000\n      vip: 192.0.2.1", "14:7: bgp.peers[0].vip: unknown key"),
        ("members:", "7: 1\nmembers:", "14:1: 7: unknown key"),
        # numbers
        ("port: 443", "port: 0443",
         "7:11: services[0].port: 0443 is a number in base 8 (YAML 1.1); write 443, or put a text in quotes"),
        ("port: 443", "port: 22:22",
         "7:11: services[0].port: 22:22 is a number in base 60 (YAML 1.1); put a text in quotes, as '22:22'"),
        ("cluster: 7", "cluster: 1_000\nx: 0b1",
         "1:10: cluster: 1_000 contains _; write 1000\nlb.yml:2:4: x: 0b1 is a number in base 2; write it in base 10"),
        ("port: 443", "port: 0x1" + "0" * 20,
         "7:11: services[0].port: 1208925819614629174706176 is neither in 1-65535 nor 'any'"),
        # addresses
        ("port: 443", "port: 443\n    announce: {next_hop: 127.0.0.1}",
         f"8:26: services[0].announce.next_hop: 127.0.0.1 {HERE}"),
        ("port: 443", "port: 443\n    announce: {next_hop: 0.0.0.0}",
         f"8:26: services[0].announce.next_hop: 0.0.0.0 {HERE}"),
        ("port: 443", "port: 443\n    announce: {next_hop: 224.0.0.5}",
         f"8:26: services[0].announce.next_hop: 224.0.0.5 {HERE}"),
        ("port: 443", "port: 443\n    announce: {next_hop: 255.255.255.255}",
         f"8:26: services[0].announce.next_hop: 255.255.255.255 {HERE}"),
        ("port: 443", "port: 443\n    announce: {next_hop: '::1'}", f"8:26: services[0].announce.next_hop: ::1 {HERE}"),
        ("port: 443", "port: 443\n    announce: {next_hop: 'ff02::1'}",
         f"8:26: services[0].announce.next_hop: ff02::1 {HERE}"),
        ("vip: 192.0.2.10", "vip: 0.1.2.3",
         "5:10: services[0].vip: 0.1.2.3 cannot be a virtual IP; give a unicast address"),
        ("address: 10.0.0.1", "address: 224.0.0.5",
         "12:16: bgp.peers[0].address: 224.0.0.5 cannot be a router's address"),
        ("as: 65000", "as: 65000\n      source: 0.0.0.0",
         "14:15: bgp.peers[0].source: 0.0.0.0 cannot be this node's address; give a unicast address"),
        # what a terminal must not receive
        ("port: 443", 'port: "\\e[31m"', "7:11: services[0].port: '\\x1b[31m' is neither in 1-65535 nor 'any'"),
        ("vip: 192.0.2.10", 'vip: "\\e[31m"', "5:10: services[0].vip: '\\x1b[31m' is not an IP address"),
        ("members:", '"\\e]0;x\\a": 1\nmembers:', "14:1: \\x1b]0;x\\x07: unknown key"),
    ],
)  # fmt: skip
def test_errors(old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError) as caught:
        parse(GOOD.replace(old, new), "lb.yml")
    assert str(caught.value) == f"lb.yml:{message}"


def test_long_values_are_cut() -> None:
    with pytest.raises(ConfigError) as caught:
        parse(GOOD.replace("web", "w" * 100_000), "lb.yml")
    assert len(str(caught.value)) < 500


def test_many_errors_are_cut() -> None:
    with pytest.raises(ConfigError) as caught:
        parse(f"{GOOD}deny: [{'x, ' * 5000}]", "lb.yml")
    lines = str(caught.value).splitlines()
    assert lines[0] == "lb.yml:16:8: deny[0]: 'x' is not an IP network"
    assert lines[50:] == ["lb.yml: 4950 more errors"]


@pytest.mark.parametrize("hop", ["10.0.0.9", "169.254.0.1"])
def test_unicast_next_hop(hop: str) -> None:
    config = parse(GOOD.replace("port: 443", f"port: 443\n    announce: {{next_hop: {hop}}}"), "lb.yml")
    assert str(config.announce_of(config.vips[0]).next_hop) == hop
