# SPDX-License-Identifier: Apache-2.0
"""The rendered configuration, checked by ExaBGP itself."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from bgp.bfd.config import BfdTimers
from bgp.errors import BgpError
from bgp.exabgp import renderer
from bgp.exabgp.config import NeighborConfig, SpeakerConfig
from bgp.exabgp.renderer import render, render_env
from bgp.exabgp.speaker import validate

# No router answers there, and no packet leaves this machine's loopback.
PEER = NeighborConfig(IPv4Address("127.0.0.2"), 65000, IPv4Address("127.0.0.1"), 3)
CONFIG = SpeakerConfig(65001, IPv4Address("10.0.0.11"), (PEER,))


def test_exabgp_accepts_every_option_of_a_neighbor():
    here, there = IPv6Address("2001:db8::b"), IPv6Address("2001:db8::1")
    local = replace(PEER, address=IPv6Address("fe80::1"), local_address=IPv6Address("fe80::b"), interface="lo")
    peers = (
        replace(PEER, address=IPv4Address("127.0.0.3")),
        replace(PEER, address=IPv4Address("127.0.0.4"), hold_time_s=90, bfd=BfdTimers()),
        replace(PEER, local_as=65009, password=bytes(range(1, 81)), multihop=3, graceful_restart_s=60),
        replace(PEER, address=there, local_address=here, ttl_security=True, passive=True, families=("ipv6", "ipv4")),
        local,
    )
    config = replace(CONFIG, peers=peers)
    text = render(config)
    validate(text, render_env(config))
    assert "api relay-fe80--1 " in text
    assert text.count("outgoing-ttl 1;") == 3, "only the neighbors on the link without GTSM"


def test_listen_addresses_are_found_in_a_rendered_configuration():
    here = IPv6Address("2001:db8::b")
    six = replace(PEER, address=IPv6Address("2001:db8::1"), local_address=here, passive=True, password=b"x", bfd=None)
    active = replace(PEER, address=IPv4Address("127.0.0.4"), local_address=IPv4Address("127.0.0.9"))
    passive = replace(PEER, address=IPv4Address("127.0.0.5"), local_address=IPv4Address("127.0.0.8"), passive=True)
    config = replace(CONFIG, peers=(active, six, passive))
    assert renderer.listen_addresses(render(config)) == config.listen_addresses == {here, IPv4Address("127.0.0.8")}
    assert renderer.listen_addresses(render(CONFIG)) == set()


def test_no_message_quotes_a_password():
    config = replace(CONFIG, peers=(replace(PEER, password=b"correct horse"),))
    text = render(config)
    assert "correct horse" not in text
    assert "correct horse" not in repr(config)
    encoded = base64.b64encode(b"correct horse").decode()
    with pytest.raises(BgpError, match=r"^exabgp refuses") as caught:
        validate(text.replace("md5-password", "md5-passwort"), hidden=renderer.secrets(config))
    assert encoded not in str(caught.value)
    assert "md5-passwort" in str(caught.value)


def test_error_contains_the_message_of_exabgp():
    with pytest.raises(BgpError, match=r"^exabgp refuses .*hold-time 2 .*at least 3 seconds") as caught:
        validate(render(CONFIG).replace("hold-time 3;", "hold-time 2;"))
    assert "\n" not in str(caught.value)


def test_exabgp_reads_every_setting(tmp_path: Path):
    """ExaBGP ignores a misspelled or unknown setting silently, so its own list of settings is the proof."""
    path = tmp_path / "exabgp.env"
    path.write_text(render_env(CONFIG))
    listed = subprocess.run(
        [sys.executable, "-m", "exabgp", "env", "--env"],
        env={**os.environ, "EXABGP_ENVFILE": str(path)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    section = ""
    for line in render_env(CONFIG).splitlines():
        if line.startswith("["):
            section = line[1:-1]
            continue
        name, _, value = line.partition(" = ")
        spellings = {
            f"{section}.{name}={value}",
            f"{section}.{name}='{value}'",
            f"{section}.{name}='{value.strip(chr(39))}'",
        }
        assert spellings & set(listed), line
