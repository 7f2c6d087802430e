# SPDX-License-Identifier: Apache-2.0
"""The router's configuration: for BIRD 2, FRR, GoBGP or OpenBGPD, from the same facts.

Owns the list of kinds. facts.py owns the facts; each kind has a module with its language and its traps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from bgp.router import bird, frr, gobgp, openbgpd
from bgp.router.facts import Router

KINDS: Mapping[str, Callable[[Router], str]] = MappingProxyType(
    {"bird": bird.render, "frr": frr.render, "gobgp": gobgp.render, "openbgpd": openbgpd.render}
)
"""The renderers, by the name that `lbctl announce config --router` takes. Pure."""
