# SPDX-License-Identifier: Apache-2.0
"""Files that lb.yml names, and lb.yml itself, which are not plain files of root: refused at once, with the repair."""

import os
from pathlib import Path

import pytest

from agent.config.file import MAX_BYTES, load, read_peer_passwords
from agent.errors import ConfigError

TEXT = """\
cluster: 7
node: {interface: eth0}
services: [{name: web, vip: 192.0.2.10, protocol: tcp, port: 443}]
bgp:
  local_as: 65001
  identity_prefix: 10.254.0.0/16
  peers:
    - {address: 10.0.0.1, as: 65000, password_file: password}
members: {allow: [10.0.0.0/24]}
table: {key_file: key}
"""
FOREIGN_UID = 61_234


def fifo(path: Path) -> None:
    os.mkfifo(path, 0o600)


def folder(path: Path) -> None:
    path.mkdir()


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def endless(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    path.chmod(0o600)


KINDS = [
    (fifo, "is a FIFO, not a file"),
    (folder, "is a directory, not a file"),
    (device, "is a device, not a file"),
]


def write(path: Path, content: str, mode: int = 0o600) -> None:
    path.write_text(content)
    path.chmod(mode)


@pytest.fixture
def node(tmp_path: Path) -> Path:
    write(tmp_path / "lb.yml", TEXT)
    write(tmp_path / "key", "00112233445566778899aabbccddeeff\n")
    write(tmp_path / "password", "correct horse\n")
    return tmp_path


def error(node: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        read_peer_passwords(node / "lb.yml", load(node / "lb.yml"))
    return str(caught.value)


@pytest.mark.parametrize(("make", "message"), [*KINDS, (endless, f"is larger than {MAX_BYTES} bytes")])
def test_configuration(node: Path, make: object, message: str) -> None:
    (node / "lb.yml").unlink()
    assert callable(make)
    make(node / "lb.yml")
    assert error(node) == f"{node}/lb.yml: {message}"


@pytest.mark.parametrize("name", ["key", "password"])
@pytest.mark.parametrize(("make", "message"), [*KINDS, (endless, "is larger than 4096 bytes")])
def test_secret(node: Path, name: str, make: object, message: str) -> None:
    (node / name).unlink()
    assert callable(make)
    make(node / name)
    assert error(node).endswith(f"_file: {node}/{name}: {message}")


@pytest.mark.skipif(os.geteuid() != 0, reason="chown")
@pytest.mark.parametrize("name", ["key", "password"])
def test_secret_of_another_user(node: Path, name: str) -> None:
    path = node / name
    os.chown(path, FOREIGN_UID, 0)
    assert error(node).endswith(f"_file: {path}: belongs to uid {FOREIGN_UID}; chown root {path} && chmod 600 {path}")
    os.chown(path, 0, 0)
    assert read_peer_passwords(node / "lb.yml", load(node / "lb.yml")) == {"10.0.0.1": b"correct horse"}


@pytest.mark.parametrize("name", ["key", "password"])
def test_repair_is_quoted_for_a_shell(node: Path, name: str) -> None:
    write(node / "lb.yml", TEXT.replace(f"_file: {name}", f"_file: 'my {name}'"))
    (node / name).rename(node / f"my {name}")
    (node / f"my {name}").chmod(0o644)
    assert error(node).endswith(f"other users have access (mode 644); chmod 600 '{node}/my {name}'")


@pytest.mark.parametrize("name", ["key", "password"])
def test_links_are_followed_to_a_secret(node: Path, name: str) -> None:
    (node / name).rename(node / "target")
    (node / name).symlink_to("target")
    assert read_peer_passwords(node / "lb.yml", load(node / "lb.yml")) == {"10.0.0.1": b"correct horse"}
