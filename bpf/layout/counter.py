# SPDX-License-Identifier: Apache-2.0
"""What happens to packets, counted per CPU and service, and what an operator does about each counter.

Run as a program it prints the table for operators, docs/counters.md.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from bpf.layout.c_struct import CStruct


class Counter(IntEnum):
    """What happens to a packet. Order and numbers are those of lb.h's `enum counter`."""

    RX = 0
    RX_FORWARDED = 1
    RX_TUNNEL = 2
    RX_ICMP_ERROR = 3
    RX_FAR_RESET = 4
    SKIP_NO_MAC = 5
    SKIP_SILENT = 6
    SKIP_NARROW = 7
    PASS_OTHER_MAC = 8
    PASS_OTHER_VLAN = 9
    PASS_NO_SERVICE = 10
    PASS_FOREIGN_TUNNEL = 11
    DELIVER_OWNER = 12
    DELIVER_FORWARDED_SYN = 13
    DELIVER_UDP = 14
    DELIVER_FRAGMENT = 15
    DELIVER_SOCKET = 16
    DELIVER_TIME_WAIT = 17
    DELIVER_SYN_COOKIE = 18
    DELIVER_ONLY_NODE = 19
    DELIVER_CHAIN_END = 20
    DELIVER_NARROW = 21
    PASS_NO_MEMBER = 22
    FORWARD_FIRST = 23
    FORWARD_AGAIN = 24
    FORWARD_FRAGMENT = 25
    FORWARD_DELAYED = 26
    FORWARD_BACKEND = 27
    FORWARD_CLIENT = 28
    REPLY_TOO_BIG = 29
    REPLY_ECHO = 30
    REPLY_RESET = 31
    DROP_GRACE = 32
    DROP_SILENT = 33
    DROP_HOP_LIMIT = 34
    DROP_RATE_LIMIT = 35
    DROP_FRAGMENT = 36
    DROP_MALFORMED = 37
    DROP_IPV6_HEADERS = 38
    DROP_LAND = 39
    DROP_MARTIAN = 40
    DROP_DENIED = 41
    DROP_GROUP_MAC = 42
    DROP_OTHER_PROTOCOL = 43
    DROP_NO_MEMBER = 44
    DROP_TOO_BIG = 45
    DROP_NO_HEADROOM = 46
    DROP_FORGED = 47
    DROP_NAT_FULL = 48
    DROP_NAT_FOREIGN = 49
    DROP_NAT_NO_SESSION = 50
    DROP_NAT_FRAGMENT = 51
    DROP_NAT_NO_BACKEND = 52
    DROP_NAT_NO_MAC = 53
    DROP_NAT_TTL = 54


STATS_STRUCT: Final = CStruct("stats", (("count", f"{len(Counter)}Q"),))


@dataclass(frozen=True)
class Description:
    """What a counter counts (`meaning`), and what an operator does when it grows (`action`). Markdown."""

    meaning: str
    action: str


