# SPDX-License-Identifier: Apache-2.0
"""The router's side of the sessions: a configuration for BIRD 2, FRR, GoBGP or OpenBGPD, from the same facts.

Owns which kinds there are. The facts are facts.py's; each kind's words, and the traps that it has, are in its module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from bgp.router import bird, frr, gobgp, openbgpd
from bgp.router.facts import Router

KINDS: Mapping[str, Callable[[Router], str]] = MappingProxyType(
    {"bird": bird.render, "frr": frr.render, "gobgp": gobgp.render, "openbgpd": openbgpd.render}
)
"""By the name that `lbctl announce config --router` takes: what writes the whole configuration. Pure."""
