# SPDX-License-Identifier: Apache-2.0
"""The speaker's configuration: values out of range are refused with a message."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from bgp.errors import BgpError
from bgp.exabgp.config import NeighborConfig, SpeakerConfig

# No router answers there, and no packet leaves this machine's loopback.
PEER = NeighborConfig(IPv4Address("127.0.0.2"), 65000, IPv4Address("127.0.0.1"), 3)
CONFIG = SpeakerConfig(65001, IPv4Address("10.0.0.11"), (PEER,))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hold_time_s": 2}, "hold time 2 s is not in 3-65535"),
        ({"local_address": IPv6Address("::1")}, "another family"),
        ({"password": b""}, "has 0 bytes, not 1-80"),
        ({"password": b"x" * 81}, "has 81 bytes, not 1-80"),
        ({"interface": "eth1"}, "needs an interface"),
        ({"ttl_security": True, "multihop": 2}, "GTSM"),
    ],
)
def test_invalid_neighbor_is_refused(change: dict[str, object], message: str):
    with pytest.raises(BgpError, match=message):
        replace(PEER, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peers": ()}, "no neighbor"),
        ({"peers": (PEER, PEER)}, "configured twice"),
        ({"peers": (replace(PEER, peer_as=0),)}, "AS number 0"),
        ({"local_as": 1 << 32}, "AS number"),
        ({"run_dir": Path("/run/a b")}, "spaces"),
    ],
)
def test_invalid_speaker_config_is_refused(change: dict[str, object], message: str):
    with pytest.raises(BgpError, match=message):
        replace(CONFIG, **change)  # type: ignore[arg-type]
