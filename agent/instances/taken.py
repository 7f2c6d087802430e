# SPDX-License-Identifier: Apache-2.0
"""The listeners of one port that the kernel's programs know: taken up, removed, chosen among. I/O only.

They are in groups by address, and of steered services in places too (steering.py).
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from agent.address import endpoint
from agent.config.service import ServiceConfig
from agent.instances.choice import Instance, Share
from agent.instances.finder import Place
from agent.instances.group import Group, GroupKey, NotTaken, copy_listener
from agent.instances.match import ProcessId
from agent.instances.steering import ServiceSteering, serves
from agent.model import Listener
from agent.problem import Problem, ProblemLine
from bpf.errors import BpfError

OF_INSTANCE = Problem("{instance}: {line}", "", "One of the lines of this part, about an instance.")
LISTENER = Problem(
    "{error}",
    "the agent tries again within seconds",
    "A listener that belongs to no instance could not be taken out, or the kernel refused its group.",
)
SHARED_PLACE = Problem(
    "{where} is where {owner} has its servers",
    "set steer of both to ADDRESS:PORT",
    "Two services would steer connections to the same servers.",
)
NOT_STEERED = Problem(
    "its listener gets no connections to {service}: {error}",
    "the agent tries again; if it stays, report it with `lbctl support`",
    "The kernel refused the listener's place for steering. The other instances are not affected.",
)


class TakenListeners:
    """The groups of one port. Nothing is made before an instance listens."""

    def __init__(
        self, services: Sequence[ServiceConfig], steering: ServiceSteering, pins: Path, cache_dir: Path | None
    ) -> None:
        self._services, self._steering = services, steering
        self._steered = tuple(service.name for service in services if service.steer)
        self._pins, self._cache_dir = pins, cache_dir
        self._groups: dict[GroupKey, Group] = {}
        self.handed: Mapping[int, socket.socket] = {}
        """Copies of listeners that are being handed over, by cookie, which others close."""
        self.cookies: frozenset[int] = frozenset()
        """The listeners that have a slot, or a place of a steered service."""
        self.cpus: dict[int, int] = {}
        """The CPU that a server gave a listener (SO_INCOMING_CPU), by cookie."""

    @property
    def are_steered(self) -> bool:
        """Whether connections to other addresses or ports are given to them."""
        return bool(self._steered)

    def open_existing(self) -> None:
        """Take over the steering that an earlier agent left. Raises BpfError."""
        self._steering.open_existing()

    def take_up(
        self,
        own: Mapping[int, Listener],
        places: Mapping[int, Place],
        names: Mapping[ProcessId, str],
        problems: list[ProblemLine],
    ) -> None:
        """Take up those that are an instance's, and remove all others. `own`, `places`: by inode.

        A listener that cannot be taken up is a problem. Raises BpfError.
        """
        open_cookies = {one.cookie for one in own.values()}
        for known in self._groups.values():
            known.forget_closed(open_cookies)
        for inode, listener in sorted(own.items()):
            place = places.get(inode)
            try:
                group = self._group(listener, place is not None, open_cookies)
                if group is not None and place is not None:
                    self._take(group, listener, place, names[place.found.id])
                elif group is not None and listener.cookie in group.slots:
                    group.remove(listener.cookie)
            except NotTaken as error:
                problems.append(
                    OF_INSTANCE.line(instance=names[place.found.id], line=error)
                    if place
                    else LISTENER.line(error=error)
                )
        owned = {own[inode].cookie for inode in places}
        for service in self._steered:
            self._steering.keep_only(service, owned)
        slots = {cookie for group in self._groups.values() for cookie in group.slots}
        self.cookies = frozenset(slots).union(*map(self._steering.cookies, self._steered))
        self.cpus = {cookie: cpu for cookie, cpu in self.cpus.items() if cookie in owned}

    def _group(self, listener: Listener, is_instances: bool, open_cookies: Collection[int]) -> Group | None:
        """Return a listener's group; None if it has none, and needs none."""
        key = GroupKey.of(listener, self.are_steered)
        if key not in self._groups:
            if not is_instances and not (self._pins / key.folder).exists():
                return None
            # Servers of `auto` are found wherever they listen: also where those of another service do.
            own = self._services[0].name
            if self.are_steered and (owner := self._steering.claim(key, own)) != own:
                where = endpoint(listener.address, listener.port.number)
                raise NotTaken(SHARED_PLACE.line(where=where, owner=owner))
            self._groups[key] = Group(key, self._pins, self._cache_dir)
            self._groups[key].forget_closed(open_cookies)
        return self._groups[key]

    def _take(self, group: Group, listener: Listener, place: Place, owner: str) -> None:
        steered = [one.name for one in self._services if one.steer and serves(one, listener)]
        lacking = [one for one in steered if self._steering.lacks(one, listener.cookie, owner)]
        if not lacking and not group.lacks(listener.cookie):
            return
        with self._copy(listener, place) as copy:
            if copy is not None:
                group.take_up(listener, copy, place.pid)
                if (cpu := copy.getsockopt(socket.SOL_SOCKET, socket.SO_INCOMING_CPU)) >= 0:
                    self.cpus[listener.cookie] = cpu
                self._steer_to(lacking, listener, copy, owner)

    def _steer_to(self, services: Sequence[str], listener: Listener, copy: socket.socket, owner: str) -> None:
        for service in services:
            try:
                self._steering.put(service, listener, copy.fileno(), owner)
            except BpfError as error:  # it was closed meanwhile, for example
                raise NotTaken(NOT_STEERED.line(service=service, error=error)) from None

    def _copy(self, listener: Listener, place: Place) -> contextlib.AbstractContextManager[socket.socket | None]:
        """Return a context with a copy of a listener, closed after it; with None if none can be had now."""
        if (handed := self.handed.get(listener.cookie)) is not None or place.fd is None:
            return contextlib.nullcontext(handed)
        return copy_listener(listener, place.pid, place.fd) or contextlib.nullcontext()

    def choose(self, shares: Sequence[tuple[Instance, int]]) -> None:
        """Write the order of these instances, and the weight of each. Raises BpfError."""
        for group in self._groups.values():
            group.choose([_share(group, one, weight) for one, weight in shares])

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

    def keep_pinned(self) -> bool:
        """Pin again what has lost its pin; return whether anything had. Raises BpfError."""
        return sum(group.keep_pinned() for group in self._groups.values()) > 0  # of all, not of the first alone

    def close(self) -> None:
        """Close the descriptors; the choice stays in force."""
        for group in self._groups.values():
            group.close()


def _slots(group: Group, instance: Instance) -> list[int]:
    # A look in its thread may change the slots meanwhile.
    return sorted(slot for cookie in instance.cookies if (slot := group.slots.get(cookie)) is not None)


def _share(group: Group, instance: Instance, weight: int) -> Share:
    slots = group.slots
    by_cpu = {cpu: slot for cookie, cpu in instance.cpus.items() if (slot := slots.get(cookie)) is not None}
    return Share(weight, _slots(group, instance), by_cpu)
