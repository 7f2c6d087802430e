# SPDX-License-Identifier: Apache-2.0
"""The instances of one port: found, taken up, chosen among. keeper.py has the loop and the operator's requests.

Services of one port share a pool, since a server may listen on all addresses. `look` blocks: it reads /proc.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from agent.address import endpoint
from agent.config.instances import InstancesConfig, Target
from agent.config.service import ServiceConfig
from agent.instances import processes as proc
from agent.instances.choice import Decision, Instance, cpus_of, decide
from agent.instances.finder import (
    Place,
    find_instances,
    in_this_namespace,
    listeners_of_systemd,
    places_of,
    resolved,
)
from agent.instances.group import GroupKey
from agent.instances.match import Found, ProcessId, name_numbered
from agent.instances.record import Record
from agent.instances.steering import ServiceSteering, serves
from agent.instances.taken import TakenListeners
from agent.model import Listener, Port
from agent.problem import Problem, ProblemLine
from bpf.errors import BpfError

log = logging.getLogger("anylb")

RESCAN_S = 30.0
"""How often processes are looked at although no listener has come or gone."""
SOON_S = 1.0
"""The same while something is not as it should be."""
PATIENCE_S = 2.0
"""How long a listener may belong to no instance before that is a problem: a pidfile is written after its server
listens."""

OF_SERVICE = Problem("{service}: {line}", "", "One of the lines of this part, about the instances of a service.")
KERNEL_REFUSED = Problem(
    "{error}",
    "the agent tries again within seconds; `lbctl doctor` looks at what it needs",
    "The kernel refused the program or a map by which connections are given to instances. Its last choice is in force.",
)
UNSEEN = Problem(
    "instances cannot be looked for: {error}",
    "the agent tries again within seconds; raise LimitNOFILE= in its unit if it lacks files",
    "The last choice among instances is in force.",
)
SEVERAL_PORTS = Problem(
    "its instances listen on several ports, {ports}",
    "set steer to ADDRESS:PORT",
    "`steer: auto` follows instances on one port that is not the service's, and there are more.",
)
NO_INSTANCE = Problem(
    "a process that is no instance listens on {where} too, and gets connections only if no instance does",
    "`ss -lnp --{protocol} sport = :{port}` shows it: add it to instances.match, or end it",
    "Often a server from before a deployment that has not ended.",
)


class Pool:
    """What is known of a port's instances. `record` is what the next agent must know."""

    def __init__(
        self,
        services: Sequence[ServiceConfig],
        record: Record,
        steering: ServiceSteering,
        pins: Path,
        cache_dir: Path | None,
    ) -> None:
        assert services[0].instances is not None
        self.config: InstancesConfig = services[0].instances
        steer = services[0].steer
        self.automatic = steer == "auto"
        """Whether it must be found where the instances listen."""
        number = steer.port if isinstance(steer, Target) else 0 if self.automatic else services[0].port_number
        self.port = Port(services[0].protocol, number)
        """Where its listeners are; number 0: on any."""
        self.name = services[0].pool
        self.services = tuple(service.name for service in services)
        self.record = record
        self.instances: tuple[Instance, ...] = ()
        """In order, the primary first."""
        self.decision = Decision()
        self.problems: tuple[ProblemLine, ...] = ()
        self._services = services
        self._taken = TakenListeners(services, steering, pins, cache_dir)
        self._taken.cpus = dict(record.cpus)
        self._matches = [resolved(match) for match in self.config.match]
        self._seen: frozenset[Listener] | None = None
        self._changed_at = 0.0
        self._unowned_since: dict[int, float] = {}
        self._idle: frozenset[int] = frozenset()
        """The listeners of socket units whose service does not run, by inode."""
        self._next_look = 0.0
        self._open = threading.Lock()
        """Held by a look: its thread goes on when the task that waits for it is canceled."""
        self._closed = False

    @property
    def groups(self) -> tuple[Port, bool]:
        """The port of its listeners, as far as that is known, and whether they are steered (group.release_groups)."""
        port = Port(self.port.protocol, self.record.port or 0) if self.automatic else self.port
        return port, self._taken.are_steered

    def needs_look(self, listeners: frozenset[Listener], now: float) -> bool:
        """Return whether a listener has come or gone, or processes must be looked at again."""
        return listeners != self._seen or now >= self._next_look

    def look(self, listeners: frozenset[Listener], now: float) -> None:
        """Find the instances of these listeners of the port, take up new ones, and choose. Raises nothing."""
        with self._open:
            if not self._closed:
                self._look(listeners, now)

    def hand_over(
        self, copies: Mapping[int, socket.socket], giver: ProcessId, listeners: frozenset[Listener], now: float
    ) -> str | None:
        """Take copies of listeners, by cookie, from a process; return its instance's name, None if it is none."""
        before = self.record.handed
        self.record = replace(self.record, handed={**before, **dict.fromkeys(copies, giver)})
        self._taken.handed = copies
        try:
            self.look(listeners, now)
        finally:
            self._taken.handed = {}
        name = next((one.name for one in self.instances if giver.pid in one.pids and one.cookies & copies.keys()), None)
        if name is None:
            self.record = replace(self.record, handed=before)
        return name

    def _look(self, listeners: frozenset[Listener], now: float) -> None:
        if listeners != self._seen:
            self._seen, self._changed_at = listeners, now
        own = {one.inode: one for one in listeners if any(serves(each, one) for each in self._services)}
        problems: list[ProblemLine] = []
        try:
            self._taken.open_existing()
            found = self._find(problems)
            places = places_of(found, own, self.record.handed, problems)
            if self.automatic:
                own = self._on_one_port(own, places, problems)
                places = {inode: place for inode, place in places.items() if inode in own}
            names = self._names(found, places)
            self._taken.take_up(own, places, names, problems)
            self._keep_what_is_owned({own[inode].cookie for inode in places})
            self._set_instances(found, own, places, names)
            self.choose()
        except BpfError as error:
            problems.append(KERNEL_REFUSED.line(error=error))
        except OSError as error:
            problems.append(UNSEEN.line(error=error.strerror or error))
        if not self.automatic:
            problems += self._unowned(own, now)
        # Of all listeners of a node, most belong to no instance: a new one may be of one whose pidfile follows.
        waits = self.automatic and now < self._changed_at + PATIENCE_S
        soon = problems or self._unowned_since or self._idle or waits
        self._next_look = now + (SOON_S if soon else RESCAN_S)
        self.problems = tuple(OF_SERVICE.line(service=self.services[0], line=line) for line in dict.fromkeys(problems))

    def choose(self) -> None:
        """Choose among the instances as they were found last, and write it. Raises BpfError."""
        operator, before = self.record.operator, self.record.active
        decision = decide(self.config, self.instances, operator, before)
        active = decision.active or before
        if active is None or active.name != operator.preferred:
            operator = replace(operator, preferred=None)  # it is gone: the order decides again
        self._taken.choose(decision.shares)
        self.decision = decision  # what `lbctl instance list` shows is in force
        if self.config.policy == "standby" and active and (before is None or active.name != before.name):
            log.info("%s: new connections go to instance %s", self.services[0], active.name)
        self.record = replace(self.record, operator=operator, active=active)

    def reach(self, instance: Instance, port: int) -> contextlib.AbstractContextManager[None]:
        """Have a connection of this node to itself from a source port reach an instance. Raises OSError."""
        return self._taken.reach(instance, port)

    def judge(self, healthy: Mapping[str, bool]) -> None:
        """Choose again with the health of instances, by name. Raises BpfError."""
        self.instances = tuple(replace(one, healthy=healthy.get(one.name)) for one in self.instances)
        self.choose()

    def keep_pinned(self) -> bool:
        """Pin again what has lost its pin; return whether anything had. Raises BpfError."""
        return self._taken.keep_pinned()

    def close(self) -> None:
        """Close the descriptors, after a look that is under way; the choice stays in force."""
        with self._open:
            self._closed = True
            self._taken.close()

    # --- finding ---------------------------------------------------------------------------------------------------

    def _find(self, problems: list[ProblemLine]) -> list[Found]:
        found = find_instances(self._matches, self.record.added, problems)
        here = in_this_namespace(found, problems)
        live = {one.id for one in found}
        self.record = replace(self.record, added=tuple(one for one in self.record.added if one.process in live))
        return here

    def _on_one_port(
        self, own: dict[int, Listener], places: Mapping[int, Place], problems: list[ProblemLine]
    ) -> dict[int, Listener]:
        """Return the listeners that instances have on the one port that they have, of those on any port."""
        ports = sorted({own[inode].port.number for inode in places})
        if len(ports) > 1:
            listed = ", ".join(map(str, ports))
            problems.append(SEVERAL_PORTS.line(ports=listed))
        if self.record.port not in ports and len(ports) != 1:
            return {}
        number = self.record.port if self.record.port in ports else ports[0]
        self.record = replace(self.record, port=number)
        return {inode: one for inode, one in own.items() if inode in places and one.port.number == number}

    def _names(self, found: Iterable[Found], places: Mapping[int, Place]) -> dict[ProcessId, str]:
        """Return the names of all instances, by process. An executable makes one only where it listens."""
        listening = {place.found.id for place in places.values()}
        numbered = name_numbered([one for one in found if not one.name and one.id in listening], self.record.numbered)
        self.record = replace(self.record, numbered={name: process for process, name in numbered.items()})
        return {one.id: one.name for one in found if one.name} | numbered

    def _keep_what_is_owned(self, owned: Collection[int]) -> None:
        handed = {cookie: giver for cookie, giver in self.record.handed.items() if cookie in owned}
        self.record = replace(self.record, handed=handed, cpus=dict(self._taken.cpus))

    def _set_instances(
        self,
        found: Iterable[Found],
        own: Mapping[int, Listener],
        places: Mapping[int, Place],
        names: Mapping[ProcessId, str],
    ) -> None:
        cookies: dict[ProcessId, set[int]] = {}
        for inode, place in places.items():
            if own[inode].cookie in self._taken.cookies:
                cookies.setdefault(place.found.id, set()).add(own[inode].cookie)
        instances = [
            (one.place, names[one.id], one, frozenset(cookies.get(one.id, ()))) for one in found if one.id in names
        ]
        instances.sort(key=lambda entry: entry[:2])
        before = {one.name for one in self.instances if one.cookies}
        self.instances = tuple(
            Instance(name, one.pids, one.weight, listening, self._cpus(one, own, places), self._health(name, listening))
            for _, name, one, listening in instances
        )
        after = {one.name for one in self.instances if one.cookies}
        for name in sorted(after - before):
            log.info("%s: instance %s listens", self.services[0], name)
        for name in sorted(before - after):
            log.info("%s: instance %s no longer listens", self.services[0], name)

    def _cpus(self, one: Found, own: Mapping[int, Listener], places: Mapping[int, Place]) -> dict[int, int]:
        """Return the CPU of each listener of an instance, by cookie, if the policy is by CPU and it has one for each.

        Those of one address are in the order of processes and descriptors, in which they were made.
        """
        if self.config.policy != "spread":
            return {}
        mine = sorted(
            (one.pids.index(place.pid), place.fd or 0, inode) for inode, place in places.items() if place.found is one
        )
        by_group: dict[GroupKey, list[int]] = {}
        for *_, inode in mine:
            by_group.setdefault(GroupKey.of(own[inode], False), []).append(own[inode].cookie)
        pinned = proc.pinned_cpus(one.pids) if any(len(cookies) > 1 for cookies in by_group.values()) else frozenset()
        return {
            cookie: cpu
            for cookies in by_group.values()
            for cookie, cpu in cpus_of(cookies, self._taken.cpus, pinned).items()
        }

    def _health(self, name: str, cookies: frozenset[int]) -> bool | None:
        """Return the health of an instance that has these listeners: a restarted one was not asked yet."""
        known = next((one for one in self.instances if one.name == name and one.cookies & cookies), None)
        return known.healthy if known is not None else None

    def _unowned(self, own: Mapping[int, Listener], now: float) -> list[ProblemLine]:
        """Return a problem for the listeners that are no instance's, once they have been that for a while."""
        unowned = {one.cookie: one for one in own.values() if one.cookie not in self._taken.cookies}
        # systemd starts the service of its own when a connection comes; then no listener comes or goes.
        self._idle = listeners_of_systemd({one.inode for one in unowned.values()}) if unowned else frozenset()
        unowned = {cookie: one for cookie, one in unowned.items() if one.inode not in self._idle}
        self._unowned_since = {cookie: self._unowned_since.get(cookie, now) for cookie in unowned}
        where = {
            endpoint(one.address, one.port.number)
            for cookie, one in unowned.items()
            if now - self._unowned_since[cookie] >= PATIENCE_S
        }
        return [
            NO_INSTANCE.line(where=one, protocol=self.port.protocol, port=self.port.number) for one in sorted(where)
        ]
