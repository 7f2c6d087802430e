# SPDX-License-Identifier: Apache-2.0
"""A model of ExaBGP for tests of the relay's reconciler: it answers commands, and this module builds its events.

Also the routes that those tests use: one VIP of each family, this node's identity, and a learned identity.
"""

import json
from ipaddress import ip_network

from bgp.relay.allowlist import ANY
from bgp.relay.reconciler import Reconciler
from bgp.route import Route

PEER, OTHER, INTERNAL = "10.0.0.1", "10.0.0.2", "10.0.0.3"
LOCAL_ADDRESS = "10.0.5.11"
VIP = Route.of("10.99.0.1/32", "10.0.0.11")
VIP6 = Route.of("2001:db8::1/128", "2001:db8::b")
IDENTITY = Route.of("10.254.0.11/32", "10.0.0.11", [[65001, 1, 1]])
DRAINING = Route.of("10.254.0.11/32", "10.0.0.11", [[65001, 1, 2]])
LEARNED = Route.of("10.254.0.12/32", "10.0.0.12", [[65001, 1, 3]], [65000, 65001])
ALLOWED = [ip_network("10.99.0.0/16"), ip_network("10.254.0.11"), ip_network("2001:db8::/32")]


class ExaBGPModel:
    """A model of ExaBGP: its Adj-RIB-Out by neighbor, and its answers to commands.

    It answers a command in `refused` with error, and one in `ignored` with done and without effect. `local_as` and
    `families` may differ by neighbor; a route of another family gets `done` and is not advertised.
    """

    def __init__(self, announced=(), learned=(), up=(PEER,), peers=(PEER,)):
        self.adj_rib_out = {peer: {route.prefix: route for route in announced} for peer in peers}
        self.learned = list(learned)
        self.up = set(up)
        self.local_as, self.families = dict.fromkeys(peers, 65001), dict.fromkeys(peers, ("ipv4", "ipv6"))
        self.negotiated = {}
        self.refused, self.ignored, self.received = set(), set(), []

    @property
    def peers(self):
        return tuple(self.adj_rib_out)

    @property
    def announced(self):
        """The Adj-RIB-Out of the first neighbor."""
        return self.adj_rib_out[self.peers[0]]

    def answer(self, command):
        self.received.append(command)
        match command.split():
            case ["reset"]:
                return []
            case ["version"]:
                return ["exabgp 5.0.15", "done"]
            case ["show", "neighbor", "json"]:
                statuses = [
                    neighbor_status(p, p in self.up, self.local_as[p], self.families[p], self.negotiated.get(p))
                    for p in self.adj_rib_out
                ]
                return [json.dumps(statuses), "done"]
            case ["show", "adj-rib", "in", "json"]:
                return [*(listed_route(p, route) for p in self.adj_rib_out for route in self.learned), "done"]
            case ["show", "adj-rib", "out", "json"]:
                routes = [(p, route) for p, by_prefix in self.adj_rib_out.items() for route in by_prefix.values()]
                return [*(listed_route(p, route) for p, route in routes), "done"]
            case ["neighbor", peer, verb, "route", prefix, "next-hop", next_hop, *rest]:
                if command in self.refused or peer not in self.adj_rib_out:
                    return ["error"]
                family = "ipv6" if ":" in prefix else "ipv4"
                if command not in self.ignored and family in self.families[peer]:
                    self.adj_rib_out[peer].pop(prefix, None)
                    if verb == "announce":
                        self.adj_rib_out[peer][prefix] = self.route(prefix, next_hop, rest)
                return ["done"]
            case ["#", "ping"]:
                return ["done"]
        raise AssertionError(command)

    @staticmethod
    def route(prefix, next_hop, tokens):
        attributes, tokens = {}, list(tokens)
        while tokens:
            name, value = tokens.pop(0), tokens.pop(0)
            if value == "[":
                value = tokens[: tokens.index("]")]
                del tokens[: len(value) + 1]
            attributes[name] = value
        numbers = {name: [list(map(int, t.split(":"))) for t in attributes.get(name, [])] for name in LISTS}
        as_path, med = [int(number) for number in attributes.get("as-path", [])], attributes.get("med")
        med = None if med is None else int(med)
        return Route.of(prefix, next_hop, numbers["large-community"], as_path, numbers["community"], med)


LISTS = ("large-community", "community")


def neighbor_status(peer, up=True, local_as=65001, families=("ipv4", "ipv6"), negotiated=None):
    names = [f"{family} unicast" for family in families]
    common = [f"{family} unicast" for family in negotiated or families]
    return {
        "fsm": "ESTABLISHED" if up else "IDLE",
        "duration": 5,
        "local": {"address": LOCAL_ADDRESS, "as": local_as, "families": dict.fromkeys(names, True)},
        "peer": {"address": peer, "as": 65000},
        "families": common if up else [],
    }


def listed_route(peer, route):
    attributes = {"large-community": [f"{a}:{b}:{c}" for a, b, c in route.large_communities]}
    attributes["community"] = [f"{a}:{b}" for a, b in route.communities]
    attributes["as-path"] = {"0": {"element": "as-sequence", "value": list(route.as_path)}}
    if route.med is not None:
        attributes["med"] = route.med
    return json.dumps(
        {
            "peer": {"address": peer},
            "route": {"nlri": {"prefix": route.prefix, "nexthop": route.next_hop}, "attributes": attributes},
        }
    )


def session_event(peer, value, reason=None):
    neighbor = {"address": {"peer": peer}, "state": value} | ({} if reason is None else {"reason": reason})
    return json.dumps({"exabgp": "5.0.0", "type": "state", "neighbor": neighbor})


def update(peer, advertised=(), withdrawn=()):
    by_next_hop = {}
    for route in advertised:
        by_next_hop.setdefault(route.next_hop, []).append({"nlri": route.prefix})
    content = {
        "attribute": {"large-community": [list(c) for route in advertised for c in route.large_communities]},
        "announce": {"ipv4 unicast": by_next_hop},
        "withdraw": {"ipv4 unicast": [{"nlri": prefix} for prefix in withdrawn]},
    }
    neighbor = {"address": {"peer": peer}, "message": {"update": content}}
    return json.dumps({"exabgp": "5.0.0", "type": "update", "neighbor": neighbor})


def end_of_rib(peer, family):
    neighbor = {"address": {"peer": peer}, "message": {"eor": {"afi": family, "safi": "unicast"}}}
    return json.dumps({"exabgp": "5.0.0", "type": "update", "neighbor": neighbor})


def converse(reconciler, exabgp, now):
    """Exchange commands and answers until no command is left. AssertionError for two commands at a time."""
    for _ in range(1000):
        commands = reconciler.commands()
        if not commands:
            return
        assert len(commands) == 1 or commands == ["reset", "version"]
        for command in commands:
            for line in exabgp.answer(command):
                reconciler.receive(line, now)
                if line not in ("done", "error"):
                    assert reconciler.commands() == []
    raise AssertionError("the conversation does not end")


def started(exabgp, now=0.0, learned=ANY):
    """Return a reconciler that has learned the state of `exabgp`, and learns host routes inside `learned`."""
    reconciler = Reconciler(now, ALLOWED, learned)
    converse(reconciler, exabgp, now)
    assert reconciler.ready
    return reconciler


def learned(reconciler, peer=PEER):
    """Return the routes that a snapshot shows as learned from a neighbor."""
    return {p.address: p for p in reconciler.snapshot().peers}[peer].routes
