# SPDX-License-Identifier: Apache-2.0
"""The instances of one port: found, taken up, chosen among. keeper.py has the loop and the operator's requests.

Services of one port share a pool, since a server may listen on all addresses. `look` blocks: it reads /proc.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from agent.address import endpoint
from agent.config.instances import InstancesConfig, MatchConfig
from agent.config.service import ServiceConfig
from agent.instances import processes as proc
from agent.instances.choice import Decision, Instance, cells, decide
from agent.instances.group import Group, GroupKey, NotTaken
from agent.instances.match import Found, ProcessId, find, name_numbered
from agent.instances.record import Record
from agent.model import Listener, Port
from bpf.errors import BpfError

log = logging.getLogger("anylb")

RESCAN_S = 30.0
"""How often processes are looked at although no listener has come or gone."""
SOON_S = 1.0
"""The same while something is not as it should be."""
PATIENCE_S = 2.0
"""How long a listener may belong to no instance before that is a problem: a pidfile is written after its server
listens."""


class _Place(NamedTuple):
    """Where a listener is."""

    found: Found
    pid: int
    fd: int


class Pool:
    """What is known of a port's instances. `record` is what the next agent must know."""

    def __init__(self, services: Sequence[ServiceConfig], record: Record, pins: Path, cache_dir: Path | None) -> None:
        assert services[0].instances is not None
        self.config: InstancesConfig = services[0].instances
        self.port = Port(services[0].protocol, services[0].port_number)
        self.services = tuple(service.name for service in services)
        self.record = record
        self.instances: tuple[Instance, ...] = ()
        """In order, the primary first."""
        self.decision = Decision()
        self.problems: tuple[str, ...] = ()
        self._vips = tuple(service.vip for service in services)
        self._matches = [_resolved(match) for match in self.config.match]
        self._pins, self._cache_dir = pins, cache_dir
        self._groups: dict[GroupKey, Group] = {}
        self._seen: frozenset[Listener] | None = None
        self._unowned_since: dict[int, float] = {}
        self._next_look = 0.0
        self._open = threading.Lock()
        """Held by a look: its thread goes on when the task that waits for it is canceled."""
        self._closed = False

    def needs_look(self, listeners: frozenset[Listener], now: float) -> bool:
        """Return whether a listener has come or gone, or processes must be looked at again."""
        return listeners != self._seen or now >= self._next_look

    def look(self, listeners: frozenset[Listener], now: float) -> None:
        """Find the instances of these listeners of the port, take up new ones, and choose. Raises nothing."""
        with self._open:
            if not self._closed:
                self._look(listeners, now)

    def _look(self, listeners: frozenset[Listener], now: float) -> None:
        self._seen = listeners
        own = {one.inode: one for one in listeners if any(one.takes(vip) for vip in self._vips)}
        problems: list[str] = []
        try:
            found = self._find(problems)
            places = self._places(found, own, problems)
            names = self._names(found, places)
            self._take_up(own, places, names, problems)
            self._set_instances(found, own, places, names)
            self.choose()
        except (BpfError, OSError) as error:
            problems.append(str(error))
        problems += self._unowned(own, now)
        self._next_look = now + (SOON_S if problems or self._unowned_since else RESCAN_S)
        self.problems = tuple(f"{self.services[0]}: {line}" for line in dict.fromkeys(problems))

    def choose(self) -> None:
        """Choose among the instances as they were found last, and write it. Raises BpfError."""
        operator, before = self.record.operator, self.record.active
        decision = decide(self.config, self.instances, operator, before)
        active = decision.active or before
        if active is None or active.name != operator.preferred:
            operator = replace(operator, preferred=None)  # it is gone: the order decides again
        for group in self._groups.values():
            group.choose(cells([(weight, _slots(group, one)) for one, weight in decision.shares]))
        self.decision = decision  # what `lbctl instance list` shows is in force
        if self.config.policy == "standby" and active and (before is None or active.name != before.name):
            log.info("%s: new connections go to instance %s", self.services[0], active.name)
        self.record = replace(self.record, operator=operator, active=active)

    @contextlib.contextmanager
    def reach(self, instance: Instance, port: int) -> Iterator[None]:
        """Have a connection of this node to itself from a source port reach an instance. Raises OSError."""
        slots = {group: slots[0] for group in list(self._groups.values()) if (slots := _slots(group, instance))}
        try:
            for group, slot in slots.items():
                group.probe(port, slot)
            yield
        except BpfError as error:
            raise OSError(error.errno or errno.EIO, str(error)) from None
        finally:
            for group in slots:
                with contextlib.suppress(BpfError):
                    group.probe(port, None)

    def judge(self, healthy: Mapping[str, bool]) -> None:
        """Choose again with the health of instances, by name. Raises BpfError."""
        self.instances = tuple(replace(one, healthy=healthy.get(one.name)) for one in self.instances)
        self.choose()

    def close(self) -> None:
        """Close the descriptors, after a look that is under way; the choice stays in force."""
        with self._open:
            self._closed = True
            for group in self._groups.values():
                group.close()

    # --- finding ---------------------------------------------------------------------------------------------------

    def _find(self, problems: list[str]) -> list[Found]:
        processes = proc.processes(
            any(match.executable for match in self._matches), any(match.unit or match.cgroup for match in self._matches)
        )
        if any(match.executable for match in self._matches) and not proc.may_read_executables():
            problems.append(
                "the files that processes run cannot be seen; the agent needs CAP_SYS_PTRACE: install "
                "agent/systemd/instances.conf (docs/instances.md)"
            )
        pidfiles = _read_pidfiles((match.pidfile for match in self._matches if match.pidfile), problems)
        found = find(self._matches, pidfiles, self.record.added, processes)
        here = [one for one in found if proc.is_here(one.id.pid)]
        places = {one.place for one in here}
        for one in found:
            # Of an executable some may well run in containers.
            if one not in here and (one.name or one.place not in places):
                problems.append(
                    f"process {one.id.pid} ({one.name or one.executable}) is in another network namespace, where the "
                    "VIP is not; start it in the node's"
                )
        live = {one.id for one in found}
        added = tuple(one for one in self.record.added if one.process in live)
        self.record = replace(self.record, added=added)
        return here

    def _places(self, found: Iterable[Found], own: Mapping[int, Listener], problems: list[str]) -> dict[int, _Place]:
        """Return where each listener is, by inode."""
        places: dict[int, _Place] = {}
        for one in found:
            for process in one.processes:
                wanted = own.keys() - places.keys()
                if not wanted:
                    return places
                try:
                    for inode, fd in proc.sockets(process.pid, wanted).items():
                        places[inode] = _Place(one, process.pid, fd)
                except PermissionError as error:
                    problems.append(
                        f"the sockets of process {process.pid} cannot be seen: {error.strerror}; the agent needs "
                        "CAP_SYS_PTRACE: install agent/systemd/instances.conf (docs/instances.md)"
                    )
        return places

    def _names(self, found: Iterable[Found], places: Mapping[int, _Place]) -> dict[ProcessId, str]:
        """Return the names of all instances, by process. An executable makes one only where it listens."""
        listening = {place.found.id for place in places.values()}
        numbered = name_numbered([one for one in found if not one.name and one.id in listening], self.record.numbered)
        self.record = replace(self.record, numbered={name: process for process, name in numbered.items()})
        return {one.id: one.name for one in found if one.name} | numbered

    # --- taking up -------------------------------------------------------------------------------------------------

    def _take_up(
        self,
        own: Mapping[int, Listener],
        places: Mapping[int, _Place],
        names: Mapping[ProcessId, str],
        problems: list[str],
    ) -> None:
        open_cookies = {one.cookie for one in own.values()}
        for group in self._groups.values():
            group.forget_closed(open_cookies)
        for inode, listener in sorted(own.items()):
            key, place = GroupKey.of(listener), places.get(inode)
            if key not in self._groups:
                if place is None and not (self._pins / key.folder).exists():
                    continue
                self._groups[key] = Group(key, self._pins, self._cache_dir)
                self._groups[key].forget_closed(open_cookies)
            group = self._groups[key]
            if place is None:
                if listener.cookie in group.slots:
                    group.remove(listener.cookie)
            elif group.lacks(listener.cookie):
                try:
                    group.take_up(listener, place.pid, place.fd)
                except NotTaken as error:
                    problems.append(f"{names[place.found.id]}: {error}")

    def _set_instances(
        self,
        found: Iterable[Found],
        own: Mapping[int, Listener],
        places: Mapping[int, _Place],
        names: Mapping[ProcessId, str],
    ) -> None:
        taken = {cookie for group in self._groups.values() for cookie in group.slots}
        cookies: dict[ProcessId, set[int]] = {}
        for inode, place in places.items():
            if own[inode].cookie in taken:
                cookies.setdefault(place.found.id, set()).add(own[inode].cookie)
        instances = [
            (one.place, names[one.id], one, frozenset(cookies.get(one.id, ()))) for one in found if one.id in names
        ]
        instances.sort(key=lambda entry: entry[:2])
        before = {one.name for one in self.instances if one.cookies}
        self.instances = tuple(
            Instance(name, one.pids, one.weight, listening, self._health(name, listening))
            for _, name, one, listening in instances
        )
        after = {one.name for one in self.instances if one.cookies}
        for name in sorted(after - before):
            log.info("%s: instance %s listens", self.services[0], name)
        for name in sorted(before - after):
            log.info("%s: instance %s no longer listens", self.services[0], name)

    def _health(self, name: str, cookies: frozenset[int]) -> bool | None:
        """Return the health of an instance that has these listeners: a restarted one was not asked yet."""
        known = next((one for one in self.instances if one.name == name and one.cookies & cookies), None)
        return known.healthy if known is not None else None

    def _unowned(self, own: Mapping[int, Listener], now: float) -> list[str]:
        """Return a problem for the listeners that are no instance's, once they have been that for a while."""
        taken = {cookie for group in self._groups.values() for cookie in group.slots}
        unowned = {one.cookie: one for one in own.values() if one.cookie not in taken}
        self._unowned_since = {cookie: self._unowned_since.get(cookie, now) for cookie in unowned}
        where = {
            endpoint(one.address, one.port.number)
            for cookie, one in unowned.items()
            if now - self._unowned_since[cookie] >= PATIENCE_S
        }
        return [
            f"a process that is no instance listens on {one} too, and gets connections only if no instance does; "
            f"`ss -lnp --{self.port.protocol} sport = :{self.port.number}` shows it: add it to instances.match, "
            "or end it"
            for one in sorted(where)
        ]


def _slots(group: Group, instance: Instance) -> list[int]:
    # A look in its thread may change the slots meanwhile.
    return sorted(slot for cookie in instance.cookies if (slot := group.slots.get(cookie)) is not None)


def _resolved(match: MatchConfig) -> MatchConfig:
    """Return a match with the file that a link of its executable leads to, as /proc has it."""
    if match.executable is None:
        return match
    return match.model_copy(update={"executable": Path(os.path.realpath(match.executable))})


def _read_pidfiles(paths: Iterable[Path], problems: list[str]) -> dict[Path, int]:
    found = {}
    for path in paths:
        try:
            if (pid := proc.read_pidfile(path)) is not None:
                found[path] = pid
        except OSError as error:
            problems.append(f"{path}: {error.strerror}; the agent must be able to read it")
        except ValueError:
            problems.append(f"{path}: has no process number in its first line; give the file that its server writes")
    return found
