# SPDX-License-Identifier: Apache-2.0
"""lb.yml's `services[].instances:`: which server processes share a service on this node, and how. Owns the schema, and
rules within it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from agent.config.fields import Section, Switch, Weight, fault

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


def _one_or_several(value: object) -> object:
    return [value] if isinstance(value, dict) else value


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
    weights; `spread`: evenly. Example: `weighted`."""
    match: Annotated[tuple[MatchConfig, ...], BeforeValidator(_one_or_several), Field(max_length=32)] = ()
    """Where instances are found, the primary first. More are added with `lbctl instance add`. Example: `[{unit:
    web@a.service}, {unit: web@b.service}]`."""
    failback: Switch = True
    """Whether connections go back to an earlier instance that returns, with `policy: standby`. Example: `false`."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if "failback" in self.model_fields_set and self.policy != "standby":
            raise fault("failback", f"is for policy standby, not {self.policy}")
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
