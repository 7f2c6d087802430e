# SPDX-License-Identifier: Apache-2.0
"""`nat:` and services of `mode: nat`: every error has its place and the next step, and the epoch covers the pool."""

from ipaddress import IPv4Network, IPv6Network

import pytest

from agent.config.file import parse
from agent.config.nat import MAX_BACKENDS
from agent.errors import ConfigError
from bpf.layout import nat_backend as layout

TEXT = """\
cluster: 7
node: {interface: eth0}
services:
  - name: web
    vip: 192.0.2.10
    protocol: tcp
    port: 443
    mode: nat
    backends: [{address: 10.9.0.11, port: 8443}, {address: 10.9.0.12, port: 8443}]
nat: {pool: 10.255.0.0/27}
bgp: {local_as: 65001, identity_prefix: 10.254.0.0/16, peers: [{address: 10.0.0.1, as: 65000}]}
members: {allow: [10.0.0.0/24], key: none}
"""
BACKENDS = "[{address: 10.9.0.11, port: 8443}, {address: 10.9.0.12, port: 8443}]"
NAT = "nat: {pool: 10.255.0.0/27}"
SERVICE6 = """\
  - {name: web6, vip: '2001:db8::a', protocol: tcp, port: 443, mode: nat, backends: [{address: 'fd09::1', port: 80}]}
nat:"""


def edited(old: str, new: str) -> str:
    assert old in TEXT
    return TEXT.replace(old, new)