DESCRIPTIONS: Final[dict[Counter, Description]] = {
    Counter.RX: Description(
        "A packet to the service that comes straight from a router or client: this node is its ingress.",
        "None. Compare nodes to see how evenly the routers spread flows.",
    ),
    Counter.RX_FORWARDED: Description(
        "A packet to the service that another node forwarded to this one.",
        "None.",
    ),
    Counter.RX_TUNNEL: Description(
        "A packet that came in a tunnel (`forward: ipip` or `gue`), which was opened. Counted besides `rx_forwarded`.",
        "None. If it stays 0 with such a service, see `pass_foreign_tunnel` and the firewalls between the nodes.",
    ),
    Counter.RX_ICMP_ERROR: Description(
        'An ICMP error about a flow of the service, for example "too big". Counted besides `rx`.',
        "None at a low rate. A steady high rate: a link on the path to the clients has a small MTU.",
    ),
    Counter.RX_FAR_RESET: Description(
        "A RST of a NAT session whose sequence number is far from those of the session. It is sent on and does not"
        " close the session. Counted besides `rx`.",
        "None at a low rate. A steady rate: somebody who does not see the connections tries to end them.",
    ),
    Counter.SKIP_NO_MAC: Description(
        "A node of the chain is skipped because no MAC address on the route to it was ever known.",
        "Check that the node is up and answers ARP or neighbor discovery: `ip neigh`, `ip route get ADDRESS`,"
        " `lbctl status`.",
    ),
    Counter.SKIP_SILENT: Description(
        "A node of the chain is skipped because its data path does not answer this node.",
        "`lbctl status` names the silent node. Check whether it runs, whether XDP is attached there, and the network "
        "between the two.",
    ),
    Counter.SKIP_NARROW: Description(
        "A node of the chain is skipped for an IPv6 packet: the tunnel to it carries less than 1,280 bytes.",
        "Raise the MTU on the path to the node that `lbctl status` names.",
    ),
    Counter.PASS_OTHER_MAC: Description(
        "The frame is addressed to another MAC: a switch floods it. It passes to the kernel, which drops it.",
        "None at a low rate. A steady high rate: a switch does not learn a MAC; check its table and aging time.",
    ),
    Counter.PASS_OTHER_VLAN: Description(
        "The frame has the tag of a VLAN that `node.vlans` does not name.",
        "None. If clients or other nodes are behind that VLAN, add it to `node.vlans`.",
    ),
    Counter.PASS_NO_SERVICE: Description(
        "The packet is for no service: the node's own traffic, such as SSH and BGP.",
        "None. If a service's clients are counted here, compare VIP, protocol and port with `lbctl status`.",
    ),
    Counter.PASS_FOREIGN_TUNNEL: Description(
        "A tunnel to this node that no node of the cluster sent, or that carries no packet to a service.",
        "If the sender is a node, add its prefix to `members.allow`, and compare the services of both nodes. "
        "Else none.",
    ),
    Counter.DELIVER_OWNER: Description(
        "A SYN at its row's owner: a new connection, delivered here.",
        "None.",
    ),
    Counter.DELIVER_FORWARDED_SYN: Description(
        "A SYN that was forwarded to this node, which delivers it although another node owns the row.",
        "None during a change of members. If it goes on, nodes disagree: compare the epoch and digests in "
        "`lbctl status`.",
    ),
    Counter.DELIVER_UDP: Description(
        "A datagram delivered here: this node owns the row, or it was forwarded here.",
        "None.",
    ),
    Counter.DELIVER_FRAGMENT: Description(
        "A fragment delivered here: this node owns the row, or it was forwarded here.",
        "None.",
    ),
    Counter.DELIVER_SOCKET: Description(
        "This node has the flow's socket: established, SYN-RECV, or connected UDP.",
        "None. These are the packets of open connections.",
    ),
    Counter.DELIVER_TIME_WAIT: Description(
        "This node has a TIME-WAIT socket of the flow.",
        "None.",
    ),
    Counter.DELIVER_SYN_COOKIE: Description(
        "The packet answers a SYN cookie of this node.",
        "None. The kernel sends SYN cookies only when the listen backlog is full: a SYN flood, or a server "
        "that accepts too slowly.",
    ),
    Counter.DELIVER_ONLY_NODE: Description(
        "This node is the only one in the row's chain, so it gets the packet.",
        "None in a cluster of one member. Else check why the other members are not up: `lbctl status`.",
    ),
    Counter.DELIVER_CHAIN_END: Description(
        "No node of the chain has the connection. The kernel answers with a reset.",
        "None at a low rate: scans, and packets of connections that are closed. A peak after a change: "
        "connections were lost; `lbctl explain TUPLE --live` shows where and why.",
    ),
    Counter.DELIVER_NARROW: Description(
        "A new IPv6 flow is taken here: the tunnels to the nodes that are left to try carry less than 1,280 bytes.",
        "Raise the MTU on the path to the nodes that `lbctl status` names: until then a change of routes breaks such "
        "connections.",
    ),
    Counter.PASS_NO_MEMBER: Description(
        "The row is empty: the service has no member. The packet passes to the kernel, which may answer with a reset.",
        "Check the health of the service on all nodes: `lbctl status`.",
    ),
    Counter.FORWARD_FIRST: Description(
        "The packet is sent to the next node of its chain, from the ingress (hop 1).",
        "None.",
    ),
    Counter.FORWARD_AGAIN: Description(
        "The packet is sent on with hop 2 or more: an earlier owner of the row is looked for.",
        "None after a change of members. If it goes on, nodes disagree: compare the epoch and digests in "
        "`lbctl status`.",
    ),
    Counter.FORWARD_FRAGMENT: Description(
        "A fragment is sent to the node that collects this client's fragments: only the first of a packet has ports.",
        "None. Many of them cost a second forward each: clients whose datagrams are larger than the path MTU.",
    ),
    Counter.FORWARD_DELAYED: Description(
        "A fragment came before the first of its packet, and goes to another node and back to wait for it.",
        "None at a low rate. Else routers send fragments of one packet on different paths, or it is a flood of later "
        "fragments.",
    ),
    Counter.FORWARD_BACKEND: Description(
        "A client's packet of a service of mode nat, sent to its session's backend.",
        "None.",
    ),
    Counter.FORWARD_CLIENT: Description(
        "A backend's packet of a service of mode nat, sent to its session's client.",
        "None.",
    ),
    Counter.REPLY_TOO_BIG: Description(
        'The packet does not fit into the tunnel. Its client gets ICMP "too big".',
        "Raise the MTU between the nodes. TCP should not meet this: see the egress filter in `lbctl status`.",
    ),
    Counter.REPLY_ECHO: Description(
        "Another node asked whether the data path of this node is alive, and the program answered.",
        "None: about 20 a second from all nodes together. If it stays 0, check that UDP to `members.port` gets here.",
    ),
    Counter.REPLY_RESET: Description(
        "A segment to a service of mode nat whose session no node has. It is answered with a RST.",
        "None at a low rate: scans, and packets of sessions that ended. A peak after a change: sessions were lost.",
    ),
    Counter.DROP_GRACE: Description(
        "No node has the connection, but the row changed a moment ago. TCP sends the packet again.",
        "It ends 10 s after the last change, 120 s after the first at most. If it goes on, members flap: see `lbctl "
        "status` and the log.",
    ),
    Counter.DROP_SILENT: Description(
        "No node that answers has the connection, but a node of the chain fell silent a short time ago and may still "
        "hold it. TCP sends the packet again.",
        "Bring the silent node back, or wait: after that time clients get a reset. `lbctl status` names the node.",
    ),
    Counter.DROP_HOP_LIMIT: Description(
        "The packet was forwarded 10 times: nodes disagree on the chain.",
        "None for a few packets after a change. Else compare the epoch and digests of all nodes in `lbctl status`.",
    ),
    Counter.DROP_RATE_LIMIT: Description(
        "More forwards with hop 2 or more than one CPU may send: 200,000 a second.",
        "Look for a flood of packets without connections, and block its sources: `lbctl deny add PREFIX`.",
    ),
    Counter.DROP_FRAGMENT: Description(
        "A fragment whose flow is unknown: the first fragment of its packet did not come, or more than a second ago. "
        "Or the first fragment of an ICMP error.",
        "None at a low rate: losses. Else a flood of later fragments: `lbctl deny add PREFIX`.",
    ),
    Counter.DROP_MALFORMED: Description(
        "Lengths or flags in the headers contradict each other.",
        "None: broken or hostile senders.",
    ),
    Counter.DROP_IPV6_HEADERS: Description(
        "Too many IPv6 extension headers (more than 6, or 1,023 bytes), or a routing header that is not used up.",
        "None: rare clients, or hostile ones.",
    ),
    Counter.DROP_LAND: Description(
        "The source address is the VIP itself (LAND attack).",
        "Filter spoofed sources at the network edge.",
    ),
    Counter.DROP_MARTIAN: Description(
        "The source is an address that no client can have: loopback, link-local, multicast, reserved. ICMP errors "
        "about a flow of the service are not judged by it: they come from routers.",
        "Filter spoofed sources at the network edge.",
    ),
    Counter.DROP_DENIED: Description(
        "The source is in a prefix of the deny list.",
        "None: `lbctl deny list` shows the prefixes.",
    ),
    Counter.DROP_GROUP_MAC: Description(
        "A packet to a VIP in a frame to a broadcast or multicast MAC: every node of the segment gets it, and each "
        "would answer.",
        "Find the sender by the frame's source MAC: `tcpdump -eni INTERFACE ether multicast and host VIP`.",
    ),
    Counter.DROP_OTHER_PROTOCOL: Description(
        "The packet to the VIP is neither TCP, UDP nor ICMP, and the configuration has `other_protocols: drop`.",
        "None. If a program on the nodes needs them (IPsec, SCTP, GRE), set `other_protocols: pass`.",
    ),
    Counter.DROP_NO_MEMBER: Description(
        "The row is empty, and the service has `when_no_member: drop`.",
        "Check the health of the service on all nodes: `lbctl status`.",
    ),
    Counter.DROP_TOO_BIG: Description(
        "The packet does not fit into the tunnel, and no ICMP could be sent, or too many were sent already.",
        "Raise the MTU between the nodes; see `reply_too_big`.",
    ),
    Counter.DROP_NO_HEADROOM: Description(
        "The interface's driver leaves no room in front of the frame for the tunnel's header.",
        "Set `xdp.mode: generic` on this node, or use `forward: l2`.",
    ),
    Counter.DROP_FORGED: Description(
        "A process of this node sent another node what only the program may send: a tunnel to UDP port 6080, IP in IP "
        "around a packet for a VIP, or a frame from a marker MAC.",
        "Find the process: it can open connections from any client's address. `tcpdump -ni any udp port 6080` shows "
        "its packets before they are dropped.",
    ),
    Counter.DROP_NAT_FULL: Description(
        "A new session finds no room in its two buckets, or only half-open ones.",
        "Look for a flood of SYNs: `lbctl deny add PREFIX`. Without one, raise `nat.sessions`, which "
        "takes a larger pool.",
    ),
    Counter.DROP_NAT_FOREIGN: Description(
        "A packet to a NAT address that belongs to no session, and no node is left to try.",
        "None at a low rate: late packets of backends, and scans of the pool. After a change of members: sessions "
        "were lost.",
    ),
    Counter.DROP_NAT_NO_SESSION: Description(
        "A client's packet to a service of mode nat without a session, and it cannot be answered with a RST.",
        "None at a low rate.",
    ),
    Counter.DROP_NAT_FRAGMENT: Description(
        "A fragment to a service of mode nat, or to a NAT address: fragments are not translated.",
        "Lower the MTU or the datagrams of the senders; with TCP, check the MSS.",
    ),
    Counter.DROP_NAT_NO_BACKEND: Description(
        "A new session, but no backend of the service takes new ones.",
        "Check the backends' health: `lbctl status`.",
    ),
    Counter.DROP_NAT_NO_MAC: Description(
        "The next hop to the backend, or to the client, has no MAC address that is known.",
        "Check the route and the neighbor: `ip route get ADDRESS`, `ip neigh`.",
    ),
    Counter.DROP_NAT_TTL: Description(
        "The packet's TTL or hop limit would be 0 after this node.",
        "None at a low rate: traceroute. Else look for a routing loop between the nodes and the backends.",
    ),
}

