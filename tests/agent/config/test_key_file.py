# SPDX-License-Identifier: Apache-2.0
"""The keys of the row hash, from the files that `table:` names, and the epochs that follow from them."""

from pathlib import Path

import pytest

from agent.config.epoch import supported_epochs
from agent.config.file import load, parse
from agent.errors import ConfigError

TEXT = """\
cluster: 7
node: {interface: eth0}
services: [{name: web, vip: 192.0.2.10, protocol: tcp, port: 443}]
bgp: {local_as: 65001, identity_prefix: 10.254.0.0/16, peers: [{address: 10.0.0.1, as: 65000}]}
members: {allow: [10.0.0.0/24]}
"""


def test_key_file_is_relative_to_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "lb.yml").write_text(TEXT + "table: {key_file: secret}\n")
    secret = tmp_path / "secret"
    secret.write_text("00112233445566778899aabbccddeeff\n")
    secret.chmod(0o600)
    config = load(tmp_path / "lb.yml")
    assert config.hash_key == bytes.fromhex("00112233445566778899aabbccddeeff")
    assert config.hash_key != parse(TEXT, "lb.yml").hash_key
    assert len(parse(TEXT, "lb.yml").hash_key) == 16


@pytest.mark.parametrize(
    ("content", "mode", "message"),
    [
        ("00", 0o600, "does not contain 32 hex digits; make one with `openssl rand -hex 16`"),
        ("secret", 0o600, "does not contain 32 hex digits; make one with `openssl rand -hex 16`"),
        ("00112233445566778899aabbccddeeff", 0o640, "other users have access (mode 640); chmod 600 {path}"),
        (None, 0, "No such file or directory; make one with `openssl rand -hex 16`"),
    ],
)
def test_invalid_key_files(tmp_path: Path, content: str | None, mode: int, message: str) -> None:
    (tmp_path / "lb.yml").write_text(TEXT + "table: {key_file: secret}\n")
    secret = tmp_path / "secret"
    if content is not None:
        secret.write_text(content)
        secret.chmod(mode)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "lb.yml")
    assert str(caught.value) == f"{tmp_path}/lb.yml:6:19: table.key_file: {secret}: {message.format(path=secret)}"


def write_secret(path: Path, byte: int) -> None:
    path.write_text(bytes([byte] * 16).hex())
    path.chmod(0o600)


@pytest.mark.parametrize(
    ("table", "before"),
    [
        ("{key_file: new, previous: {key_file: old}}", "{key_file: old}"),
        ("{key_file: new, previous: {key_file: null}}", "{}"),
        ("{previous: {key_file: old}}", "{key_file: old}"),
        ("{key_file: new, rows: 8192, previous: {rows: 65536, chain: 3}}", "{key_file: new, chain: 3}"),
    ],
)
def test_previous_epoch_is_that_of_the_previous_table(tmp_path: Path, table: str, before: str) -> None:
    write_secret(tmp_path / "new", 1)
    write_secret(tmp_path / "old", 2)
    epochs = []
    for text in (table, before):
        (tmp_path / "lb.yml").write_text(f"{TEXT}table: {text}\n")
        epochs.append(supported_epochs(load(tmp_path / "lb.yml")))
    assert len(epochs[0]) == 2
    assert epochs[0][1:] == epochs[1]


def test_previous_table_must_differ(tmp_path: Path) -> None:
    write_secret(tmp_path / "new", 1)
    (tmp_path / "lb.yml").write_text(TEXT + "table: {key_file: new, previous: {key_file: new, chain: 4}}\n")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "lb.yml")
    assert str(caught.value) == (
        f"{tmp_path}/lb.yml:6:34: table.previous: is the same as the current table; set what was different, or "
        "remove it"
    )


def test_error_in_the_previous_key_file(tmp_path: Path) -> None:
    (tmp_path / "lb.yml").write_text(TEXT + "table: {previous: {key_file: gone}}\n")
    with pytest.raises(ConfigError, match=r"lb.yml:6:30: table.previous.key_file: .*gone: No such file or directory"):
        load(tmp_path / "lb.yml")
