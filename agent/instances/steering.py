# SPDX-License-Identifier: Apache-2.0
"""Services whose connections go to listeners elsewhere (`steer`): which listeners, and what is in force. I/O only."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

from agent.address import endpoint
from agent.config.service import ServiceConfig
from agent.model import Listener
from bpf.attach.steering import Steering, remove_steering
from bpf.layout.steering import PLACES

log = logging.getLogger("anylb")

_MOST: Final = PLACES // 2
"""Places of one instance, so that another is found when all its listeners close."""


def serves(service: ServiceConfig, listener: Listener) -> bool:
    """Return whether a listener is where the service's connections go, as far as address and family decide."""
    steer = service.instances.steer if service.instances else None
    if steer is None:
        return listener.takes(service.vip)
    if steer == "auto":
        return listener.address.version == service.vip.version or (
            service.vip.version == 4 and listener.address.is_unspecified and not listener.only6
        )
    return listener.takes(steer.address)


class ServiceSteering:
    """The steered services of a configuration. Nothing is attached before a listener is there."""

    def __init__(self, services: Sequence[ServiceConfig], folder: Path, cache_dir: Path | None) -> None:
        steered = [one for one in services if one.instances and one.instances.steer]
        self._services = {one.name: one for one in steered}
        any_port = {(one.vip, one.protocol) for one in steered if one.port == "any"}
        self._exempt = [
            one for one in services if (one.vip, one.protocol) in any_port and one not in steered and one.port != "any"
        ]
        self._folder, self._cache_dir = folder, cache_dir
        self._steering: Steering | None = None
        self._numbers: dict[str, int] = {}
        """By service: of its places."""
        self._owners: dict[int, str] = {}
        """The instance of each listener that this agent put, by cookie."""
        self._claims: dict[object, str] = {}

    def release(self) -> bool:
        """Detach what an earlier configuration left, if nothing is steered now; return whether there was any.

        Raises BpfError.
        """
        return not self._services and remove_steering(self._folder)

    def claim(self, group: object, service: str) -> str:
        """Have a group of steered listeners be a service's, unless it is another's; return whose it is."""
        return self._claims.setdefault(group, service)

    def cookies(self, service: str) -> frozenset[int]:
        """Return the listeners that get a service's connections. Raises BpfError."""
        if self._steering is None:
            return frozenset()
        return frozenset(self._steering.maps.cookies(self._numbers[service]).values())

    def put(self, service: str, listener: Listener, fd: int, owner: str) -> None:
        """Have a listener of an instance, of which `fd` is a descriptor, get a service's connections if it may.

        Raises BpfError.
        """
        maps, number = self._open().maps, self._numbers[service]
        taken = maps.cookies(number)
        place = next((one for one in range(PLACES) if one not in taken), None)
        if listener.cookie in taken.values() or place is None or not self._has_room(taken.values(), owner):
            return
        maps.put(number, place, fd)
        self._owners[listener.cookie] = owner
        if not taken:
            one = self._services[service]
            where = endpoint(listener.address, listener.port.number)
            log.info("%s: connections to %s go to %s", service, endpoint(one.vip, one.port), where)

    def lacks(self, service: str, cookie: int, owner: str) -> bool:
        """Return whether a listener must be put. Raises BpfError."""
        taken = self.cookies(service)
        return cookie not in taken and len(taken) < PLACES and self._has_room(taken, owner)

    def keep_only(self, service: str, cookies: Collection[int]) -> None:
        """Take all listeners but these out. Raises BpfError."""
        if self._steering is not None:
            number = self._numbers[service]
            for place, cookie in self._steering.maps.cookies(number).items():
                if cookie not in cookies:
                    self._steering.maps.remove(number, place)

    def open_existing(self) -> None:
        """Take over what an earlier agent left, if anything is steered still. Raises BpfError."""
        if self._steering is None and self._services and self._folder.is_dir():
            self._open()

    def keep_pinned(self) -> bool:
        """Pin again what has lost its pin; return whether anything had. Raises BpfError."""
        return self._steering is not None and self._steering.keep_pinned()

    def close(self) -> None:
        """Close the descriptors; what is in force stays."""
        if self._steering is not None:
            self._steering.close()
            self._steering = None

    def _has_room(self, taken: Collection[int], owner: str) -> bool:
        return sum(self._owners.get(cookie) == owner for cookie in taken) < _MOST

    def _open(self) -> Steering:
        if self._steering is None:
            steering = Steering.open(self._folder, self._cache_dir)
            try:
                for one in self._exempt:
                    steering.maps.exempt(one.vip, one.port_number)
                for name, one in self._services.items():
                    self._numbers[name] = steering.maps.steer(one.vip, one.port_number)
                kept = (*self._exempt, *self._services.values())
                steering.maps.keep_only({(one.vip, one.port_number) for one in kept})
            except BaseException:
                steering.close()
                raise
            self._steering = steering
        return self._steering