_PREFIXES: Final = {
    "rx": "How a packet came in; counted besides its verdict.",
    "skip": "What it met on its route; counted besides its verdict.",
    "pass": "Passed to the kernel unmodified.",
    "deliver": "Delivered to this node's server, by the kernel.",
    "forward": "Sent to another node, or by NAT to the other end of the session.",
    "reply": "Answered by the program, to the sender.",
    "drop": "Dropped.",
}
_COMMAND: Final = "python -m bpf.layout.counter > docs/counters.md"


def render() -> str:
    """Return docs/counters.md: the counters in a table for each prefix."""
    lines = [
        f"<!-- Made by: {_COMMAND} -->",
        "# Counters",
        "",
        "`lbctl status -o json` shows these counters for each service, and once for packets that belong to no service.",
        "Every packet ends in exactly one of them; its prefix is the verdict. `rx` and `skip` come on top.",
    ]
    for prefix, heading in _PREFIXES.items():
        lines += ["", f"## {prefix}", "", heading, "", "| counter | meaning | what to do |", "|---|---|---|"]
        for counter, description in DESCRIPTIONS.items():
            name = counter.name.lower()
            if name.split("_")[0] == prefix:
                lines.append(f"| `{name}` | {description.meaning} | {description.action} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(render(), end="")
