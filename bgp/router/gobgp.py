# SPDX-License-Identifier: Apache-2.0
"""The configuration of GoBGP (3.10 is Debian 12's), in TOML. Pure."""

from __future__ import annotations

from bgp.router.facts import MAX_PATHS, Neighbor, Router, commented, heading

_TRAPS = [
    "",
    "GoBGP refuses a neighbor for 5 s after it lost the session, whatever the settings below.",
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
        '  import-policy-list = ["nodes"]',
        '  default-import-policy = "accept-route"',
    ]
    lines += ['  default-export-policy = "accept-route"', ""]
    lines += _policy(router)
    for neighbor in router.neighbors:
        lines += ["", *_neighbor(router, neighbor)]
    return "\n".join(lines) + "\n"


def _policy(router: Router) -> list[str]:
    addresses = ", ".join(f'"{neighbor.with_zone}"' for neighbor in router.neighbors)
    lines = ["# Routes accepted from nodes: VIPs and identities. A set of prefixes is of one family."]
    lines += [
        "[[defined-sets.neighbor-sets]]",
        '  neighbor-set-name = "nodes"',
        f"  neighbor-info-list = [{addresses}]",
    ]
    families = [family for family in router.families if router.accepted(family)]
    for family in families:
        lines += ["[[defined-sets.prefix-sets]]", f'  prefix-set-name = "from-nodes-{family}"']
        for prefix in router.accepted(family):
            length = prefix.max_prefixlen
            lines += ["  [[defined-sets.prefix-sets.prefix-list]]"]
            lines += [f'    ip-prefix = "{prefix}"', f'    masklength-range = "{length}..{length}"']
    lines += ["", "[[policy-definitions]]", '  name = "nodes"']
    for family in families:
        lines += ["  [[policy-definitions.statements]]", f'    name = "{family}"']
        lines += ["    [policy-definitions.statements.conditions.match-neighbor-set]", '      neighbor-set = "nodes"']
        lines += ["    [policy-definitions.statements.conditions.match-prefix-set]"]
        lines += [f'      prefix-set = "from-nodes-{family}"', "    [policy-definitions.statements.actions]"]
        lines += ['      route-disposition = "accept-route"']
    lines += ["  [[policy-definitions.statements]]", '    name = "nothing-else"']
    lines += ["    [policy-definitions.statements.conditions.match-neighbor-set]", '      neighbor-set = "nodes"']
    return [*lines, "    [policy-definitions.statements.actions]", '      route-disposition = "reject-route"']


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
