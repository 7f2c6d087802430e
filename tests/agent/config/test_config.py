# SPDX-License-Identifier: Apache-2.0
"""Every error in lb.yml is reported with file, line, column and field; a valid file is read in full."""

from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from agent.config.file import load, parse
from agent.errors import ConfigError

GOOD = """\
cluster: 7
node:
  interface: eth0
services:
  - name: web
    vip: 192.0.2.10
    protocol: tcp
    port: 443
    forward: l2
bgp:
  local_as: 65001
  identity_prefix: 10.254.0.0/16
  peers:
    - address: 10.0.0.1
      as: 65000
members:
  allow: [10.0.0.0/24]
"""

ERRORS = [
    # (text, its replacement, the message)
    ("port: 443", "port: 70000", "8:11: services[0].port: 70000 is neither in 1-65535 nor 'any'"),
    ("port: 443", "port: https", "8:11: services[0].port: 'https' is neither in 1-65535 nor 'any'"),
    ("port: 443", "prt: 443",
     "5:5: services[0].port: is missing\nlb.yml:8:5: services[0].prt: unknown key; did you mean port?"),
    ("cluster: 7", "cluster: x", "1:10: cluster: 'x' is not a whole number"),
    ("cluster: 7", "cluster: true", "1:10: cluster: True is not a whole number"),
    ("cluster: 7", "cluster: 65535", "1:10: cluster: 65535 is reserved by RFC 8092; choose another"),
    ("cluster: 7\n", "", "1:1: cluster: is missing"),
    ("cluster: 7", "cluster: 7\ncluster: 8", "2:1: cluster: is given twice; see line 1"),
    ("port: 443", "port: 443\n    port: 444", "9:5: services[0].port: is given twice; see line 8"),
    ("port: 443", "port: !any 443", "8:11: could not determine a constructor for the tag '!any'"),
    ("cluster: 7", "cluster: 7\nclutser: 8", "2:1: clutser: unknown key; did you mean cluster?"),
    ("vip: 192.0.2.10", "vip: 192.0.2", "6:10: services[0].vip: '192.0.2' is not an IP address"),
    ("vip: 192.0.2.10", "vip: 224.0.0.1",
     "6:10: services[0].vip: 224.0.0.1 cannot be a virtual IP; give a unicast address"),
    ("vip: 192.0.2.10", "vip: 10.0.0.9", "6:10: services[0].vip: 10.0.0.9 is in members.allow, which is for nodes"),
    ("vip: 192.0.2.10", "vip: 255.255.255.255",
     "6:10: services[0].vip: 255.255.255.255 cannot be a virtual IP; give a unicast address"),
    ("address: 10.0.0.1", "address: 192.0.2.10", "6:10: services[0].vip: 192.0.2.10 is a BGP peer's address"),
    ("address: 10.0.0.1", "address: 10", "14:16: bgp.peers[0].address: '10' is not an IP address"),
    ("allow: [10.0.0.0/24]", "allow: [10.0.0.0/8]",
     "17:11: members.allow[0]: 10.0.0.0/8 is larger than a /16: nodes in it could share their low 16 bits"),
    ("allow: [10.0.0.0/24]", "allow: [10.0.0.0/24, 10.1.0.0/24]",
     "17:24: members.allow[1]: 10.1.0.0/24 and 10.0.0.0/24 hold nodes with the same low 16 bits; see line 17"),
    ("allow: [10.0.0.0/24]", "allow: [10.254.7.0/24]",
     "17:11: members.allow[0]: 10.254.7.0/24 overlaps bgp.identity_prefix, which must not contain nodes"),
    ("vip: 192.0.2.10", "vip: 10.254.0.9",
     "6:10: services[0].vip: 10.254.0.9 is in bgp.identity_prefix, which is for identities"),
    ("vip: 192.0.2.10", "vip: fe80::1",
     "6:10: services[0].vip: fe80::1 cannot be a virtual IP; give a unicast address"),
    ("vip: 192.0.2.10", "vip: '::ffff:1.2.3.4'",
     # Python 3.13 and later write ::ffff:1.2.3.4.
     f"6:10: services[0].vip: {IPv6Address('::ffff:1.2.3.4')} cannot be a virtual IP; give a unicast address"),
    ("vip: 192.0.2.10", "vip: 'x'", "6:10: services[0].vip: 'x' is not an IP address"),
    ("vip: 192.0.2.10", "vip: 3", "6:10: services[0].vip: '3' is not an IP address"),
    ("forward: l2", "affinity: 4-tuple",
     "9:15: services[0].affinity: '4-tuple' is not '5-tuple', '3-tuple' or '2-tuple'"),
    ("forward: l2", "hash: modulo", "9:11: services[0].hash: 'modulo' is not 'rendezvous' or 'maglev'"),
    ("forward: l2", "when_no_member: reject", "9:21: services[0].when_no_member: 'reject' is not 'pass' or 'drop'"),
    ("interface: eth0", "interface: eth0\n  interfaces: [eth1]",
     "4:15: node.interfaces: contradicts interface; give one of them"),
    ("interface: eth0", "interfaces: [eth1, eth2, eth1]", "3:28: node.interfaces[2]: eth1 is listed twice; see line 3"),
    ("interface: eth0", "interfaces: [eth1, averylonginterface]",
     "3:22: node.interfaces[1]: string should have at most 15 characters (is 'averylonginterface')"),
    ("interface: eth0", "interface: eth0\n  vlans: [4094, 4095]", "4:17: node.vlans[1]: 4095 is not in 1-4094"),
    ("interface: eth0", "interface: eth0\n  vlans: [0]", "4:11: node.vlans[0]: 0 is not in 1-4094"),
    ("interface: eth0", "interface: eth0\n  vlans: [7, 5, 7]", "4:17: node.vlans[2]: 7 is listed twice; see line 4"),
    ("interface: eth0", "address: 10.0.0.9", "3:3: node.interface: is missing"),
    ("interface: eth0", "interface: eth0\n  clients: [10.1.0.0/16, 224.0.0.0/4]",
     "4:26: node.clients[1]: 224.0.0.0/4 has no clients that are reached by a route"),
    ("interface: eth0", "interface: eth0\n  clients: [10.1.0.1/16]",
     "4:13: node.clients[0]: '10.1.0.1/16' is not an IP network: it has bits set after its prefix length"),
    ("interface: eth0", "interface: eth0\n  clients: 10.1.0.0/16",
     "4:12: node.clients: is not a list; write ['10.1.0.0/16']"),
    ("interface: eth0", "interface: eth0\n  rp_filter: strict",
     "4:14: node.rp_filter: 'strict' is not 'loose' or 'refuse'"),
    ("interface: eth0", "interface: eth0\n  address6: fe80::1",
     "4:13: node.address6: fe80::1 cannot be the end of a tunnel; give a global or local unicast one"),
    ("interface: eth0", "interface: eth0\n  address6: 2001:db8::1",
     "4:13: node.address6: 2001:db8::1 is in no prefix of members.allow"),
    ("allow: [10.0.0.0/24]", "allow: [10.0.0.1/24]",
     "17:11: members.allow[0]: '10.0.0.1/24' is not an IP network: it has bits set after its prefix length"),
    ("allow: [10.0.0.0/24]", "allow: [10.0.0.0/24]\n  outer: v6", "18:10: members.outer: 'v6' is not 'ipv4' or 'ipv6'"),
    ("members:", "deny: [192.0.2.0/24, 2001:db8::/129]\nmembers:",
     "16:22: deny[1]: '2001:db8::/129' is not an IP network"),
    ("members:", "deny: [10.0.0.0/8, 0.0.0.0/0]\nmembers:",
     "16:20: deny[1]: 0.0.0.0/0 has all IPv4 addresses, so this node would serve none of the clients there; deny "
     "longer prefixes, or run `lbctl deny add 0.0.0.0/0 --force`"),
    ("members:", "deny: ['2000::/4']\nmembers:",
     "16:8: deny[0]: 2000::/4 has 1/16 of all IPv6 addresses, so this node would serve none of the clients there; deny "
     "longer prefixes, or run `lbctl deny add 2000::/4 --force`"),
    ("members:", "other_protocols: reject\nmembers:",
     "16:18: other_protocols: 'reject' is not 'pass' or 'drop'"),
    ("name: web", "name: Wéb", "5:11: services[0].name: 'Wéb' is no name; give up to 63 of a-z, 0-9, - and _, a letter "
     "or a digit first"),
    ("members:", "class_e_clients: maybe\nmembers:",
     "16:18: class_e_clients: 'maybe' is neither true nor false"),
    ("protocol: tcp", "protocol: sctp", "7:15: services[0].protocol: 'sctp' is not 'tcp' or 'udp'"),
    ("forward: l2", "forward: l3", "9:14: services[0].forward: 'l3' is not 'l2', 'ipip' or 'gue'"),
    ("as: 65000", "as: 0", "15:11: bgp.peers[0].as: 0 is not in 1-4294967294"),
    ("as: 65000", "as: 65000\n      hold_time_s: 2", "16:20: bgp.peers[0].hold_time_s: 2 is not in 3-65535"),
    ("as: 65000", "as: 65000\n      bfd: {interval_ms: 49}",
     "16:26: bgp.peers[0].bfd.interval_ms: 49 is not in 50-10000"),
    ("as: 65000", "as: 65000\n      bfd: {multiplier: 1}", "16:25: bgp.peers[0].bfd.multiplier: 1 is not in 2-255"),
    ("as: 65000", "as: 65000\n      bfd: {multiplier: 2.5}",
     "16:25: bgp.peers[0].bfd.multiplier: 2.5 is not a whole number"),
    ("10.254.0.0/16", "10.254.0.0/24",
     "12:20: bgp.identity_prefix: 10.254.0.0/24 is not a /16; a node's tag has 16 bits"),
    ("10.254.0.0/16", "10.254.0.1/16", "12:20: bgp.identity_prefix: '10.254.0.1/16' is not an IPv4 network"),
    ("allow: [10.0.0.0/24]", "allow: []", "17:10: members.allow: is empty; list at least one"),
    ("forward: l2", "forward: l2\n    health: {type: http, path: x}",
     "10:32: services[0].health.path: 'x' does not start with /"),
    ("forward: l2", "forward: l2\n    health: {rise: 0}", "10:20: services[0].health.rise: 0 is not in 1-100"),
    ("forward: l2", "forward: l2\n    health: {fast_interval_s: 2}",
     "10:31: services[0].health.fast_interval_s: 2 is longer than interval_s, 1"),
    ("forward: l2", "forward: l2\n    health: {disable_file: gone}",
     "10:28: services[0].health.disable_file: 'gone' does not start with /"),
    ("forward: l2", "forward: l2\n    health: {interval_s: 0}",
     "10:26: services[0].health.interval_s: 0 is not more than 0"),
    ("port: 443", "port: any", "5:5: services[0].health: needs a port of its own: set health.port to a TCP port"),
    ("name: web", "name: [web", "6:8: expected ',' or ']', but got ':'"),
    ("name: web", "name: 3", "5:11: services[0].name: 3 is not a string; put it in quotes"),
    ("members:", "table: {rows: 5000}\nmembers:", "16:15: table.rows: 5000 is not a power of two"),
    ("members:", "table: {version: 9}\nmembers:",
     "16:18: table.version: 9 is unknown to this release, which supports 1, 2"),
    ("members:", "table: {claims: 1}\nmembers:", "16:17: table.claims: '1' is neither true nor false"),
    ("members:", "table: {previous: {rows: 5000}}\nmembers:", "16:26: table.previous.rows: 5000 is not a power of two"),
    ("members:", "table: {previous: {key: 1}}\nmembers:", "16:20: table.previous.key: unknown key"),
    # The speaker's sections
    ("address: 10.0.0.1", "address: fe80::1",
     "14:16: bgp.peers[0].address: fe80::1 is link-local; add its interface, as 'fe80::1%eth1'"),
    ("address: 10.0.0.1", "address: 'fe80::1%e th'",
     "14:16: bgp.peers[0].address: 'fe80::1%e th' has no valid interface after its %"),
    ("address: 10.0.0.1", "address: 2001:db8::1%eth1",
     "14:16: bgp.peers[0].address: '2001:db8::1%eth1' names an interface, but is not link-local"),
    ("address: 10.0.0.1", "address: 'ff02::1'", "14:16: bgp.peers[0].address: ff02::1 cannot be a router's address"),
    ("address: 10.0.0.1", "address: '2001:db8::1'",
     "14:5: bgp.peers: no peer carries ipv4, which the nodes' identities need; add it to a peer's families"),
    ("as: 65000", "as: 65000\n    - {address: 10.0.0.1, as: 65000}",
     "16:17: bgp.peers[1].address: 10.0.0.1 is listed twice; see line 14"),
    ("as: 65000", "as: 65000\n    - {address: fe80::1%a, as: 1}\n    - {address: fe80::1%b, as: 1}",
     "17:17: bgp.peers[2].address: fe80::1 is listed twice; ExaBGP distinguishes neighbors by address only; "
     "see line 16"),
    ("as: 65000", "as: 65000\n      multihop: 1", "16:17: bgp.peers[0].multihop: 1 is not in 2-255"),
    ("as: 65000", "as: 65000\n      ttl_security: true\n      multihop: 2",
     "17:17: bgp.peers[0].multihop: contradicts ttl_security (a directly connected router); give one of them"),
    ("as: 65000", "as: 65000\n    - {address: fe80::1%a, as: 1, multihop: 2}",
     "16:45: bgp.peers[1].multihop: fe80::1%a is link-local, so directly connected"),
    ("as: 65000", "as: 65000\n    - {address: fe80::1%a, as: 1, passive: true}",
     "16:44: bgp.peers[1].passive: ExaBGP cannot listen on a link-local address; let it connect"),
    ("as: 65000", "as: 65000\n    - {address: fe80::1%a, as: 1, source: 2001:db8::1}",
     "16:43: bgp.peers[1].source: 2001:db8::1 is not link-local as fe80::1%a is"),
    ("as: 65000", "as: 65000\n      source: 2001:db8::1",
     "16:15: bgp.peers[0].source: 2001:db8::1 is of a different family than 10.0.0.1"),
    ("as: 65000", "as: 65000\n      passive: 1",
     "16:16: bgp.peers[0].passive: '1' is neither true nor false"),
    ("as: 65000", "as: 65000\n      families: [ipv4, ipv4]",
     "16:24: bgp.peers[0].families[1]: ipv4 is listed twice; see line 16"),
    ("as: 65000", "as: 65000\n      families: [ipv5]",
     "16:18: bgp.peers[0].families[0]: 'ipv5' is not 'ipv4' or 'ipv6'"),
    ("as: 65000", "as: 65000\n      families: []", "16:17: bgp.peers[0].families: is empty; list at least one"),
    ("as: 65000", "as: 65000\n      graceful_restart_s: 5000",
     "16:27: bgp.peers[0].graceful_restart_s: 5000 is not in 0-4095"),
    ("as: 65000", "as: 65000\n      passive: true\n    - {address: 10.0.0.2, as: 1, passive: true, ttl_security: true}",
     "17:63: bgp.peers[1].ttl_security: must be the same for all passive peers of one source address"),
    ("members:", "  allow: [192.0.2.0/29, 10.99.0.0/24]\nmembers:",
     "6:10: services[0].vip: 192.0.2.10 is in no prefix of bgp.allow"),
    ("members:", "  allow: [192.0.2.0/24, 10.0.0.0/8]\nmembers:",
     "16:25: bgp.allow[1]: 10.0.0.0/8 overlaps identity_prefix, which needs no entry here"),
    ("forward: l2", "announce: {communities: [65000:10]}",
     "9:30: services[0].announce.communities[0]: 65000:10 is a number in base 60 (YAML 1.1); put a text in quotes, as "
     "'65000:10'"),
    ("forward: l2", "announce: {communities: ['65000:65536']}",
     "9:30: services[0].announce.communities[0]: '65000:65536' is not 2 numbers of 16 bits, as '65000:100'"),
    ("forward: l2", "announce: {large_communities: ['1:2']}",
     "9:36: services[0].announce.large_communities[0]: '1:2' is not 3 numbers of 32 bits, as '65000:1:2'"),
    ("forward: l2", "announce: {large_communities: ['7:2:3']}",
     "9:36: services[0].announce.large_communities[0]: starts with the cluster's number, reserved for identities"),
    ("forward: l2", "announce: {prepend: 17}", "9:25: services[0].announce.prepend: 17 is not in 0-16"),
    ("forward: l2", "announce: {next_hop: '2001:db8::1'}",
     "9:26: services[0].announce.next_hop: 2001:db8::1 cannot be the next hop of 192.0.2.10"),
    ("forward: l2",
     "announce: {med: 1}\n"
     "  - {name: b, vip: 192.0.2.10, protocol: udp, port: 53, health: {port: 53}, announce: {med: 2}}",
     "10:87: services[1].announce: differs from that of services[0] for the same VIP; see line 9"),
]  # fmt: skip


