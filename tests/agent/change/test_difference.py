# SPDX-License-Identifier: Apache-2.0
"""What differs between two texts of lb.yml, in the terms of the schema; and the steps of the change."""

import functools
import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from support.nat_config import TEXT as NAT
from support.nat_config import nat_config

from agent.change.difference import Change, _values, differences
from agent.change.effective import defaults, effective
from agent.change.step import steps
from agent.config.file import parse
from agent.config.schema import Config

TOPOLOGY = Path(__file__).parents[3] / "topology"
TEXT = """\
cluster: 7
node: {interface: eth0}
services:
  - {name: web, vip: 192.0.2.10, protocol: tcp, port: 443}
  - {name: old, vip: 192.0.2.11, protocol: tcp, port: 80}
bgp:
  local_as: 65001
  identity_prefix: 10.254.0.0/16
  peers:
    - {address: 10.0.0.1, as: 65000}
members: {allow: [10.0.0.0/24], key: none}
"""
SECOND = "    - {address: 10.0.1.1, as: 65000}\n"
OLD = "  - {name: old, vip: 192.0.2.11, protocol: tcp, port: 80}\n"


def config(*replacements: tuple[str, str], text: str = TEXT) -> Config:
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    return parse(text, "lb.yml")


@functools.cache
def schema() -> jsonschema.protocols.Validator:
    """The schema itself is checked once: that takes longer than a file does."""
    found = Config.model_json_schema()
    validator = jsonschema.validators.validator_for(found)
    validator.check_schema(found)
    return validator(found)


def texts(*replacements: tuple[str, str]) -> list[str]:
    return [change.text for change in differences(config(), config(*replacements))]


@pytest.mark.parametrize(
    ("replacement", "expected"),
    [
        (("port: 443}", "port: 443, weight: 50}"), ["~ services[web].weight: 100 → 50"]),
        ((OLD, ""), ["- services[old]: {name: old, vip: 192.0.2.11, "]),
        (("members:", "# a comment\nmembers:"), []),
        (("port: 443}", "port: 443, weight: 100}"), []),
        (("as: 65000}", "as: 65000, hold_time_s: 3}"), ["~ bgp.peers[10.0.0.1].hold_time_s: 9 → 3"]),
        (("as: 65000}\n", "as: 65000}\n" + SECOND), ["+ bgp.peers[10.0.1.1]: {address: 10.0.1.1, as: 65000, "]),
        (("[10.0.0.0/24]", "[10.0.0.0/24, 10.0.1.0/24]"), ["+ members.allow: 10.0.1.0/24"]),
        (("[10.0.0.0/24]", "[10.0.1.0/24]"), ["- members.allow: 10.0.0.0/24", "+ members.allow: 10.0.1.0/24"]),
        (("cluster: 7", "cluster: 8"), ["~ cluster: 7 → 8"]),
        (
            ("port: 443}", "port: 443, announce: {communities: ['65000:1'], med: 5}}"),
            ["+ services[web].announce: {communities: [65000:1], med: 5, prepend: 0}"],
        ),
        (
            ("port: 443}", "port: 443, health: {type: http, expect: {status: [200, 300-310]}}}"),
            [
                "~ services[web].health.type: tcp → http",
                "+ services[web].health.path: /",
                "+ services[web].health.expect",
            ],
        ),
        (
            ("interface: eth0", "interfaces: [eth0, eth1]"),
            ["+ node.interfaces: [eth0, eth1]", "- node.interface: eth0"],
        ),
    ],
)
def test_changes_in_the_terms_of_the_schema(replacement: tuple[str, str], expected: list[str]) -> None:
    found = texts(replacement)
    assert len(found) == len(expected), found
    assert all(text.startswith(start) for text, start in zip(found, expected, strict=True)), found


def test_the_order_of_services_and_peers_is_no_change() -> None:
    services = [line for line in TEXT.splitlines(keepends=True) if "name:" in line]
    assert not texts(("".join(services), "".join(reversed(services))))


def test_order_of_interfaces_is_a_change() -> None:
    one, other = (config(("interface: eth0", f"interfaces: [{names}]")) for names in ("eth0, eth1", "eth1, eth0"))
    assert [change.kind for change in differences(one, other)] == ["changed"]


def test_of_a_key_only_that_it_differs() -> None:
    with_file = config(("key: none", "key_file: cluster.key"))
    old, new = (with_file.with_secrets(None, None, (key * 16,)) for key in (b"a", b"b"))
    assert differences(old, new) == (Change("changed", "members.key_file", "its content", "another content"),)
    assert differences(old, old) == ()
    assert "6161" not in json.dumps(effective(old))


def test_of_a_password_only_that_it_differs() -> None:
    found = differences(config(), config(), {"10.0.0.1": "aa"}, {"10.0.0.1": "bb"})
    assert [change.path for change in found] == ["bgp.peers[10.0.0.1].password_file"]


def test_defaults_are_marked() -> None:
    found = defaults(config(("port: 443}", "port: 443, weight: 50}")))
    assert "services[old].weight" in found
    assert "services[web].weight" not in found
    assert {"table", "table.rows", "bgp.peers[10.0.0.1].hold_time_s"} <= found
    assert "cluster" not in found


@pytest.mark.parametrize("file", sorted(TOPOLOGY.glob("lb*.yml")), ids=lambda file: file.name)
def test_schema_takes_the_labs_files_and_what_is_shown_of_them(file: Path) -> None:
    text = file.read_text()
    schema().validate(yaml.safe_load(text))
    before = parse(text, file.name)
    shown = effective(before)
    schema().validate(shown)
    assert not differences(before, parse(json.dumps(shown), file.name)), "it means the same"


