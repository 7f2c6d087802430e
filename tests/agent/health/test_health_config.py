# SPDX-License-Identifier: Apache-2.0
"""lb.yml's health checks: what each type accepts, and each error with line, column and field."""

from pathlib import Path

import pytest

from agent.config.file import parse
from agent.config.health import ExecCheckConfig, HttpCheckConfig, HttpsCheckConfig, TcpCheckConfig, UdpCheckConfig
from agent.config.service import ServiceConfig
from agent.errors import ConfigError

FILE = """\
cluster: 7
node: {interface: eth0}
services:
  - name: web
    vip: 192.0.2.10
    protocol: PROTOCOL
    port: 443
    health: HEALTH
bgp: {local_as: 65001, identity_prefix: 10.254.0.0/16, peers: [{address: 10.0.0.1, as: 65000}]}
members: {allow: [10.0.0.0/24]}
"""


def service(health: str, protocol: str = "tcp") -> ServiceConfig:
    return parse(FILE.replace("PROTOCOL", protocol).replace("HEALTH", health), "lb.yml").services[0]


def test_types() -> None:
    for text, protocol, kind in (
        ("{}", "tcp", TcpCheckConfig),
        ("{send: PING, expect: PONG}", "tcp", TcpCheckConfig),
        ("{type: udp, send: x}", "udp", UdpCheckConfig),
        ("{type: http, host: www.example.org}", "tcp", HttpCheckConfig),
        ("{type: https, server_name: www.example.org, ca_file: /etc/ca.pem}", "tcp", HttpsCheckConfig),
        ("{type: exec, command: [/bin/true], user: nobody}", "udp", ExecCheckConfig),
    ):
        assert type(service(text, protocol).health) is kind


def test_examples_of_the_documentation() -> None:
    text = (Path(__file__).parents[3] / "docs/health.md").read_text()
    one_each, shared = (part.split("```", 1)[0] for part in text.split("```yaml\n")[1:])
    checks = [service(line.removeprefix("health: ")).health for line in one_each.splitlines() if "udp" not in line]
    checks += [service(line.removeprefix("health: "), "udp").health for line in one_each.splitlines() if "udp" in line]
    assert {check.type for check in checks} == {"tcp", "udp", "http", "https", "exec"}
    services = parse(FILE[: FILE.index("services:")] + shared + FILE[FILE.index("bgp:") :], "lb.yml").services
    assert {(one.health_target, one.health) for one in services} == {(services[0].health_target, services[0].health)}
    assert len(services) == 3


def test_targets() -> None:
    for text, protocol, target in (
        ("{}", "tcp", "192.0.2.10 443"),
        ("{port: 80}", "udp", "192.0.2.10 80"),
        ("{type: udp, send: x}", "udp", "192.0.2.10 443"),
        ("{type: http, address: 127.0.0.1, port: 8080}", "tcp", "127.0.0.1 8080"),
    ):
        address, port = service(text, protocol).health_target or (None, None)
        assert f"{address} {port}" == target
    assert service("{type: exec, command: [/bin/true], user: nobody}").health_target is None


def test_payloads_are_text_or_hex() -> None:
    check = service(r'{send: "é\r\n", expect: {hex: "00 ff"}}').health
    assert isinstance(check, TcpCheckConfig)
    assert (check.send, check.expect) == ("é\r\n".encode(), b"\0\xff")


@pytest.mark.parametrize(
    ("text", "ranges"),
    [
        ("200", ((200, 200),)),
        ("200-299", ((200, 299),)),
        ("[200, 301-302, '404']", ((200, 200), (301, 302), (404, 404))),
    ],
)
def test_statuses(text: str, ranges: object) -> None:
    check = service(f"{{type: http, expect: {{status: {text}}}}}").health
    assert isinstance(check, HttpCheckConfig)
    assert check.expect.status == ranges


def test_timeout_defaults_to_the_interval_up_to_a_second() -> None:
    assert [service(text).health.timeout_s for text in ("{}", "{interval_s: 0.5}", "{interval_s: 5}")] == [1, 0.5, 1]


def test_name_of_a_certificate() -> None:
    for text, name in (
        ("host: 'a.example:8443'", "a.example"),
        ("host: '[2001:db8::1]:8443'", "2001:db8::1"),
        ("host: a.example, server_name: b.example", "b.example"),
        ("verify: false", None),
    ):
        check = service(f"{{type: https, {text}}}").health
        assert isinstance(check, HttpsCheckConfig)
        assert check.name == name


def test_an_anchor_makes_checks_equal() -> None:
    second = "  - {name: b, vip: 192.0.2.10, protocol: tcp, port: 80, health: *web}\nbgp:"
    text = FILE.replace("PROTOCOL", "tcp").replace("HEALTH", "&web {type: http, port: 80}").replace("bgp:", second)
    one, other = parse(text, "lb.yml").services
    assert (one.health_target, one.health) == (other.health_target, other.health)
    assert hash(one.health) == hash(other.health)