def test_valid_file() -> None:
    config = parse(GOOD, "lb.yml")
    assert config.vips == (IPv4Address("192.0.2.10"),)
    assert config.services[0].health_target == (IPv4Address("192.0.2.10"), 443)
    assert config.bgp.peers[0].asn == 65000


def test_defaults() -> None:
    service = parse(GOOD.replace("    forward: l2\n", ""), "lb.yml").services[0]
    assert (service.forward, service.affinity, service.hash, service.when_no_member) == (
        "gue", "5-tuple", "rendezvous", "pass",
    )  # fmt: skip


def test_both_families() -> None:
    text = GOOD.replace("vip: 192.0.2.10", "vip: 2001:db8:99::1").replace("interface: eth0", "interfaces: [a, b]")
    text = (
        text.replace("[10.0.0.0/24]", "[10.0.0.0/24, '2001:db8::/64']")
        + "deny: [198.51.100.0/24, 2001:db8:bad::/48, 240.0.0.0/4]\n"
    )
    config = parse(text, "lb.yml")
    assert config.vips == (IPv6Address("2001:db8:99::1"),)
    assert config.node.names == ("a", "b")
    assert list(map(str, config.members.allow)) == ["10.0.0.0/24", "2001:db8::/64"]
    assert list(map(str, config.deny)) == ["198.51.100.0/24", "2001:db8:bad::/48", "240.0.0.0/4"]
    with pytest.raises(ConfigError, match=r"is in members\.allow"):
        parse(text.replace("vip: 2001:db8:99::1", "vip: 2001:db8::1"), "lb.yml")


