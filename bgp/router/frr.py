# SPDX-License-Identifier: Apache-2.0
"""The configuration of FRR (8.4 is Debian 12's, 10.3 Debian 13's). Pure."""

from __future__ import annotations

from bgp.bfd.config import BfdTimers
from bgp.router.facts import MAX_PATHS, Family, Neighbor, Network, PeerGroup, Router, heading


def render(router: Router) -> str:
    """Return frr.conf."""
    lines = heading(router, "FRR", "!")
    lines += ["!", "frr defaults traditional", f"log {f'file {router.log}' if router.log else 'syslog'}", "!"]
    lines += ["! Without it 8.4 keeps a stale next-hop group for 180 s after a link flap."]
    lines += ["zebra nexthop-group keep 1", "!"]
    for family in router.families:
        lines += _prefix_lists(router, family)
    for neighbor in router.neighbors:
        lines += _from_node(neighbor)
    lines += ["!", f"router bgp {router.asn}", f" bgp router-id {router.router_id}", " bgp log-neighbor-changes"]
    lines += [" ! By default FRR exchanges no routes over eBGP without a policy (RFC 8212)."]
    lines += [" no bgp ebgp-requires-policy", " no bgp default ipv4-unicast"]
    lines += [" ! Multipath over paths of equal length, even with different AS numbers."]
    lines += [" bgp bestpath as-path multipath-relax"]
    lines += [" ! Otherwise a new session gets no routes for 1 s.", " coalesce-time 0"]
    for group in router.peer_groups:
        lines += _group(group)
    for family in router.families:
        lines += _family(router, family)
    lines += ["exit", "!"]
    for number, bfd in enumerate(_bfds(router)):
        lines += ["! Needs bfdd=yes in /etc/frr/daemons."] if number == 0 else []
        lines += ["bfd", f" profile {_profile(bfd)}", f"  detect-multiplier {bfd.multiplier}"]
        lines += [
            f"  receive-interval {bfd.interval_ms}",
            f"  transmit-interval {bfd.interval_ms}",
            " exit",
            "exit",
            "!",
        ]
    return "\n".join(lines) + "\n"


def _prefix_lists(router: Router, family: Family) -> list[str]:
    keyword = "ip" if family == "ipv4" else "ipv6"
    prefixes = [_host_routes(prefix) for prefix in router.vips_of(family)]
    prefixes += map(str, router.pools_of(family))
    rules = [f"permit {prefix}" for prefix in prefixes] or ["deny any"]
    to_nodes = f"permit {_host_routes(router.identities)}" if family == "ipv4" else "deny any"
    lines = ["! Any node may announce these."]
    lines += [f"{keyword} prefix-list vips-{family} {rule}" for rule in rules]
    return [*lines, "! Nodes learn of each other.", f"{keyword} prefix-list to-nodes-{family} {to_nodes}"]


def _from_node(neighbor: Neighbor) -> list[str]:
    """Return the filter for IPv4 routes from this node: VIPs, and its own identity."""
    if neighbor.identity is None:
        return []
    name = neighbor.name
    return [
        f"ip prefix-list identity-{name} permit {neighbor.identity}",
        f"route-map from-{name} permit 1",
        f" match ip address prefix-list identity-{name}",
        "exit",
        f"route-map from-{name} permit 2",
        " match ip address prefix-list vips-ipv4",
        "exit",
    ]


def _host_routes(prefix: Network) -> str:
    length = prefix.max_prefixlen
    return str(prefix) if prefix.prefixlen == length else f"{prefix} ge {length}"


def _group(group: PeerGroup) -> list[str]:
    session, name = group.session, group.name
    lines = [f" neighbor {name} peer-group"]
    if session.passive:
        lines.append(f" neighbor {name} passive")
    if session.hold_time_s:
        lines += [" ! Only the hold time detects a node that dies silently; the minimum is 3 s."]
        lines += [f" neighbor {name} timers {session.keepalive_s} {session.hold_time_s}"]
    lines += [f" neighbor {name} advertisement-interval 0"]
    if session.multihop and not session.internal:
        lines.append(f" neighbor {name} ebgp-multihop {session.multihop}")
    if session.multihop or (session.local.version == 6 and not session.local.is_link_local):
        lines.append(f" neighbor {name} update-source {session.local}")
    if session.ttl_security:
        lines.append(f" neighbor {name} ttl-security hops 1")
    if session.password:
        lines.append(f" neighbor {name} password {session.password}")
    if session.bfd:
        lines += [f" neighbor {name} bfd", f" neighbor {name} bfd profile {_profile(session.bfd)}"]
    for neighbor in group.neighbors:
        address = neighbor.address
        lines += [f" neighbor {address} remote-as {neighbor.asn}", f" neighbor {address} peer-group {name}"]
        lines += [f" neighbor {address} description {neighbor.name}"]
        if neighbor.interface:
            lines += [f" neighbor {address} interface {neighbor.interface}"]
    return lines


def _family(router: Router, family: Family) -> list[str]:
    lines = [" !", f" address-family {family} unicast"]
    for group in router.peer_groups:
        if family not in group.session.families:
            continue
        name = group.name
        lines += [f"  neighbor {name} activate", f"  neighbor {name} prefix-list to-nodes-{family} out"]
        if family == "ipv4":
            lines += [f"  neighbor {n.address} route-map from-{n.name} in" for n in group.neighbors]
        else:
            lines += [f"  neighbor {name} prefix-list vips-{family} in"]
        lines += ["  ! One accepted route more ends the session, for a minute."]
        lines += [f"  neighbor {name} maximum-prefix {router.max_prefixes} restart 1"]
        if group.session.internal:
            lines += ["  ! Nodes must learn of each other.", f"  neighbor {name} route-reflector-client"]
    internal = " ibgp" if any(group.session.internal for group in router.peer_groups) else ""
    return [*lines, f"  maximum-paths{internal} {MAX_PATHS}", " exit-address-family"]


def _bfds(router: Router) -> list[BfdTimers]:
    return list(dict.fromkeys(group.session.bfd for group in router.peer_groups if group.session.bfd))


def _profile(bfd: BfdTimers) -> str:
    return f"anylb-{bfd.interval_ms}x{bfd.multiplier}"
