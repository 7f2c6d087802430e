# SPDX-License-Identifier: Apache-2.0
"""Every error in `services[].instances` is reported with its place."""

from pathlib import Path

import pytest

from agent.config.file import parse
from agent.errors import ConfigError

FILE = """\
cluster: 7
node: {interface: eth0}
services:
  - name: web
    vip: 192.0.2.10
    protocol: tcp
    port: 443
    instances: {match: {unit: web.service}}
  - {name: web6, vip: "2001:db8::1", protocol: tcp, port: 443}
bgp: {local_as: 65001, identity_prefix: 10.254.0.0/16, peers: [{address: 10.0.0.1, as: 65000}]}
members: {allow: [10.0.0.0/24], key: none}
"""
OLD = "{match: {unit: web.service}}"


def read(instances: str, *more: tuple[str, str]) -> str:
    text = FILE.replace(OLD, instances)
    for old, new in more:
        assert old in text
        text = text.replace(old, new)
    return text


@pytest.mark.parametrize(
    ("instances", "message"),
    [
        ("{policy: first}", "services[0].instances.policy: 'first' is not 'standby', 'weighted' or 'spread'"),
        ("{polcy: standby}", "services[0].instances.polcy: unknown key; did you mean policy?"),
        ("{failback: 1}", "services[0].instances.failback: '1' is neither true nor false"),
        (
            "{policy: spread, failback: true}",
            "services[0].instances.failback: is for policy standby, not spread",
        ),
        ("{match: {}}", "services[0].instances.match.unit: is missing; give one of unit, cgroup, pidfile, executable"),
        (
            "{match: {unit: a.service, pidfile: /run/a.pid}}",
            "services[0].instances.match.pidfile: contradicts unit; give one of them",
        ),
        (
            "{match: {unit: web}}",
            "services[0].instances.match.unit: 'web' is not a unit with its type, as web.service or web@*.service",
        ),
        (
            "{match: {cgroup: web.slice}}",
            "services[0].instances.match.cgroup: 'web.slice' is not a control group below the root, "
            "as /system.slice/web.service",
        ),
        ("{match: {pidfile: a.pid}}", "services[0].instances.match.pidfile: 'a.pid' does not start with /"),
        ("{match: {executable: nginx}}", "services[0].instances.match.executable: 'nginx' does not start with /"),
        (
            "{match: {unit: a.service, weight: 5}}",
            "services[0].instances.match.weight: is for policy weighted, not standby",
        ),
        (
            "{policy: weighted, match: {unit: a.service, weight: -1}}",
            "services[0].instances.match.weight: -1 is not in 0-10000",
        ),
        (
            "{match: [{unit: a.service}, {unit: a.service}]}",
            "services[0].instances.match[1]: is listed twice; see line 8",
        ),
        (
            "{match: [{pidfile: /run/a.pid}, {pidfile: /run/b/a.pid}]}",
            "services[0].instances.match[1].pidfile: /run/b/a.pid names its instance as /run/a.pid does: a; see line 8",
        ),
        (
            "{steer: 127.0.0.1}",
            "services[0].instances.steer: '127.0.0.1' is neither auto nor an address and port, "
            "as '127.0.0.1:8080' or '[::1]:8080'",
        ),
        ("{steer: '127.0.0.1:70000'}", "services[0].instances.steer: '127.0.0.1:70000' is neither auto nor"),
        ("{steer: '127.0.0.999:80'}", "services[0].instances.steer: '127.0.0.999:80' is neither auto nor"),
        ("{steer: [127.0.0.1, 80]}", "services[0].instances.steer: is a list; give one value"),
        ("{steer: }", "services[0].instances.steer: is empty; give a value"),
        ("{steer: '224.0.0.1:80'}", "services[0].instances.steer: 224.0.0.1 is multicast; give the address"),
        (
            "{steer: '[::1]:80'}",
            "services[0].instances.steer: [::1]:80 gets no connections to 192.0.2.10; give the IPv4 address and port "
            "of the servers",
        ),
        ("{steer: '192.0.2.10:443'}", "services[0].instances.steer: 192.0.2.10:443 is the service itself; remove it"),
        ("{steer: auto}", "services[0].instances.steer: is auto, which finds where the servers of match listen; list"),
    ],
)
def test_errors(instances: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(read(instances), Path("lb.yml"))
    assert message in str(error.value)


ANY = [("port: 443\n", "port: any\n"), ("    instances", "    health: {type: tcp, port: 80}\n    instances")]


def test_any_port_only_with_steer() -> None:
    with pytest.raises(ConfigError, match=r"instances: is for services with one port; for any, set instances\.steer"):
        parse(read(OLD, *ANY), Path("lb.yml"))
    config = parse(read("{match: {unit: web.service}, steer: '127.0.0.1:8080'}", *ANY), Path("lb.yml"))
    assert str(config.services[0].steer) == "127.0.0.1:8080"


def test_steer_is_not_for_udp() -> None:
    udp = ("protocol: tcp\n    port: 443", "protocol: udp\n    port: 443\n    health: {type: tcp, port: 1}")
    with pytest.raises(ConfigError, match=r"steer: is for protocol tcp: a UDP server would answer .* remove steer"):
        parse(read("{steer: '127.0.0.1:8080'}", udp), Path("lb.yml"))


def test_services_with_the_same_servers_have_one_setting_but_for_the_address() -> None:
    def second(instances: str) -> tuple[str, str]:
        return "port: 443}", f"port: 80, instances: {instances}}}"

    first = "{match: {unit: web.service}, steer: '127.0.0.1:8080'}"
    other = "{match: {unit: b.service}, steer: '[::1]:8080'}"
    with pytest.raises(ConfigError, match=r"services\[1\]\.instances: differs from that of services\[0\], whose serv"):
        parse(read(first, second(other)), Path("lb.yml"))
    parse(read(first, second(other.replace("b.service", "web.service"))), Path("lb.yml"))
    parse(read(first, second(other.replace("8080", "8081"))), Path("lb.yml"))
    auto = "{match: {unit: web.service}, steer: auto}"
    with pytest.raises(
        ConfigError, match=r"services\[1\]\.instances: has servers of services\[0\] too, so auto is not"
    ):
        parse(read(first, second(auto)), Path("lb.yml"))
    parse(read(auto, ("port: 443}", f"port: 443, instances: {auto}}}")), Path("lb.yml"))


def test_services_of_one_port_have_one_setting() -> None:
    another = ("port: 443}", "port: 443, instances: {policy: spread}}")
    with pytest.raises(ConfigError, match=r"9:\d+: services\[1\]\.instances: differs from that of services\[0\]"):
        parse(read(OLD, another), Path("lb.yml"))
    udp = (another[0], another[1].replace("}}", "}, health: {type: tcp, port: 1}}"))
    parse(read(OLD, udp, ("protocol: tcp, port", "protocol: udp, port")), Path("lb.yml"))
    same = ("port: 443}", f"port: 443, instances: {OLD}}}")
    config = parse(read(OLD, same), Path("lb.yml"))
    assert config.services[0].instances == config.services[1].instances


def test_a_list_and_a_single_match() -> None:
    config = parse(read("{policy: weighted, match: [{unit: a.service, weight: 5}, {unit: 'b@*.service'}]}"), Path("f"))
    assert config.services[0].instances is not None
    assert [(one.unit, one.weight) for one in config.services[0].instances.match] == [
        ("a.service", 5),
        ("b@*.service", None),
    ]
    assert parse(FILE, Path("f")).services[1].instances is None
