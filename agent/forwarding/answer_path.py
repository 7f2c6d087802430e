# SPDX-License-Identifier: Apache-2.0
"""What is wrong with the path of this node's packets to and from clients, though its services are healthy. Pure.

A health check runs from VIP to VIP on lo. It does not see that the route of answers is gone, that their next hop is
silent, or that the kernel drops what clients send between XDP and the socket. The facts are answer_monitor.py's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address
from typing import Final

from agent.address import Address, Network
from agent.config.schema import Config
from agent.problem import Problem, ProblemLine

SETTLE_S: Final = 1.5
"""How long a fault must last: a DHCP client or an operator removes what it sets again, and ARP takes its time."""
_SHOWN: Final = 3
"""VIPs named in a line: a node may have 250."""

LOST = Problem(
    "{cause}, so {some}packets of {vips} are lost",
    "{step}",
    "The cause is one of the next five. Where another node serves the VIP, this one withdraws it; `some`: one of "
    "several next hops is lost.",
)
OWN_ADDRESS_GONE = Problem(
    "this node's address {address} is gone ({interface} has {there})",
    "give it back, or restart lb-bgp and then lb-agent to use another",
    "Other nodes and routers know the node by this address. A DHCP lease that ended, or an operator, removed it.",
)
VIP_GONE = Problem(
    "{vip} is not on lo",
    "the agent puts it back; if it does not, see the other problems and the agent's log",
    "Without it the kernel does not take packets to the VIP for its own.",
)
NO_ROUTE = Problem(
    "there is no route to clients in {clients}",
    "add it again (an interface that goes down takes it along), or list where clients are, node.clients",
    "Requests arrive, and answers have no path. A health check does not notice: it runs on this machine.",
)
NO_NEXT_HOP = Problem(
    "{router} on {interface}, the next hop to clients in {clients}, does not answer",
    "see whether that router is up, and whether the route is right",
    "It does not answer ARP or neighbor discovery, so answers to clients are lost.",
)
STRICT_FILTER = Problem(
    "rp_filter is 1 on {strict}, but answers to clients in {clients} leave by {egress}",
    "set net.ipv4.conf.{first}.rp_filter to 2, or node.rp_filter to loose",
    "The kernel drops a request whose answer would leave by another interface (RFC 3704, strict mode).",
)


@dataclass(frozen=True, slots=True)
class PathLeg:
    """A next hop of the route of answers. `interface` is empty if the kernel does not list it."""

    interface: str
    gateway: Address | None
    resolved: bool
    """Its MAC is known, or it needs none."""
    failed: bool = False
    """The kernel has asked it for seconds."""


@dataclass(frozen=True, slots=True)
class PathFacts:
    """What the kernel has on the path of this node's packets to and from clients."""

    addresses: frozenset[Address]
    """The addresses of all interfaces."""
    own: tuple[Address, ...]
    """Of the node's first interface."""
    legs: Mapping[tuple[Address, Network], tuple[PathLeg, ...]]
    """The route of answers of each VIP to each prefix of clients; empty if there is none."""
    receivers: Mapping[str, frozenset[str]]
    """The interfaces by which the kernel receives what arrives on an uplink: itself, VLAN devices, or its bond."""
    strict: frozenset[str]
    """The interfaces that drop a packet whose sender has no route by the same interface (rp_filter is 1)."""


@dataclass(frozen=True, slots=True)
class PathFault:
    """A fault, and the VIPs whose packets are lost by it."""

    cause: str
    step: str
    vips: tuple[Address, ...]
    blocks: bool = True
    """All packets are lost, not only those of some clients."""
    known_at_once: bool = True
    """It is no transient state of a node that starts."""
    settled: bool = False
    """It has lasted when it is first seen."""
    setting: str = ""
    """The field of lb.yml that is about it; "" if none is."""

    @property
    def line(self) -> ProblemLine:
        """The problem as one line."""
        more = len(self.vips) - _SHOWN
        names = ", ".join(map(str, self.vips[:_SHOWN])) + (f" and {more} more" if more > 0 else "")
        return LOST.line(cause=self.cause, some="" if self.blocks else "some ", vips=names, step=self.step)


