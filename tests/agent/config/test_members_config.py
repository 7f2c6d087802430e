# SPDX-License-Identifier: Apache-2.0
"""`members:`: the port, the static members and the key of what nodes send each other; no message quotes a key."""

import os
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from agent.config.file import load, load_without_secrets, parse
from agent.errors import ConfigError

TEXT = """\
cluster: 7
node: {interface: eth0}
services: [{name: web, vip: 192.0.2.10, protocol: tcp, port: 443}]
bgp: {local_as: 65001, identity_prefix: 10.254.0.0/16, peers: [{address: 10.0.0.1, as: 65000}]}
members:
  allow: [10.0.0.0/24]
  MORE
"""
OLD, NEW = "00112233445566778899aabbccddeeff", "ffeeddccbbaa99887766554433221100"
FOREIGN_UID = 61_234


def members(more: str, cluster: int = 7) -> str:
    return TEXT.replace("MORE", more).replace("cluster: 7", f"cluster: {cluster}")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("probe_port: 4742", "7:3: members.probe_port: unknown key; its name is port now"),
        ("prt: 4742", "7:3: members.prt: unknown key; did you mean port?"),
        ("port: 0", "7:9: members.port: 0 is not in 1-65535"),
        ("port: '4742'", "7:9: members.port: '4742' is not a whole number"),
        ("port: 6080", "7:9: members.port: 6080 is the port of gue tunnels; choose another"),
        ("key: none\n  key_file: cluster.key", "7:8: members.key: contradicts key_file; give one of them"),
        (f"key: {OLD}",
         "7:8: members.key: takes only none; a key belongs into a file (`lbctl key new`), which key_file names"),
        ("key:",
         "7:7: members.key: takes only none; a key belongs into a file (`lbctl key new`), which key_file names"),
        ("key_file: [a, b]", "7:13: members.key_file: is a list; give one value"),
        ("static: 10.0.0.11", "7:11: members.static: is not a list; write ['10.0.0.11']"),
        ("static: [10.0.0.11, 10.0.0]", "7:23: members.static[1]: '10.0.0' is not an IPv4 address"),
        ("static: [11]", "7:12: members.static[0]: '11' is not an IPv4 address"),
        ("static: ['2001:db8::1']", "7:12: members.static[0]: '2001:db8::1' is not an IPv4 address"),
        ("static: [224.0.0.1]", "7:12: members.static[0]: 224.0.0.1 is not a unicast address of another machine"),
        ("static: [10.0.0.11, 10.0.0.11]", "7:23: members.static[1]: 10.0.0.11 is listed twice; see line 7"),
        ("static: [10.0.1.11]", "7:12: members.static[0]: 10.0.1.11 is in no prefix of members.allow"),
        ("static: [192.0.2.10]", "7:12: members.static[0]: 192.0.2.10 is a VIP; list the nodes' own addresses"),
        ("static: [10.0.0.1]",
         "7:12: members.static[0]: 10.0.0.1 is a BGP peer's address; list the nodes' own addresses"),
    ],
)  # fmt: skip
def test_errors(more: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(members(more), "lb.yml")
    assert str(caught.value) == f"lb.yml:{message}"


def test_port_and_static_members() -> None:
    found = parse(members("static: [10.0.0.11, 10.0.0.12]"), "lb.yml").members
    assert (found.port, found.static) == (4742, (IPv4Address("10.0.0.11"), IPv4Address("10.0.0.12")))
    assert parse(members("port: 5000"), "lb.yml").members.port == 5000


def test_without_a_key_there_is_none() -> None:
    assert parse(members(""), "lb.yml").channel_keys == ()


def test_key_none_is_one_public_key_for_each_cluster() -> None:
    (seven,) = parse(members("key: none"), "lb.yml").channel_keys
    (eight,) = parse(members("key: none", cluster=8), "lb.yml").channel_keys
    assert len(seven) == 16
    assert seven != eight
    assert (seven,) == parse(members("key: none"), "lb.yml").channel_keys
    assert seven != parse(members("key: none"), "lb.yml").hash_key


@pytest.fixture
def node(tmp_path: Path) -> Path:
    (tmp_path / "lb.yml").write_text(members("key_file: cluster.key"))
    return tmp_path


def write(node: Path, content: str, mode: int = 0o600) -> Path:
    path = node / "cluster.key"
    path.write_text(content)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    ("content", "keys"),
    [(f"{OLD}\n", [OLD]), (OLD.upper(), [OLD]), (f"{NEW}\n{OLD}\n", [NEW, OLD]), (f"{OLD}\r\n{NEW}", [OLD, NEW])],
)
def test_first_key_of_the_file_is_the_first(node: Path, content: str, keys: list[str]) -> None:
    write(node, content)
    assert [key.hex() for key in load(node / "lb.yml").channel_keys] == keys
    assert load_without_secrets(node / "lb.yml").channel_keys == ()


def error(node: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load(node / "lb.yml")
    where = f"{node}/lb.yml:7:13: members.key_file: "
    assert str(caught.value).startswith(where)
    assert OLD not in str(caught.value)
    return str(caught.value).removeprefix(where)


@pytest.mark.parametrize(
    ("content", "mode", "message"),
    [
        (None, 0, "{path}: No such file or directory; make one with {new}, or copy that of another node"),
        ("", 0o600, "{path}: contains 0 keys, not one or two; {advice}"),
        ("secret", 0o600, "{path}: line 1 is not a key of 32 hex digits; {advice}"),
        (f"{OLD}\n{NEW[:-1]}\n", 0o600, "{path}: line 2 is not a key of 32 hex digits; {advice}"),
        (f"{OLD}\n\n{NEW}\n", 0o600, "{path}: line 2 is not a key of 32 hex digits; {advice}"),
        (f"{OLD} {NEW}\n", 0o600, "{path}: line 1 is not a key of 32 hex digits; {advice}"),
        (f"{OLD}é\n", 0o600, "{path}: line 1 is not a key of 32 hex digits; {advice}"),
        (f"{OLD}\n{NEW}\n{'12' * 16}\n", 0o600, "{path}: contains 3 keys, not one or two; {advice}"),
        (f"{OLD}\n{OLD.upper()}\n", 0o600, "{path}: contains the same key twice; remove one line"),
        (OLD, 0o640, "{path}: other users have access (mode 640); chmod 600 {path}"),
    ],
)
def test_unusable_key_file(node: Path, content: str | None, mode: int, message: str) -> None:
    path = node / "cluster.key"
    if content is not None:
        write(node, content, mode)
    new = f"`lbctl key new {path}`"
    advice = f"copy that of another node, or remove it and run {new}"
    assert error(node) == message.format(path=path, new=new, advice=advice)


def test_key_file_must_be_a_file(node: Path) -> None:
    os.mkfifo(node / "cluster.key", 0o600)
    assert error(node) == f"{node}/cluster.key: is a FIFO, not a file"


@pytest.mark.skipif(os.geteuid() != 0, reason="chown")
def test_key_file_of_another_user(node: Path) -> None:
    path = write(node, OLD)
    os.chown(path, FOREIGN_UID, 0)
    assert error(node) == f"{path}: belongs to uid {FOREIGN_UID}; chown root {path} && chmod 600 {path}"


@pytest.mark.parametrize("table", ["{key_file: cluster.key}", "{previous: {key_file: cluster.key}}"])
def test_flow_hash_has_a_key_of_its_own(node: Path, table: str) -> None:
    (node / "lb.yml").write_text(members("key_file: cluster.key") + f"table: {table}\n")
    write(node, OLD)
    assert error(node) == "has the key of the flow hash, which a rotation must not change; make another"