def test_lab_configuration_is_valid() -> None:
    assert load(Path(__file__).parents[3] / "topology/lb.yml").services[0].name == "echo"


def test_readme_example_is_valid() -> None:
    text = (Path(__file__).parents[3] / "README.md").read_text()
    example = text.split("```yaml\n", 1)[1].split("```", 1)[0]
    assert parse(example, "README.md").services[0].health.type == "http"


@pytest.mark.parametrize(("old", "new", "message"), ERRORS, ids=[message for *_, message in ERRORS])
def test_errors(old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError) as caught:
        parse(GOOD.replace(old, new), "lb.yml")
    assert str(caught.value) == f"lb.yml:{message}"


def test_services_must_differ() -> None:
    second = "  - {name: web, vip: 192.0.2.10, protocol: tcp, port: 443, forward: l2}\n"
    with pytest.raises(
        ConfigError, match=r"^lb.yml:10:12: services.1..name: is the same as that of services.0.; see line 5$"
    ):
        parse(GOOD.replace("    forward: l2\n", "    forward: l2\n" + second), "lb.yml")
    with pytest.raises(
        ConfigError, match=r"^lb.yml:10:.*services.1..port: is the same as that of services.0.; see line 8$"
    ):
        parse(GOOD.replace("    forward: l2\n", "    forward: l2\n" + second.replace("web", "www")), "lb.yml")


