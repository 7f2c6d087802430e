# SPDX-License-Identifier: Apache-2.0
"""The configuration of OpenBGPD (7.7 is Debian 12's). Pure."""

from __future__ import annotations

from collections.abc import Sequence

from bgp.router.facts import Network, PeerGroup, Router, commented, heading

_TRAPS = [
    "",
    "On OpenBSD `fib-update yes`, the default, installs only the best path in the kernel. On Linux OpenBGPD installs",
    "nothing: it advertises routes to nodes, and the host forwards no client traffic.",
    "",
    "A node that sends more routes than max-prefix loses its session for a minute. Refused routes count too.",
]


def render(router: Router) -> str:
    """Return bgpd.conf."""
    lines = [*heading(router, "OpenBGPD", "#"), *commented("#", _TRAPS), ""]
    if any(group.session.bfd for group in router.peer_groups):
        lines += ["# OpenBGPD has no BFD: only the hold time detects a node that dies silently.", ""]
    lines += [f"AS {router.asn}", f"router-id {router.router_id}", "holdtime min 3", ""]
    vips = [_host_routes(prefix) for family in router.families for prefix in router.vips_of(family)]
    vips += [str(pool) for family in router.families for pool in router.pools_of(family)]
    lines += ["# Any node may announce these.", *_prefix_set("vips", vips)] if vips else []
    lines += ["# Nodes learn of each other.", *_prefix_set("identities", [_host_routes(router.identities)])]
    for group in router.peer_groups:
        lines += ["", *_group(router, group)]
    lines += ["", "# Without a rule that allows it, no route is accepted or advertised (RFC 8212)."]
    for group in router.peer_groups:
        lines += [f'allow from group "{group.name}" prefix-set vips'] if vips else []
        lines += [f'allow to group "{group.name}" prefix-set identities']
    lines += [f"allow from {n.with_zone} prefix {n.identity}" for n in router.neighbors if n.identity is not None]
    return "\n".join(lines) + "\n"


def _host_routes(prefix: Network) -> str:
    return f"{prefix} prefixlen = {prefix.max_prefixlen}"


def _prefix_set(name: str, prefixes: Sequence[str]) -> list[str]:
    return [f"prefix-set {name} {{", *(f"  {prefix}" for prefix in prefixes), "}"]


def _group(router: Router, group: PeerGroup) -> list[str]:
    session = group.session
    lines = [f'group "{group.name}" {{', f"  local-address {session.local}"]
    if session.passive:
        lines.append("  passive # nodes connect")
    if session.internal:
        lines.append("  route-reflector # nodes must learn of each other")
    if session.multihop:
        lines.append(f"  multihop {session.multihop}")
    lines += [f"  holdtime {session.hold_time_s} # nothing else detects a node that dies silently"]
    for family, name in (("ipv4", "IPv4"), ("ipv6", "IPv6")):
        lines.append(f"  announce {name} {'unicast' if family in session.families else 'none'}")
    lines += [f"  max-prefix {router.max_prefixes * len(session.families)} restart 1"]
    if session.ttl_security:
        lines.append("  ttl-security yes # RFC 5082")
    if session.password:
        if session.passive:
            lines += [
                "  # On Linux, 7.7 accepts no connection with MD5: it must connect itself (remove `passive` above),"
            ]
            lines += ["  # and this peer in lb.yml needs `passive: true`."]
        lines.append(f'  tcp md5sig password "{session.password}"')
    for neighbor in group.neighbors:
        lines += [
            f"  neighbor {neighbor.with_zone} {{",
            f"    remote-as {neighbor.asn}",
            f'    descr "{neighbor.name}"',
            "  }",
        ]
    return [*lines, "}"]