@dataclass(frozen=True, slots=True)
class Settling:
    """Since when each fault lasts, by its cause: CLOCK_MONOTONIC seconds."""

    faults: tuple[PathFault, ...] = ()
    since: Mapping[str, float] = field(default_factory=dict)

    def after(self, found: tuple[PathFault, ...], now: float) -> Settling:
        """Return the state after one more look."""
        since = {one.cause: self.since.get(one.cause, now) for one in found}
        return Settling(found, since | {one.cause: now - SETTLE_S for one in found if one.settled})

    @staticmethod
    def first(found: tuple[PathFault, ...], now: float) -> Settling:
        """Return the state after the first look: what is missing then has been for long, and nothing is announced."""
        return Settling(found, {one.cause: now - SETTLE_S if one.known_at_once else now for one in found})

    def settled(self, now: float) -> tuple[PathFault, ...]:
        """Return the faults that have lasted."""
        return tuple(one for one in self.faults if now >= self.since[one.cause] + SETTLE_S)

    def next_at(self, now: float) -> float:
        """Return when time alone settles the next fault; infinity if it does not."""
        return min((at + SETTLE_S for at in self.since.values() if at + SETTLE_S > now), default=float("inf"))


def path_faults(config: Config, own: Address, facts: PathFacts) -> tuple[PathFault, ...]:
    """Return the faults of all VIPs, each cause once. `own`: the address that this node uses as its own."""
    found: dict[str, PathFault] = {}
    for vip in config.vips:
        for one in _of_vip(config, own, vip, facts):
            before = found.get(one.cause)
            found[one.cause] = one if before is None else _with_vips(before, one.vips)
    return tuple(found.values())


def _with_vips(fault: PathFault, vips: tuple[Address, ...]) -> PathFault:
    return replace(fault, vips=fault.vips + vips)


def _of_vip(config: Config, own: Address, vip: Address, facts: PathFacts) -> Iterator[PathFault]:
    if own not in facts.addresses:
        there = ", ".join(map(str, facts.own)) or "no address"
        parts = OWN_ADDRESS_GONE.parts(address=own, interface=config.node.names[0], there=there)
        yield PathFault(*parts, (vip,))
        return
    if vip in config.local_vips and vip not in facts.addresses:
        yield PathFault(*VIP_GONE.parts(vip=vip), (vip,), known_at_once=False)
        return
    for clients in config.node.client_prefixes(vip.version):
        legs = facts.legs.get((vip, clients), ())
        if not legs:
            yield PathFault(*NO_ROUTE.parts(clients=clients), (vip,), setting="node.clients")
            continue
        yield from _unresolved(vip, clients, legs)
        if isinstance(vip, IPv4Address) and vip in config.local_vips:
            yield from _filtered(vip, clients, legs, facts)


def _unresolved(vip: Address, clients: Network, legs: tuple[PathLeg, ...]) -> Iterator[PathFault]:
    silent = [leg for leg in legs if not leg.resolved]
    for leg in silent:
        parts = NO_NEXT_HOP.parts(router=leg.gateway, interface=leg.interface, clients=clients)
        blocks = len(silent) == len(legs)
        yield PathFault(*parts, (vip,), blocks, known_at_once=False, settled=leg.failed)


def _filtered(vip: Address, clients: Network, legs: tuple[PathLeg, ...], facts: PathFacts) -> Iterator[PathFault]:
    egress = {leg.interface for leg in legs}
    for receivers in facts.receivers.values():
        strict = sorted(receivers & facts.strict)
        if strict and not egress & (receivers | {""}):
            parts = STRICT_FILTER.parts(
                strict=", ".join(strict), clients=clients, egress=", ".join(sorted(egress)), first=strict[0]
            )
            yield PathFault(*parts, (vip,), setting="node.rp_filter")
