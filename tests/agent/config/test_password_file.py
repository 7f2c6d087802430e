# SPDX-License-Identifier: Apache-2.0
"""Passwords of BGP sessions, from their files."""

from pathlib import Path

import pytest

from agent.config.file import load, read_peer_passwords
from agent.errors import ConfigError

TEXT = """\
cluster: 7
node: {interface: eth0}
services: [{name: web, vip: 192.0.2.10, protocol: tcp, port: 443}]
bgp:
  local_as: 65001
  identity_prefix: 10.254.0.0/16
  peers:
    - {address: 10.0.0.1, as: 65000, password_file: secret}
members: {allow: [10.0.0.0/24]}
"""


@pytest.mark.parametrize(
    ("content", "mode", "message"),
    [
        (b"correct horse\n", 0o640, "other users have access (mode 640); chmod 600 {path}"),
        (b"correct horse\n", 0o604, "other users have access (mode 604); chmod 600 {path}"),
        (b"", 0o600, "contains 0 bytes, not 1-80"),
        (b"x" * 81, 0o600, "contains 81 bytes, not 1-80"),
        (b"correct\nhorse\n", 0o600, "contains more than one line"),
        (None, 0, "No such file or directory; put the router's password there"),
    ],
)
def test_unusable_password_file(tmp_path: Path, content: bytes | None, mode: int, message: str) -> None:
    (tmp_path / "lb.yml").write_text(TEXT)
    secret = tmp_path / "secret"
    if content is not None:
        secret.write_bytes(content)
        secret.chmod(mode)
    config = load(tmp_path / "lb.yml")
    with pytest.raises(ConfigError) as caught:
        read_peer_passwords(tmp_path / "lb.yml", config)
    where = f"{tmp_path}/lb.yml:8:53: bgp.peers[0].password_file"
    assert str(caught.value) == f"{where}: {secret}: {message.format(path=secret)}"
    assert "horse" not in str(caught.value)


def test_password_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "lb.yml").write_text(TEXT)
    secret = tmp_path / "secret"
    secret.write_bytes(" spaces and ; { } 'quotes' \"count\" ü\r\n".encode())
    secret.chmod(0o400)
    found = read_peer_passwords(tmp_path / "lb.yml", load(tmp_path / "lb.yml"))
    assert found == {"10.0.0.1": " spaces and ; { } 'quotes' \"count\" ü".encode()}