ERRORS = [
    # (text, its replacement, the message)
    # The pool by itself
    (NAT, "nat: {}", "10:6: nat.pool: is missing; give a private prefix, as 10.255.0.0/27, or pool6 for IPv6 alone"),
    (NAT, "nat:", "10:5: nat: is empty; give its keys and values, or remove it"),
    (NAT, "nat: {pol: 10.255.0.0/27}", "10:7: nat.pol: unknown key; did you mean pool?"),
    (NAT, "nat: {pool: 10.255.0.0}",
     "10:13: nat.pool: 10.255.0.0/32 has 1 address, and 1048576 sessions need 32; give a /27"),
    (NAT, "nat: {pool: 10.255.0.0/28}",
     "10:13: nat.pool: 10.255.0.0/28 has 16 addresses, and 1048576 sessions need 32; give a /27, or lower sessions to "
     "524288"),
    (NAT, "nat: {pool: 10.255.0.0/22, sessions: 16777216, pool6: 'fd00:ff::/120'}",
     "10:55: nat.pool6: fd00:ff::/120 has 256 addresses, and 16777216 sessions need 512; give a /119, or lower "
     "sessions to 8388608"),
    (NAT, "nat: {pool: 10.255.0.1/27}",
     "10:13: nat.pool: '10.255.0.1/27' is not an IP network: it has bits set after its prefix length"),
    (NAT, "nat: {pool: 'fd00::/64'}", "10:13: nat.pool: fd00::/64 is not an IPv4 network"),
    (NAT, "nat: {pool6: 10.255.0.0/27}", "10:14: nat.pool6: 10.255.0.0/27 is not an IPv6 network"),
    (NAT, "nat: {pool: 0.0.0.0/0}",
     "10:13: nat.pool: 0.0.0.0/0 overlaps 0.0.0.0/8, whose addresses are not unicast; give a private prefix"),
    (NAT, "nat: {pool: 239.0.0.0/8}",
     "10:13: nat.pool: 239.0.0.0/8 overlaps 224.0.0.0/3, whose addresses are not unicast; give a private prefix"),
    (NAT, "nat: {pool6: 'fe80::/64'}",
     "10:14: nat.pool6: fe80::/64 overlaps fe80::/10, whose addresses are not unicast; give a private prefix"),
    (NAT, "nat: {pool: 10.255.0.0/27, sessions: 1000000}",
     "10:38: nat.sessions: 1000000 is not a power of two; give 1048576"),
    (NAT, "nat: {pool: 10.255.0.0/27, sessions: 32768}", "10:38: nat.sessions: 32768 is not in 65536-16777216"),
    (NAT, "nat: {pool: 10.255.0.0/27, sessions: many}", "10:38: nat.sessions: 'many' is not a whole number"),
    (NAT, "nat: {pool: 10.255.0.0/27, weight: -1}", "10:36: nat.weight: -1 is not in 0-10000"),
    (NAT, "nat: {pool: 10.255.0.0/27, announce: {next_hop: '2001:db8::1'}}",
     "10:49: nat.announce.next_hop: 2001:db8::1 is of a family without a pool; remove it, or add the pool"),
    (NAT, "nat: {pool: 10.255.0.0/27, announce: {next_hop: 10.255.0.1}}",
     "10:13: nat.pool: 10.255.0.0/27 overlaps 10.255.0.1, a next hop; give a prefix that has no other use; see "
     "line 10"),
    (NAT, "nat: {pool: 10.255.0.0/27, announce: {large_communities: ['7:1:2']}}",
     "10:59: nat.announce.large_communities[0]: starts with the cluster's number, reserved for identities"),
    (NAT, "nat: {pool: 10.255.0.0/27, forward: l3}", "10:37: nat.forward: 'l3' is not 'l2', 'ipip' or 'gue'"),
    # The pool and other addresses
    (NAT, "nat: {pool: 192.0.2.0/24}",
     "10:13: nat.pool: 192.0.2.0/24 overlaps 192.0.2.10, a VIP; give a prefix that has no other use; see line 5"),
    (NAT, "nat: {pool: 10.9.0.0/27}",
     "10:13: nat.pool: 10.9.0.0/27 overlaps 10.9.0.11, a backend; give a prefix that has no other use; see line 9"),
    (NAT, "nat: {pool: 10.0.0.128/27}",
     "10:13: nat.pool: 10.0.0.128/27 overlaps 10.0.0.0/24, where the nodes are; give a prefix that has no other use; "
     "see line 12"),
    ("node: {interface: eth0}", "node: {interface: eth0, address: 10.255.0.5}",
     "10:13: nat.pool: 10.255.0.0/27 overlaps 10.255.0.5, this node's address; give a prefix that has no other use; "
     "see line 2"),
    (NAT, "nat: {pool: 10.254.7.0/24}",
     "10:13: nat.pool: 10.254.7.0/24 overlaps 10.254.0.0/16, which is for identities; give a prefix that has no other "
     "use; see line 11"),
    ("address: 10.0.0.1", "address: 10.255.0.1",
     "10:13: nat.pool: 10.255.0.0/27 overlaps 10.255.0.1, a BGP peer; give a prefix that has no other use; see "
     "line 11"),
    ("as: 65000", "as: 65000, source: 10.255.0.1",
     "10:13: nat.pool: 10.255.0.0/27 overlaps 10.255.0.1, this node's end of a session; give a prefix that has no "
     "other use; see line 11"),
    (NAT, f"{NAT}\ndeny: [10.255.0.0/16]",
     "10:13: nat.pool: 10.255.0.0/27 overlaps 10.255.0.0/16, whose packets are dropped; give a prefix that has no "
     "other use; see line 11"),
    ("mode: nat", "announce: {next_hop: 10.255.0.9}\n    mode: nat",
     "11:13: nat.pool: 10.255.0.0/27 overlaps 10.255.0.9, a next hop; give a prefix that has no other use; see line 8"),
    (NAT, "nat: {pool: 10.255.0.0/28, sessions: 524288}\n"
          "table: {previous: {nat: {pool: 10.255.0.0/27, sessions: 1048576}}}",
     "10:13: nat.pool: 10.255.0.0/28 is too small for the 1048576 former sessions; leave it a /27 until these "
     "ended; see line 11"),
    (NAT, f"{NAT}\ntable: {{previous: {{nat: {{pool: 192.0.2.0/24}}}}}}",
     "11:32: table.previous.nat.pool: 192.0.2.0/24 overlaps 192.0.2.10, a VIP; give a prefix that has no other use; "
     "see line 5"),
    # Backends
    (BACKENDS, "[]",
     "9:15: services[0].backends: is missing; list the servers, as {address: 10.9.0.11, port: 8443}"),
    (f"    backends: {BACKENDS}\n", "",
     "4:5: services[0].backends: is missing; list the servers, as {address: 10.9.0.11, port: 8443}"),
    ("address: 10.9.0.12", "address: 10.9.0.11",
     "9:50: services[0].backends[1]: 10.9.0.11:8443 is listed twice; remove one; see line 9"),
    ("port: 8443}]", "port: 0}]", "9:77: services[0].backends[1].port: 0 is not in 1-65535"),
    ("port: 8443}]", "port: any}]", "9:77: services[0].backends[1].port: 'any' is not a whole number"),
    (", port: 8443}]", "}]", "9:50: services[0].backends[1].port: is missing"),
    ("port: 8443}]", "port: 8443, weight: x}]", "9:91: services[0].backends[1].weight: 'x' is not a whole number"),
    ("address: 10.9.0.12", "address: 192.0.2.10",
     "9:60: services[0].backends[1].address: 192.0.2.10 is a VIP; give the server's own address"),
    ("address: 10.9.0.12", "address: 'fd09::1'",
     "9:60: services[0].backends[1].address: fd09::1 is of a different family than the VIP, 192.0.2.10; give its IPv4 "
     "address"),
    ("address: 10.9.0.12", "address: 224.0.0.1",
     "9:60: services[0].backends[1].address: 224.0.0.1 is not a unicast address of another machine"),
    ("address: 10.9.0.12", "address: web.example",
     "9:60: services[0].backends[1].address: 'web.example' is not an IP address"),
    ("address: 10.9.0.12", "address: 10.254.0.1",
     "9:60: services[0].backends[1].address: 10.254.0.1 is in bgp.identity_prefix, which is for identities; give the "
     "server's own address"),
    ("address: 10.9.0.12", "address: 10.0.0.1",
     "9:60: services[0].backends[1].address: 10.0.0.1 is a BGP peer's address; give the server's own address"),
    (NAT, f"{NAT}\ndeny: [10.8.0.0/16, 10.9.0.12/32]",
     "9:60: services[0].backends[1].address: 10.9.0.12 is in 10.9.0.12/32, whose packets are dropped, and so are its "
     "answers; remove one; see line 11"),
    # Other keys of the service
    ("mode: nat", "mode: snat", "8:11: services[0].mode: 'snat' is not 'dsr' or 'nat'"),
    ("mode: nat", "mode: dsr", "9:15: services[0].backends: is for mode nat; remove it, or set mode: nat"),
    ("mode: nat", "mode: nat\n    balance: random",
     "9:14: services[0].balance: 'random' is not 'hash', 'round_robin', 'least_connections' or 'weighted'"),
    ("mode: nat", "mode: nat\n    on_down: drop", "9:14: services[0].on_down: 'drop' is not 'reset' or 'keep'"),
    ("port: 443\n", "port: any\n",
     "7:11: services[0].port: is any, but a NAT service has one port; give it, or use mode dsr"),
    ("mode: nat", "mode: nat\n    instances: {match: {unit: a.service}}",
     "9:16: services[0].instances: is for mode dsr, not nat; remove it"),
    ("mode: nat", "mode: nat\n    weight: 5",
     "9:13: services[0].weight: is for mode dsr, not nat; set nat.weight for all NAT services"),
    ("mode: nat", "mode: nat\n    forward: l2",
     "9:14: services[0].forward: is for mode dsr, not nat; set nat.forward for all NAT services"),
    ("mode: nat", "mode: nat\n    when_no_member: drop",
     "9:21: services[0].when_no_member: is for mode dsr, not nat; remove it"),
    ("mode: nat", "mode: nat\n    health: {type: exec, command: [/bin/true], user: nobody}",
     "9:20: services[0].health.type: exec cannot check a backend from here; use tcp, udp, http or https"),
    ("mode: nat", "mode: nat\n    health: {address: 127.0.0.1}",
     "9:23: services[0].health.address: is for mode dsr: each backend is asked at its own address; remove it"),
    ("mode: nat", "mode: nat\n    health: {disable_file: /run/off}",
     "9:28: services[0].health.disable_file: is for mode dsr: each backend is asked at its own address; remove it"),
    ("protocol: tcp", "protocol: udp",
     "4:5: services[0].health: needs a port of its own: set health.port to a TCP port"),
    # Between sections
    (f"{NAT}\n", "", "8:11: services[0].mode: nat needs a section nat: with a pool, as {pool: 10.255.0.0/27}"),
    (NAT, "nat: {pool6: 'fd00:ff::/123'}",
     "10:6: nat: has no pool, which services[0].vip 192.0.2.10 needs; add it; see line 5"),
    ("nat:", SERVICE6, "11:6: nat: has no pool6, which services[1].vip 2001:db8::a needs; add it; see line 10"),
    (NAT, f"{NAT}\nxdp: {{mode: off}}",
     "11:13: xdp.mode: is off, and services[0] needs the data path for NAT; remove one; see line 4"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "message"), ERRORS)