@pytest.mark.parametrize(
    ("old", "new"),
    [("cluster: 7", "cluster: 0"), ("port: 443", "port: none"), ("as: 65000", "asn: '1'"), (TEXT, "a: 1")],
)
def test_schema_refuses(old: str, new: str) -> None:
    with pytest.raises(jsonschema.ValidationError):
        schema().validate(yaml.safe_load(TEXT.replace(old, new)))


def planned(new: Config, before: Config | None = None, ending: str | None = None, **held: int) -> list[str]:
    old = before or config()
    return [("! " if s.warning else "") + s.text for s in steps(old, new, differences(old, new), held, ending)]


def test_no_change_has_no_steps() -> None:
    assert planned(config()) == []


def test_steps_of_a_new_vip_and_peer_in_order() -> None:
    added = OLD + "  - {name: api, vip: 192.0.2.12, protocol: udp, port: 53, health: {port: 80}}\n"
    found = planned(config((OLD, added), ("as: 65000}\n", "as: 65000}\n" + SECOND)))
    assert found[0].startswith("check lb.yml")
    assert found[1].startswith("start the next agent on the data path that runs")
    assert found[2:] == [
        "add api (192.0.2.12:53/udp): its table and its health check, 192.0.2.12 on lo",
        "ExaBGP: begin the session to 10.0.1.1",
        "ExaBGP: the session to 10.0.0.1 stays",
        "announce 192.0.2.12, once a server is healthy",
        "then apply it on every other node: all have the same services",
    ]


def test_connections_of_a_removed_vip_are_a_warning() -> None:
    text = "withdraw 192.0.2.11, and remove old (192.0.2.11:80/tcp)"
    warned = [line for line in planned(config((OLD, "")), old=12) if text in line]
    assert warned == [
        f"! {text}: 12 connections on this node end; to let them finish first, `lbctl drain --wait` before the change"
    ]
    assert text in planned(config((OLD, "")), web=12), "those of others stay"


def test_sessions_that_end_or_are_reset_are_warnings() -> None:
    replaced = planned(config(("10.0.0.1, as", "10.0.1.1, as")))
    assert {"! ExaBGP: end the session to 10.0.0.1", "ExaBGP: begin the session to 10.0.1.1"} <= set(replaced)
    reset = "! ExaBGP: reset the session to 10.0.0.1 (hold_time_s: 9 → 3)"
    assert reset in planned(config(("as: 65000}", "as: 65000, hold_time_s: 3}")))
    assert any("reset" in line for line in planned(config(("local_as: 65001", "local_as: 65002"))))


@pytest.mark.parametrize(
    ("key", "before", "after"), [("affinity", "5-tuple", "3-tuple"), ("hash", "rendezvous", "maglev")]
)
def test_what_moves_rows_is_a_warning(key: str, before: str, after: str) -> None:
    found = planned(config(("port: 443}", f"port: 443, {key}: {after}}}")), web=12)
    assert (
        f"! set web: {key}: {before} → {after}: its rows move, 12 connections on this node may break, and those on "
        "others; change it while there is none, or give the new values to a new service"
    ) in found
    assert found[-1] == (
        "! new connections may break until it is applied on every other node: let no node join or leave meanwhile"
    )
    none_here = planned(config(("port: 443}", f"port: 443, {key}: {after}}}")))
    assert any(line.startswith("! set web") and "0 connections on this node" in line for line in none_here)
    assert "set web: weight: 100 → 5" in planned(config(("port: 443}", "port: 443, weight: 5}")), web=12)


def test_sessions_of_nat_that_end_are_a_warning() -> None:
    old, web = nat_config(), NAT[: NAT.index("  - name: dns")]
    dns = NAT[len(web) : NAT.index("  - {name: dsr")]
    found = planned(nat_config(NAT.replace(dns, "")), old, "nat.sessions: its change ends 3 sessions", dns=1_234)
    assert found[2] == "! nat.sessions: its change ends 3 sessions"
    assert any("1,234 sessions on this node end" in line for line in found[3:] if line.startswith("! "))
    other = nat_config(NAT.replace("mode: nat", "mode: nat\n    affinity: 3-tuple", 1))
    assert "set web: affinity: 5-tuple → 3-tuple" in planned(other, old, web=9), "sessions stay with their backends"


def test_another_table_is_a_warning() -> None:
    assert planned(config(("cluster: 7", "cluster: 7\ntable: {rows: 4096}")))[-1].startswith("! new connections")


def test_data_path_is_replaced_only_when_its_shape_differs() -> None:
    assert "attach the data path" in planned(config(("interface: eth0", "interfaces: [eth0, eth1]")))[1]
    assert "that runs" in planned(config(("port: 443}", "port: 443, weight: 5}")))[1]
    assert planned(config(("cluster: 7", "cluster: 7\nxdp: {mode: 'off'}")))[1].startswith("remove the data path")


def test_long_lists_are_not_compared_entry_by_entry() -> None:
    """With 60,000 prefixes in deny that took 20 s, in which the agent did nothing else."""

    class Counted(str):
        compared = 0
        __slots__ = ()
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            Counted.compared += 1
            return super().__eq__(other)

    before = [Counted(f"192.0.2.{number}/32") for number in range(200)]
    after = [*before[1:], Counted("198.51.100.0/24")]
    changes = _values("deny", "deny", before, after)
    assert [change.text for change in changes] == ["- deny: 192.0.2.0/32", "+ deny: 198.51.100.0/24"]
    assert Counted.compared < 3 * len(before)
