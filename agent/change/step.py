# SPDX-License-Identifier: Apache-2.0
"""A change as ordered steps for people: what happens, in which order, and what connections it costs. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from agent.address import endpoint
from agent.change.difference import Change
from agent.config.epoch import supported_epochs
from agent.config.schema import Config
from agent.config.service import ServiceConfig


@dataclass(frozen=True, slots=True)
class Step:
    """One step. A `warning` is one that costs connections, or that other nodes must take too."""

    text: str
    warning: bool = False


def steps(
    old: Config, new: Config, changes: Sequence[Change], held: Mapping[str, int], ending: str | None = None
) -> tuple[Step, ...]:
    """Return what applying `new` does, in order.

    `held`: the connections of clients on this node, of NAT services the sessions, by service name. `ending`: which
    sessions end altogether, and how they would not, as a line; None if they go on.
    """
    if not changes:
        return ()
    return (
        Step("check lb.yml and the files that it names on this node, and ExaBGP's part by ExaBGP"),
        Step(_data_path(old, new)),
        *((Step(ending, warning=True),) if ending else ()),
        *_removed(old, new, held),
        *_services(old, new, changes, held),
        *_rest(changes),
        *_peers(old, new, changes),
        *(Step(f"announce {vip}, once a server is healthy") for vip in new.vips if vip not in old.vips),
        *_cluster(old, new),
    )


def _data_path(old: Config, new: Config) -> str:
    if new.xdp.mode == "off":
        return "remove the data path: xdp.mode is off" if old.xdp.mode != "off" else "start the next agent"
    shape_differs = (old.node.names, old.xdp, _shape(old)) != (new.node.names, new.xdp, _shape(new))
    if shape_differs:
        return f"attach the data path for the new settings on {', '.join(new.node.names)}, then start the next agent"
    return "start the next agent on the data path that runs; routes stay with the relay, connections in the kernel"


def _shape(config: Config) -> tuple[object, ...]:
    nat = config.nat
    return max(one.rows for one in supported_epochs(config)), nat and (config.session_slots, nat.pool6 is None)


def _removed(old: Config, new: Config, held: Mapping[str, int]) -> Iterable[Step]:
    """Yield a step for each service that clients can no longer reach."""
    keys = {service.key for service in new.services}
    for service in old.services:
        if service.key in keys:
            continue
        if service.vip not in new.vips:
            text = f"withdraw {service.vip}, and remove {_named(service)}"
        else:
            text = f"remove {_named(service)}"
        if count := held.get(service.name, 0):
            lose = f"{_counted(count, service)} on this node end{'' if count != 1 else 's'}"
            text += f": {lose}; to let them finish first, `lbctl drain --wait` before the change"
        yield Step(text, count > 0)


def _counted(count: int, service: ServiceConfig) -> str:
    noun = "session" if service.mode == "nat" else "connection"
    return f"{count:,} {noun}{'s' if count != 1 else ''}"


def _services(old: Config, new: Config, changes: Sequence[Change], held: Mapping[str, int]) -> Iterable[Step]:
    before = {service.key: service for service in old.services}
    for service in new.services:
        if service.key not in before:
            yield Step(f"add {_named(service)}: its table and its health check{_on_lo(old, new, service)}")
        prefix = f"services[{service.name}]"
        settings = [c.text[2:].removeprefix(f"{prefix}.") for c in changes if c.path.startswith(f"{prefix}.")]
        if settings and (was := before.get(service.key)) is not None:
            cost = _moved(was, service, held.get(was.name, 0))
            yield Step(f"set {service.name}: {', '.join(settings)}{cost}", bool(cost))


def _moved(old: ServiceConfig, new: ServiceConfig, count: int) -> str:
    """Return what a change of what decides a service's rows costs, to follow its settings; empty if it costs nothing.

    Rows of a NAT service are those of all sessions. Other nodes may hold connections where this one has none.
    """
    if old.mode != new.mode:
        return f": {_counted(count, old)} on this node end, and those on others: give another VIP to a new service"
    if old.mode == "nat" or (old.affinity, old.hash) == (new.affinity, new.hash):
        return ""
    at_risk = f"{_counted(count, old)} on this node may break, and those on others"
    return f": its rows move, {at_risk}; change it while there is none, or give the new values to a new service"


def _on_lo(old: Config, new: Config, service: ServiceConfig) -> str:
    return f", {service.vip} on lo" if service.vip in new.local_vips and service.vip not in old.local_vips else ""


def _rest(changes: Sequence[Change]) -> Iterable[Step]:
    """Yield the settings that belong neither to a service nor to BGP."""
    for change in changes:
        if not change.path.startswith(("services[", "bgp.")):
            yield Step(f"set {change.text[2:]}" if change.kind == "changed" else f"{change.kind}: {change.text[2:]}")


def _peers(old: Config, new: Config, changes: Sequence[Change]) -> Iterable[Step]:
    before, after = ({str(peer.address): peer for peer in config.bgp.peers} for config in (old, new))
    all_reset = (old.bgp.local_as, old.bgp.router_id) != (new.bgp.local_as, new.bgp.router_id)
    touched = {name for name in before if any(c.path.startswith(f"bgp.peers[{name}].") for c in changes)}
    kept = []
    for name in after:
        if name not in before:
            yield Step(f"ExaBGP: begin the session to {name}")
        elif all_reset or name in touched:
            what = [c.text[2:].partition("].")[2] for c in changes if c.path.startswith(f"bgp.peers[{name}].")]
            why = ", ".join(what) or "local_as or router_id"
            yield Step(f"ExaBGP: reset the session to {name} ({why})", warning=True)
        else:
            kept.append(name)
    for name in before:
        if name not in after:
            yield Step(f"ExaBGP: end the session to {name}", warning=True)
    if kept:
        yield Step(
            f"ExaBGP: the session{'s' if len(kept) > 1 else ''} to {', '.join(kept)} stay{'' if len(kept) > 1 else 's'}"
        )


def _cluster(old: Config, new: Config) -> Iterable[Step]:
    """Yield what the other nodes must do too."""
    before, after = (supported_epochs(config) for config in (old, new))
    if not {one.number for one in before} & {one.number for one in after}:
        same = (old.table, old.hash_key, old.nat) == (new.table, new.hash_key, new.nat)  # `previous` covers these alone
        instead = "let no node join or leave meanwhile" if same else "give table.previous to avoid that"
        yield Step(f"new connections may break until it is applied on every other node: {instead}", warning=True)
    elif {service.key for service in old.services} != {service.key for service in new.services}:
        yield Step("then apply it on every other node: all have the same services")


def _named(service: ServiceConfig) -> str:
    return f"{service.name} ({endpoint(service.vip, service.port)}/{service.protocol})"
