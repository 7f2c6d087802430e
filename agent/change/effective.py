# SPDX-License-Identifier: Apache-2.0
"""The effective configuration as plain values in the terms of lb.yml, and which of them are defaults. Pure.

Secrets are in files of their own, and so in no value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from agent.config.schema import Config
from agent.config.service import ServiceConfig

LIST_KEYS = {"services": ("name",), "bgp.peers": ("address",), "services.backends": ("address", "port")}
"""The lists of sections, and the fields that name an entry."""


def effective(config: Config) -> dict[str, Any]:
    """Return every setting that is in force, given or default. What is absent by default is left out."""
    plain: dict[str, Any] = _pruned(config.model_dump(mode="json", by_alias=True, exclude_none=True))
    for service, shown in zip(config.services, plain["services"], strict=True):
        for name in unused(service):
            shown.pop(name, None)
    return plain


def unused(service: ServiceConfig) -> tuple[str, ...]:
    """Return the settings that have no meaning for the service's mode."""
    if service.mode == "dsr":
        return ("balance", "on_down", "backends")
    return ("weight", "forward", "hash", "when_no_member", "instances")


def defaults(config: Config) -> frozenset[str]:
    """Return the paths of the settings that the file does not give, as `services[web].weight`."""
    return frozenset(_not_given(config, "", ""))


def entry_name(list_path: str, entry: Mapping[str, Any]) -> str:
    """Return the name of a list's entry: `web`, `10.0.0.1`, `10.9.0.11:8443`."""
    return ":".join(str(entry[key]) for key in LIST_KEYS[list_path])


def _not_given(section: BaseModel, path: str, generic: str) -> list[str]:
    found = []
    for name, field in type(section).model_fields.items():
        key, value = field.alias or name, getattr(section, name)
        here, kind = f"{path}.{key}".lstrip("."), f"{generic}.{key}".lstrip(".")
        if name not in section.model_fields_set:
            found.append(here)
        if isinstance(value, BaseModel):
            found += _not_given(value, here, kind)
        elif kind in LIST_KEYS:
            for entry in value:
                plain = entry.model_dump(mode="json", by_alias=True)
                found += _not_given(entry, f"{here}[{entry_name(kind, plain)}]", kind)
    return found


def _pruned(value: Any) -> Any:
    """Leave out what is empty: a list that is not given, a section without settings."""
    if isinstance(value, dict):
        return {key: _pruned(one) for key, one in value.items() if one not in ([], {})}
    if isinstance(value, list):
        return [_pruned(one) for one in value]
    return value
