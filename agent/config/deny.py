# SPDX-License-Identifier: Apache-2.0
"""The prefixes of `deny`, and which are too short to be denied without a question: they have many clients. Pure."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Annotated, Final

from pydantic import AfterValidator

from agent.address import Network
from agent.config.fields import AnyNetwork, fault

SHORTEST: Final = {4: 8, 6: 16}
"""Shorter prefixes have a good part of all clients, or all. By IP version."""
_CLIENTS: Final = tuple(map(ip_network, ("0.0.0.0/1", "128.0.0.0/2", "192.0.0.0/3", "2000::/3")))
"""Where clients on the internet are. Lists of bogons have short prefixes elsewhere: 240.0.0.0/4, fc00::/7, 8000::/1."""


def many_clients(prefix: Network) -> str | None:
    """Return why a prefix is denied only on demand; None if it has few clients, or none."""
    if prefix.prefixlen >= SHORTEST[prefix.version] or not any(one.overlaps(prefix) for one in _CLIENTS):
        return None
    share = "all" if prefix.prefixlen == 0 else f"1/{2**prefix.prefixlen} of all"
    return f"{prefix} has {share} IPv{prefix.version} addresses, so this node would serve none of the clients there"


def _not_many(prefix: Network) -> Network:
    if why := many_clients(prefix):
        raise fault("", f"{why}; deny longer prefixes, or run `lbctl deny add {prefix} --force`")
    return prefix


DeniedNetwork = Annotated[AnyNetwork, AfterValidator(_not_many)]
