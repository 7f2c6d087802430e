# SPDX-License-Identifier: Apache-2.0
"""A configuration for OpenBGPD (7.7 is Debian 12's). Pure."""

from __future__ import annotations

from bgp.router.facts import Group, Router, commented, heading

_TRAPS = [
    "",
    "On OpenBSD `fib-update yes`, the default, writes the best path into the kernel, and that one alone. On Linux it",
    "writes nothing: there OpenBGPD reflects routes for nodes, and forwards nothing for clients.",
]


def render(router: Router) -> str:
    """Return the whole of bgpd.conf."""
    lines = [*heading(router, "OpenBGPD", "#"), *commented("#", _TRAPS), ""]
    if any(group.session.bfd for group in router.groups):
        lines += ["# OpenBGPD has no BFD: a node that dies in silence is noticed by the hold time alone.", ""]
    lines += [f"AS {router.asn}", f"router-id {router.router_id}", "holdtime min 3", ""]
    lines += ["# What a node may announce: VIPs and identities.", "prefix-set from-nodes {"]
    for family in router.families:
        lines += [f"  {prefix} prefixlen = {prefix.max_prefixlen}" for prefix in router.accepted(family)]
    lines += ["}"]
    for group in router.groups:
        lines += ["", *_group(router, group)]
    lines += ["", "# Without a rule that allows it, nothing is taken and nothing is given (RFC 8212)."]
    for group in router.groups:
        lines += [f'allow from group "{group.name}" prefix-set from-nodes']
    lines += ["# Nodes learn of each other by this."]
    lines += [f'allow to group "{group.name}"' for group in router.groups]
    return "\n".join(lines) + "\n"


def _group(router: Router, group: Group) -> list[str]:
    session = group.session
    lines = [f'group "{group.name}" {{', f"  local-address {session.local}"]
    if session.passive:
        lines.append("  passive # nodes connect")
    if session.internal:
        lines.append("  route-reflector # nodes must hear of each other")
    if session.multihop:
        lines.append(f"  multihop {session.multihop}")
    lines += [f"  holdtime {session.hold_time_s} # a node that dies in silence is noticed by this alone"]
    for family, word in (("ipv4", "IPv4"), ("ipv6", "IPv6")):
        lines.append(f"  announce {word} {'unicast' if family in session.families else 'none'}")
    lines += [f"  max-prefix {router.max_prefixes * len(session.families)} restart 1"]
    if session.ttl_security:
        lines.append("  ttl-security yes # RFC 5082")
    if session.password:
        if session.passive:
            lines += ["  # On Linux 7.7 takes no signed connection: there it must connect (no `passive` above), and"]
            lines += ["  # `passive: true` has to stand with this peer in lb.yml."]
        lines.append(f'  tcp md5sig password "{session.password}"')
    for neighbor in group.neighbors:
        lines += [
            f"  neighbor {neighbor.zoned} {{",
            f"    remote-as {neighbor.asn}",
            f'    descr "{neighbor.name}"',
            "  }",
        ]
    return [*lines, "}"]