def with_services(count: int) -> str:
    more = (f"  - {{name: s{n}, vip: 192.0.2.10, protocol: tcp, port: {1000 + n}}}\n" for n in range(1, count))
    return GOOD.replace("    forward: l2\n", "    forward: l2\n" + "".join(more))


def test_at_most_250_services() -> None:
    services = parse(with_services(250), "lb.yml").services
    assert len({service.key for service in services}) == 250
    with pytest.raises(ConfigError) as caught:
        parse(with_services(251), "lb.yml")
    assert str(caught.value) == "lb.yml:5:3: services: has more than 250 entries"


@pytest.mark.parametrize(
    ("vip", "protocol", "port", "key"),
    [
        ("192.0.2.10", "tcp", "443", "192.0.2.10:443/tcp"),
        ("192.0.2.10", "udp", "any", "192.0.2.10:any/udp"),
        ("'2001:DB8:0::99'", "tcp", "80", "[2001:db8::99]:80/tcp"),
    ],
)
def test_key_of_a_service_is_the_same_however_it_is_written(vip: str, protocol: str, port: str, key: str) -> None:
    """Nodes name services by it to each other, so it is frozen."""
    text = GOOD.replace("    forward: l2\n", "    health: {port: 8080}\n")
    for old, new in (("vip: 192.0.2.10", vip), ("protocol: tcp", protocol), ("port: 443", port)):
        text = text.replace(old, f"{old.split(':')[0]}: {new}")
    (service,) = parse(text, "lb.yml").services
    assert service.key == key


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lb.yml:1:1: is empty; write it as README.md shows"),
        ("word", "lb.yml:1:1: is one value, not a mapping of settings; write it as README.md shows"),
        ("- a", "lb.yml:1:1: is a list, not a mapping of settings; write it as README.md shows"),
        ("---\n~", "lb.yml:1:1: is empty; write it as README.md shows"),
        ("\t", "lb.yml:1:1: a tab cannot be here; use spaces"),
        ("a: 1\n---\nb: 1", "lb.yml:2:1: another document begins here; a file has one"),
        ("a: 1\r\nb: \x1b[31m", "lb.yml:2:4: the character '\\x1b' cannot be in a text; remove it"),
        ("a: 1\nb: {on: 1}", "lb.yml:2:5: b.on: is read as true or false (YAML 1.1), not as a key; remove it"),
        ("~: 1", "lb.yml:1:1: ~: is read as no value (YAML 1.1), not as a key; remove it"),
        ("a: b: c", "lb.yml:1:5: mapping values are not allowed here"),
        ("x: 2024-13-45", "lb.yml:1:4: '2024-13-45' is not a valid timestamp; put a text in quotes"),
        ("x: &a [*a]", "lb.yml:1:1: is nested too deeply"),
        ("x: " + "[" * 600, "lb.yml:1:1: is nested too deeply"),
        ("? [a]\n: 1", "lb.yml:1:3: a sequence cannot be a key; write a name"),
    ],
)
def test_documents_that_are_not_a_mapping(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, "lb.yml")
    assert str(caught.value) == message


def test_unpaired_surrogate() -> None:
    with pytest.raises(ConfigError, match=r"lb\.yml:1:1: contains half a character"):
        parse(f'{GOOD}deny: ["\\ud83d"]\n', "lb.yml")


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file or directory"):
        load(tmp_path / "absent.yml")
    (tmp_path / "lb.yml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"lb\.yml:1: byte 0xff is not UTF-8; save the file as UTF-8"):
        load(tmp_path / "lb.yml")
    (tmp_path / "lb.yml").write_bytes(GOOD.encode() + b"# \xe9\n")
    with pytest.raises(ConfigError, match=rf"lb\.yml:{GOOD.count(chr(10)) + 1}: byte 0xe9 is not UTF-8"):
        load(tmp_path / "lb.yml")
    (tmp_path / "lb.yml").write_text(f'{GOOD}table: {{key_file: "a\\0b"}}\n')
    with pytest.raises(ConfigError, match="cannot be a file name"):
        load(tmp_path / "lb.yml")
