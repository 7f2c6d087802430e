# SPDX-License-Identifier: Apache-2.0
"""The configuration of GoBGP (3.10 is Debian 12's), in TOML. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from bgp.router.facts import MAX_PATHS, Family, Neighbor, Network, Router, commented, heading

_TRAPS = [
    "",
    "GoBGP refuses a neighbor for 5 s after it lost the session, whatever the settings below. It ends the session of a",
    "node that sends more routes than max-prefixes, until `gobgp neighbor ADDRESS enable`. Refused routes count too.",
    "",
    "GoBGP installs no routes in the kernel; FRR's zebra can do it, with these lines:",
    "  [zebra.config]",
    "    enabled = true",
    '    url = "unix:/var/run/frr/zserv.api"',
    "    version = 6",
    '    software-name = "frr8.1"  # the newest that GoBGP 3.10 supports; test it with your zebra',
]


def render(router: Router) -> str:
    """Return gobgpd.conf."""
    lines = [*heading(router, "GoBGP", "#"), *commented("#", _TRAPS), ""]
    if any(group.session.bfd for group in router.peer_groups):
        lines += ["# GoBGP has no BFD: only the hold time detects a node that dies silently.", ""]
    lines += ["[global.config]", f"  as = {router.asn}", f'  router-id = "{router.router_id}"']
    lines += ["# Without it GoBGP uses only the best path.", "[global.use-multiple-paths.config]"]
    lines += ["  enabled = true"]
    for kind in ("ebgp", "ibgp"):
        lines += [f"[global.use-multiple-paths.{kind}.config]", f"  maximum-paths = {MAX_PATHS}"]
    lines += [
        "[global.apply-policy.config]",
        '  import-policy-list = ["from-nodes"]',
        '  default-import-policy = "accept-route"',
        '  export-policy-list = ["to-nodes"]',
        '  default-export-policy = "accept-route"',
        "",
        *_sets(router),
        "",
        *_policies(router),
    ]
    for neighbor in router.neighbors:
        lines += ["", *_neighbor(router, neighbor)]
    return "\n".join(lines) + "\n"


def _sets(router: Router) -> list[str]:
    """Return the sets of neighbors and prefixes; a set of prefixes is of one family."""
    addresses = ", ".join(f'"{neighbor.with_zone}"' for neighbor in router.neighbors)
    lines = _neighbor_set("nodes", addresses)
    for family in _vip_families(router):
        lines += ["# Any node may announce these."]
        lines += _prefix_set(f"vips-{family}", router.vips_of(family), router.pools_of(family))
    lines += ["# Nodes learn of each other.", *_prefix_set("identities", [router.identities])]
    for neighbor in router.neighbors:
        if neighbor.identity is not None:
            lines += _neighbor_set(neighbor.name, f'"{neighbor.with_zone}"')
            lines += _prefix_set(f"identity-{neighbor.name}", [neighbor.identity])
    return lines


def _vip_families(router: Router) -> list[Family]:
    return [family for family in router.families if router.vips_of(family) or router.pools_of(family)]


def _neighbor_set(name: str, addresses: str) -> list[str]:
    return [
        "[[defined-sets.neighbor-sets]]",
        f'  neighbor-set-name = "{name}"',
        f"  neighbor-info-list = [{addresses}]",
    ]


def _prefix_set(name: str, host_routes_in: Sequence[Network], exactly: Sequence[Network] = ()) -> list[str]:
    lines = ["[[defined-sets.prefix-sets]]", f'  prefix-set-name = "{name}"']
    lengths = [(prefix, prefix.max_prefixlen) for prefix in host_routes_in]
    for prefix, length in [*lengths, *((prefix, prefix.prefixlen) for prefix in exactly)]:
        lines += ["  [[defined-sets.prefix-sets.prefix-list]]"]
        lines += [f'    ip-prefix = "{prefix}"', f'    masklength-range = "{length}..{length}"']
    return lines


def _policies(router: Router) -> list[str]:
    lines = ["[[policy-definitions]]", '  name = "from-nodes"']
    for neighbor in router.neighbors:
        if neighbor.identity is not None:
            lines += _statement(f"from-{neighbor.name}", neighbor.name, f"identity-{neighbor.name}")
    for family in _vip_families(router):
        lines += _statement(f"vips-{family}", "nodes", f"vips-{family}")
    lines += _statement("nothing-else-from-nodes", "nodes", None)
    lines += ["[[policy-definitions]]", '  name = "to-nodes"']
    lines += _statement("identities-to-nodes", "nodes", "identities")
    return lines + _statement("nothing-else-to-nodes", "nodes", None)


def _statement(name: str, neighbors: str, prefixes: str | None) -> list[str]:
    """Return a statement that accepts these prefixes, or rejects all."""
    lines = ["  [[policy-definitions.statements]]", f'    name = "{name}"']
    lines += [
        "    [policy-definitions.statements.conditions.match-neighbor-set]",
        f'      neighbor-set = "{neighbors}"',
    ]
    if prefixes is not None:
        lines += ["    [policy-definitions.statements.conditions.match-prefix-set]", f'      prefix-set = "{prefixes}"']
    disposition = "reject-route" if prefixes is None else "accept-route"
    return [*lines, "    [policy-definitions.statements.actions]", f'      route-disposition = "{disposition}"']


def _neighbor(router: Router, neighbor: Neighbor) -> list[str]:
    session = neighbor.session
    lines = ["[[neighbors]]", "  [neighbors.config]", f'    neighbor-address = "{neighbor.with_zone}"']
    lines += [f"    peer-as = {neighbor.asn}", f'    description = "{neighbor.name}"']
    if session.password:
        lines.append(f'    auth-password = "{session.password}"')
    lines += ["  [neighbors.transport.config]", f'    local-address = "{session.local}"']
    lines += [f"    passive-mode = {str(session.passive).lower()}"]
    lines += ["  [neighbors.timers.config]", f"    hold-time = {session.hold_time_s}"]
    lines += [f"    keepalive-interval = {session.keepalive_s}"]
    lines += ["    idle-hold-time-after-reset = 1 # after `gobgp neighbor reset`; 30 s without"]
    if session.internal:
        lines += ["  [neighbors.route-reflector.config] # nodes must learn of each other"]
        lines += ["    route-reflector-client = true", f'    route-reflector-cluster-id = "{router.router_id}"']
    elif router.shares_an_as:
        lines += ["  [neighbors.as-path-options.config]"]
        lines += ["    replace-peer-as = true # otherwise a node never learns of another node in its own AS"]
    if session.multihop and not session.internal:
        lines += ["  [neighbors.ebgp-multihop.config]", "    enabled = true", f"    multihop-ttl = {session.multihop}"]
    if session.ttl_security:
        lines += ["  [neighbors.ttl-security.config]", "    enabled = true", "    ttl-min = 255"]
    for family in session.families:
        lines += [
            "  [[neighbors.afi-safis]]",
            "    [neighbors.afi-safis.config]",
            f'      afi-safi-name = "{family}-unicast"',
        ]
        lines += ["    [neighbors.afi-safis.prefix-limit.config]", f"      max-prefixes = {router.max_prefixes}"]
    return lines
