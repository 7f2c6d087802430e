# SPDX-License-Identifier: Apache-2.0
"""The configuration of BIRD 2 (2.0.12 is Debian 12's). Pure."""

from __future__ import annotations

from bgp.router.facts import MAX_PATHS, Family, Neighbor, Network, PeerGroup, Router, heading


def render(router: Router) -> str:
    """Return bird.conf."""
    log = f'"{router.log}"' if router.log else "syslog"
    blocks = [
        heading(router, "BIRD 2", "#"),
        [f"log {log} all;", f"router id {router.router_id};"],
        ["protocol device {", "}"],
        ["protocol direct { # resolves next hops: a link that goes down removes its routes at once"]
        + [f"  {family};" for family in router.families]
        + ["}"],
        *(_kernel(family) for family in router.families),
        *(_vips(router, family) for family in router.families),
        _identities(router),
        *_bfd(router),
        *(_group(router, group) for group in router.peer_groups),
        [_neighbor(group, neighbor) for group in router.peer_groups for neighbor in group.neighbors],
    ]
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def _kernel(family: Family) -> list[str]:
    return [
        "protocol kernel {",
        f"  merge paths on limit {MAX_PATHS}; # otherwise the kernel gets one next hop only",
        f"  {family} {{",
        "    import none;",
        "    export where source = RTS_BGP;",
        "  };",
        "}",
    ]


def _vips(router: Router, family: Family) -> list[str]:
    none = "0.0.0.0/32" if family == "ipv4" else "::/128"  # a set must not be empty
    prefixes = [_host_routes(prefix) for prefix in router.vips_of(family)]
    prefixes = [*prefixes, *map(str, router.pools_of(family))] or [none]
    return ["# Any node may announce these.", f"define {_set(family)} = [ {', '.join(prefixes)} ];"]


def _identities(router: Router) -> list[str]:
    text = "# A node announces one of these, its own, and receives those of all nodes."
    return [text, f"define identities = [ {_host_routes(router.identities)} ];"]


def _host_routes(prefix: Network) -> str:
    length = prefix.max_prefixlen
    return str(prefix) if prefix.prefixlen == length else f"{prefix}{{{length},{length}}}"


def _set(family: Family) -> str:
    return f"vips_{family}"


def _bfd(router: Router) -> list[list[str]]:
    wanted = {group.session.bfd for group in router.peer_groups if group.session.bfd}
    return [["protocol bfd {", "}"]] if wanted else []


def _group(router: Router, group: PeerGroup) -> list[str]:
    session = group.session
    lines = [f"template bgp {group.name} {{", f"  local {session.local} as {router.asn};"]
    if session.internal:
        lines.append("  rr client; # nodes must learn of each other")
    if session.multihop:
        lines.append(f"  multihop {session.multihop};")
    else:
        lines.append("  direct; # next hop resolution uses connected routes only")
    if session.passive:
        lines.append("  passive on; # nodes connect")
    lines.append(f"  hold time {session.hold_time_s}; # nothing else detects a node that dies silently")
    lines.append("  error wait time 1, 5; # otherwise BIRD refuses a session for up to 300 s after errors")
    if session.ttl_security:
        lines.append("  ttl security on; # RFC 5082")
    if session.password:
        lines.append(f'  password "{session.password}";')
    if session.bfd:
        interval = f"interval {session.bfd.interval_ms} ms; multiplier {session.bfd.multiplier};"
        lines.append(f"  bfd {{ {interval} }};")
    for family in session.families:
        lines += [
            f"  {family} {{",
            f"    import where net ~ {_set(family)};",
            f"    receive limit {router.max_prefixes} action block; # ignores further routes, keeps session and others",
            f"    export {'where net ~ identities; # nodes learn of each other' if family == 'ipv4' else 'none;'}",
            "  };",
        ]
    return [*lines, "}"]


def _neighbor(group: PeerGroup, neighbor: Neighbor) -> str:
    """Return the protocol of a neighbor; its own filter replaces the template's."""
    own = f" ipv4 {{ import where net = {neighbor.identity} || net ~ {_set('ipv4')}; }};" if neighbor.identity else ""
    remote = f"neighbor {neighbor.with_zone} as {neighbor.asn};"
    return f"protocol bgp {neighbor.name} from {group.name} {{ {remote}{own} }}"