def test_errors(old: str, new: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(edited(old, new), "lb.yml")
    assert str(caught.value) == f"lb.yml:{message}"


def test_limits_of_backends() -> None:
    assert MAX_BACKENDS == layout.BACKENDS - 1, "each has an index of its own, and 0 means none"

    def listed(count: int, start: int = 0) -> str:
        return "".join(f"{{address: 10.9.{i >> 8}.{i & 255}, port: 1}}, " for i in range(start, start + count))

    with pytest.raises(ConfigError, match=r"lb.yml:9:15: services\[0\]\.backends: has more than 256 entries"):
        parse(edited(BACKENDS, f"[{listed(257)}]"), "lb.yml")
    service = "  - {{name: s{0}, vip: 192.0.2.20, protocol: tcp, port: {0}, mode: nat, backends: [{1}]}}\n"
    services = "".join(service.format(i + 1, "*all" if i else listed(256)) for i in range(16))
    services = services.replace("backends: [", "backends: &all [", 1).replace("[*all]", "*all")
    with pytest.raises(ConfigError, match=r"services\[16\]\.backends: makes 4098 of all services, more than 4095"):
        parse(edited("nat: {", f"{services}nat: {{"), "lb.yml")


def test_valid_file() -> None:
    config = parse(edited("nat: {", "  - {name: dns, vip: 192.0.2.10, protocol: tcp, port: 53}\nnat: {"), "lb.yml")
    assert config.nat is not None
    assert (config.nat.pools, config.nat.sessions, config.nat.weight) == ((IPv4Network("10.255.0.0/27"),), 1 << 20, 100)
    ((index, service),) = config.nat_services
    assert (index, service.name, service.balance, service.on_down) == (0, "web", "hash", "reset")
    assert [(str(one.address), one.port, one.weight) for one in service.backends] == [
        ("10.9.0.11", 8443, 100),
        ("10.9.0.12", 8443, 100),
    ]


def test_smallest_pools_of_each_number_of_sessions() -> None:
    for bits in range(16, 25):
        pools = f"pool: 10.255.0.0/{47 - bits}, pool6: 'fd00:ff::/{143 - bits}'"
        config = parse(edited(NAT, f"nat: {{{pools}, sessions: {1 << bits}}}"), "lb.yml")
        assert config.nat is not None
        assert [pool.num_addresses << 15 for pool in config.nat.pools] == [1 << bits, 1 << bits]
        with pytest.raises(ConfigError, match=r"nat\.pool6: .* sessions need"):
            parse(edited(NAT, f"nat: {{pool6: 'fd00:ff::/{144 - bits}', sessions: {1 << bits}}}"), "lb.yml")


def test_ipv6() -> None:
    config = parse(edited(NAT, SERVICE6.replace("nat:", "nat: {pool: 10.255.0.0/27, pool6: 'fd00:ff::/123'}")), "f")
    assert config.nat is not None
    assert config.nat.pools == (IPv4Network("10.255.0.0/27"), IPv6Network("fd00:ff::/123"))


def test_section_without_a_nat_service() -> None:
    dsr = edited("    mode: nat\n", "").replace(f"    backends: {BACKENDS}\n", "")
    assert parse(dsr, "lb.yml").nat_services == ()


def test_nat_services_have_the_forward_of_nat() -> None:
    config = parse(edited("nat: {", "nat: {forward: ipip, "), "lb.yml")
    assert [service.forward for service in config.services] == ["ipip"]
    assert config.forwards == {"ipip"}
