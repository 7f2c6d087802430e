# SPDX-License-Identifier: Apache-2.0
"""lb.yml's `services[].instances:`: which server processes share a service on this node, and how. Owns the schema, and
rules within it."""

from __future__ import annotations

import re
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Final, Literal, NamedTuple, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from agent.address import Address, endpoint
from agent.config.fields import Section, Switch, Weight, fault, not_one_value

KINDS = ("unit", "cgroup", "pidfile", "executable")


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise fault("", f"'{path}' does not start with /")
    return path


def _cgroup(text: str) -> str:
    if not text.startswith("/") or text.strip("/") == "":
        raise fault("", f"'{text}' is not a control group below the root, as /system.slice/web.service")
    return text.rstrip("/")


def _unit(text: str) -> str:
    if "/" in text or "." not in text:
        raise fault("", f"'{text}' is not a unit with its type, as web.service or web@*.service")
    return text


class Target(NamedTuple):
    """Where servers listen that get another address's connections."""

    address: Address
    port: int

    def __str__(self) -> str:
        return endpoint(self.address, self.port)


_TARGET: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+)):(\d{1,5})", re.ASCII)


def _target(value: object) -> object:
    if value == "auto" or isinstance(value, Target):
        return value
    if why := not_one_value(value):
        raise fault("", why)
    parts = _TARGET.fullmatch(str(value))
    try:
        if parts is None or not 1 <= int(parts[3]) <= 65_535:
            raise ValueError
        address = ip_address(parts[1] or parts[2])
    except ValueError:
        wrong = f"'{value}' is neither auto nor an address and port, as '127.0.0.1:8080' or '[::1]:8080'"
        raise fault("", wrong) from None
    if address.is_multicast:
        raise fault("", f"{address} is multicast; give the address that the servers listen on")
    return Target(address, int(parts[3]))


def _one_or_several(value: object) -> object:
    return [value] if isinstance(value, dict) else value


Steer = Annotated[Target | Literal["auto"] | None, BeforeValidator(_target)]
AbsolutePath = Annotated[Path, AfterValidator(_absolute)]


class MatchConfig(Section):
    """Where one or more instances are found: in exactly one of these."""

    unit: Annotated[str, AfterValidator(_unit)] | None = None
    """Each systemd unit of this name, which may have `*`, is an instance. Example: `web@*.service`."""
    cgroup: Annotated[str, AfterValidator(_cgroup)] | None = None
    """Each control group of this path, which may have `*`, is an instance. Example: `/system.slice/web.service`."""
    pidfile: AbsolutePath | None = None
    """The process whose number the file has, with its children. Example: `/run/web.pid`."""
    executable: AbsolutePath | None = None
    """Each process that runs this file and listens for the service. A listener that several inherited is the oldest's.
    Example: `/usr/sbin/nginx`."""
    weight: Weight | None = None
    """The share of new connections with `policy: weighted`, 100 by default. Example: `50`."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if not given:
            raise fault("unit", f"is missing; give one of {', '.join(KINDS)}")
        if len(given) > 1:
            raise fault(given[1], f"contradicts {given[0]}; give one of them")
        return self


class InstancesConfig(Section):
    """How new connections are divided among a service's instances. Established ones never move."""

    policy: Literal["standby", "weighted", "spread"] = "standby"
    """`standby`: all to the first in the order of `match` that listens and is healthy; `weighted`: in proportion to
    weights; `spread`: evenly, and by CPU where an instance has a listener for each. Example: `weighted`."""
    match: Annotated[tuple[MatchConfig, ...], BeforeValidator(_one_or_several), Field(max_length=32)] = ()
    """Where instances are found, the primary first. More are added with `lbctl instance add`. Example: `[{unit:
    web@a.service}, {unit: web@b.service}]`."""
    failback: Switch = True
    """Whether connections go back to an earlier instance that returns, with `policy: standby`. Example: `false`."""
    steer: Steer = None
    """The address and port that the servers listen on instead of the service's; with `auto` it is found. Example:
    `"127.0.0.1:8080"`."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if "failback" in self.model_fields_set and self.policy != "standby":
            raise fault("failback", f"is for policy standby, not {self.policy}")
        if self.steer == "auto" and not self.match:
            raise fault("steer", "is auto, which finds where the servers of match listen; list them there")
        for i, match in enumerate(self.match):
            if match.weight is not None and self.policy != "weighted":
                raise fault(f"match[{i}].weight", f"is for policy weighted, not {self.policy}")
            for j, other in enumerate(self.match[:i]):
                if _place(match) == _place(other):
                    raise fault(f"match[{i}]", "is listed twice", other=f"match[{j}]")
                if match.pidfile and other.pidfile and match.pidfile.stem == other.pidfile.stem:
                    same = f"{match.pidfile} names its instance as {other.pidfile} does: {match.pidfile.stem}"
                    raise fault(f"match[{i}].pidfile", same, other=f"match[{j}].pidfile")
        return self


def _place(match: MatchConfig) -> tuple[object, ...]:
    return tuple(getattr(match, kind) for kind in KINDS)


def shares_a_match(one: InstancesConfig, other: InstancesConfig) -> bool:
    """Return whether some match of both is the same."""
    return not {_place(match) for match in one.match}.isdisjoint(map(_place, other.match))