ERRORS = [
    # (the health section, the message without "lb.yml:8:")
    ("{type: icmp}", "20: services[0].health.type: 'icmp' is not tcp, udp, http, https, exec"),
    ("{type: [tcp]}", "20: services[0].health.type: '['tcp']' is not tcp, udp, http, https, exec"),
    ("{path: /up}", "20: services[0].health.path: is for type http or https, not tcp"),
    ("{type: http, verify: false}", "34: services[0].health.verify: is for type https, not http"),
    ("{type: http, send: x}", "32: services[0].health.send: is for type tcp or udp, not http"),
    ("{type: exec, port: 80}", "32: services[0].health.port: is for type tcp or udp or http or https, not exec"),
    ("{tpye: http}", "14: services[0].health.tpye: unknown key; did you mean type?"),
    ("{interval_s: 1, timeout_s: 2}",
     "40: services[0].health.timeout_s: 2 is longer than interval_s, 1; raise interval_s or lower it"),
    ("{timeout_s: 1.5}",
     "25: services[0].health.timeout_s: 1.5 is longer than interval_s, 1; raise interval_s or lower it"),
    ("{address: 192.0.2.1}",
     "23: services[0].health.address: 192.0.2.1 is not a loopback address; the file is the same on every node, "
     "and each checks its own service"),
    # Payloads
    ("{send: x}", "20: services[0].health.send: needs expect: without it the answer is not read"),
    ("{expect: 5}", "22: services[0].health.expect: is neither a text in quotes nor {hex: '00 1f'}"),
    ("{expect: ''}", "22: services[0].health.expect: has 0 bytes, not 1-1024"),
    ("{expect: {hex: 00ZZ}}", "28: services[0].health.expect.hex: '00ZZ' is not bytes in hex, as '00 1f'"),
    ("{expect: {hex: 10}}", "22: services[0].health.expect: is neither a text in quotes nor {hex: '00 1f'}"),
    ("{type: udp, port: 53}", "13: services[0].health.send: is missing"),
    ("{type: udp, send: x}", "13: services[0].health: needs a port of its own: set health.port to a UDP port"),
    ("", "12: services[0].health: is not a mapping; write its keys and values"),
    # HTTP
    ("{type: http, path: x}", "32: services[0].health.path: 'x' does not start with /"),
    ("{type: http, host: 'a b'}", "32: services[0].health.host: 'a b' is not a host name, which has ASCII letters, "
     "digits, dots and hyphens"),
    (r'{type: http, host: "a\r\nX: y"}', r"32: services[0].health.host: 'a\r\nX: y' is not a host name, which has "
     "ASCII letters, digits, dots and hyphens"),
    ("{type: http, expect: 200}",
     "34: services[0].health.expect: is not a mapping; write its keys and values"),
    *(
        (f"{{type: http, expect: {{status: {text}}}}}",
         f"43: services[0].health.expect.status: '{value}' is neither a status in 200-599 nor a range, as 200-299")
        for text, value in (("99", "99"), ("100-299", "100-299"), ("299-200", "299-200"), ("2xx", "2xx"),
                            ("200-600", "200-600"), ("yes", "True"), ("20.5", "20.5"))
    ),
    ("{type: http, expect: {status: [200, x]}}",
     "49: services[0].health.expect.status[1]: 'x' is neither a status in 200-599 nor a range, as 200-299"),
    ("{type: http, expect: {status: []}}", "43: services[0].health.expect.status: is empty; list at least one"),
    ("{type: http, expect: {header: x}}", "35: services[0].health.expect.header: unknown key"),
    # HTTPS
    ("{type: https}",
     "13: services[0].health.server_name: is missing; give the name in the certificate, or set verify: false"),
    ("{type: https, server_name: .a}",
     "40: services[0].health.server_name: '.a' is not a host name: each part between dots has 1-63 characters"),
    ("{type: https, verify: false, ca_file: /x}",
     "51: services[0].health.ca_file: is not used with verify: false; remove one of them"),
    ("{type: https, server_name: a, ca_file: x}", "52: services[0].health.ca_file: 'x' does not start with /"),
    # Programs
    ("{type: exec, user: a}", "13: services[0].health.command: is missing"),
    ("{type: exec, command: [/x]}", "13: services[0].health.user: is missing"),
    ("{type: exec, command: /x -y, user: a}",
     "35: services[0].health.command: is not a list; write [/usr/bin/program, argument], or for a shell "
     "[/bin/sh, -c, '...']"),
    ("{type: exec, command: [/x, 5], user: a}",
     "40: services[0].health.command[1]: 5 is not a string; put it in quotes"),
    ("{type: exec, command: [x], user: a}",
     "36: services[0].health.command[0]: 'x' does not start with /; give the whole path of the program"),
    (r'{type: exec, command: [/x, "\0"], user: a}', r"40: services[0].health.command[1]: '\x00' contains a NUL"),
    ("{type: exec, command: [/x], user: -a}",
     "47: services[0].health.user: '-a' is no user; give up to 32 of A-Z, a-z, 0-9, - . and _, a letter, a digit or _ "
     "first"),
]  # fmt: skip


@pytest.mark.parametrize(("health", "message"), ERRORS, ids=[health for health, _ in ERRORS])
def test_errors(health: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        service(health)
    assert str(caught.value) == f"lb.yml:8:{message}"
