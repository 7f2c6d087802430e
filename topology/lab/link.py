# SPDX-License-Identifier: Apache-2.0
"""Virtual Ethernet between nodes: pairs, their offloads, flaps, and the routes that a flap must not lose.

Owns: netlink and ethtool requests about links. Does not own: which links a lab has (spec.py).

Every end has transmit checksum offload off and GRO on. Off, because a frame that XDP forwards would otherwise leave
with an unfinished checksum (containerlab switches it off too). GRO, because only an end with NAPI has the ring that its
peer's XDP program sends into (see bpf/src/forward.h).
"""

import array
import errno
import fcntl
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from topology.errors import LabError
from topology.lab import netns
from topology.lab.spec import End, Link

SIOCETHTOOL = 0x8946
ETHTOOL_STXCSUM, ETHTOOL_SGRO = 0x17, 0x2C
RTPROT_BOOT, RTPROT_STATIC = 3, 4  # set by hand; BIRD, FRR and the kernel restore their own
RT_TABLE_LOCAL = 255
IFA_F_PERMANENT = 0x80

SavedRoutes = list[dict[str, Any]]


@contextmanager
def netlink_inside(pid: int) -> Iterator[Any]:
    """Open an IPRoute in the network namespace of process `pid`; the calling thread stays there until the end.

    A refusal by the kernel that the caller does not handle becomes a LabError.
    """
    try:
        with netns.inside_net(pid), IPRoute() as ipr:
            yield ipr
    except NetlinkError as error:
        raise LabError(f"the kernel refuses a change of links or routes: {error.args[1]}") from None


def create(links: Sequence[Link], pids: Mapping[str, int]) -> None:
    """Create every pair, each end directly in its node (no name ever appears on the host). Raises LabError."""
    with IPRoute() as ipr:
        for link in links:
            ours, peer = (_attributes(end, link.mtu, pids) for end in link.ends)
            try:
                ipr.link("add", kind="veth", peer=peer, **ours)
            except NetlinkError as error:
                raise LabError(f"{link.place}: the link could not be created: {error.args[1]}") from None


def _attributes(end: End, mtu: int, pids: Mapping[str, int]) -> dict[str, Any]:
    mac = {"address": end.mac} if end.mac else {}
    return {"ifname": end.interface, "net_ns_pid": pids[end.node], "mtu": mtu, **mac}


def prepare(pid: int, interfaces: Sequence[str]) -> None:
    """Set a node's interfaces up, their transmit checksum offload off and GRO on."""
    with netns.inside_net(pid):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    with sock, netlink_inside(pid) as ipr:
        for name in interfaces:
            _ethtool(sock, name, ETHTOOL_STXCSUM, 0)
            _ethtool(sock, name, ETHTOOL_SGRO, 1)
            ipr.link("set", ifname=name, state="up")


def _ethtool(sock: socket.socket, interface: str, command: int, value: int) -> None:
    """Set one `struct ethtool_value` by ioctl (linux/ethtool.h)."""
    data = array.array("I", [command, value])
    fcntl.ioctl(sock, SIOCETHTOOL, struct.pack("16sP16x", interface.encode(), data.buffer_info()[0]))


def remove(pid: int, interface: str) -> None:
    """Delete a pair by one of its ends; no error if it is gone already."""
    with netlink_inside(pid) as ipr:
        try:
            ipr.link("del", ifname=interface)
        except NetlinkError as error:
            if error.code != errno.ENODEV:
                raise


def set_down(pid: int, interface: str) -> SavedRoutes:
    """Set an interface down; return as plain data what `set_up` must add again. Raises LabError."""
    with netlink_inside(pid) as ipr:
        index = _index(ipr, interface)
        saved: SavedRoutes = [
            {"op": "addr", "address": address.get("address"), "prefixlen": address["prefixlen"]}
            for address in ipr.get_addr(family=socket.AF_INET6, index=index)
            if address["scope"] == 0 and address.get("flags", address["flags"]) & IFA_F_PERMANENT
        ]
        for family in (socket.AF_INET, socket.AF_INET6):
            saved += [
                {"op": "route", **_route(route)}
                for route in ipr.get_routes(family=family, oif=index)
                if route["proto"] in (RTPROT_BOOT, RTPROT_STATIC) and route.get("table") != RT_TABLE_LOCAL
            ]
        ipr.link("set", index=index, state="down")
        # Routes without a gateway first: a gateway must be reachable when its route is added.
        return sorted(saved, key=lambda entry: (entry["op"] != "addr", "gateway" in entry))


def set_up(pid: int, interface: str, saved: SavedRoutes) -> None:
    """Set an interface up and add again what `set_down` saved. Raises LabError."""
    with netlink_inside(pid) as ipr:
        index = _index(ipr, interface)
        ipr.link("set", index=index, state="up")
        for entry in saved:
            arguments = {key: value for key, value in entry.items() if key != "op"}
            try:
                if entry["op"] == "addr":
                    ipr.addr("add", index=index, **arguments)
                else:
                    ipr.route("add", oif=index, **arguments)
            except NetlinkError as error:
                if error.code != errno.EEXIST:  # a daemon was faster
                    raise LabError(f"{interface}: {entry} could not be added again: {error.args[1]}") from None


def _index(ipr: Any, interface: str) -> int:
    found: list[int] = ipr.link_lookup(ifname=interface)
    if not found:
        raise LabError(f"no interface {interface}")
    return found[0]


def _route(route: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {key: route[key] for key in ("family", "proto", "scope", "type", "tos")}
    arguments["dst"] = f"{route.get('dst') or ('::' if route['family'] == socket.AF_INET6 else '0.0.0.0')}"  # noqa: S104
    arguments["dst_len"] = route["dst_len"]
    for key in ("gateway", "prefsrc", "priority", "table"):
        if (value := route.get(key)) is not None:
            arguments[key] = value
    if metrics := route.get("metrics"):
        arguments["metrics"] = {name.removeprefix("RTAX_").lower(): value for name, value in metrics["attrs"]}
    return arguments


def interfaces(pid: int) -> list[dict[str, Any]]:
    """Return a node's interfaces as data: name, mac, mtu, up, addresses."""
    with netlink_inside(pid) as ipr:
        addresses: dict[int, list[str]] = {}
        for address in ipr.get_addr():
            own = address.get("local") or address.get("address")
            addresses.setdefault(address["index"], []).append(f"{own}/{address['prefixlen']}")
        return [
            {
                "name": link.get("ifname"),
                "mac": link.get("address"),
                "mtu": link.get("mtu"),
                "up": bool(link["flags"] & 1),
                "addresses": addresses.get(link["index"], []),
            }
            for link in ipr.get_links()
        ]
