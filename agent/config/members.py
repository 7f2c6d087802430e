# SPDX-License-Identifier: Apache-2.0
"""lb.yml's `members:`: who may be a node of the cluster, and how the nodes ask each other. Owns the schema, and the
rules within the section.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from agent.config.fields import AnyNetwork, NodeAddress, Port, Section, fault
from agent.errors import SettingError

_GUE_PORT = 6080  # bpf/src/decap.h: what comes there is a tunnel


def _none(value: object) -> object:
    if value != "none":  # perhaps a key, which no message may quote
        raise fault("", "takes only none; a key belongs into a file (`lbctl key new`), which key_file names")
    return value


def _free_port(value: int) -> int:
    if value == _GUE_PORT:
        raise fault("", f"{value} is the port of gue tunnels; choose another")
    return value


class MembersConfig(Section):
    """Who may be a node of the cluster, and how the nodes ask each other."""

    allow: Annotated[tuple[AnyNetwork, ...], Field(min_length=1)]
    """The prefixes of the nodes' addresses. Identities and tunnels from others are ignored. No two IPv4 addresses in
    them may share their low 16 bits, so none is larger than a /16. Example: `[10.0.0.0/24]`."""
    outer: Literal["ipv4", "ipv6"] = "ipv4"
    """The family of the tunnels' outer headers. Example: `ipv6`."""
    port: Annotated[Port, AfterValidator(_free_port)] = 4742
    """The UDP port on which nodes ask each other, the same on all nodes. Allow it between them. Example: `4742`."""
    key_file: Path | None = None
    """A file with the cluster's key, one or two lines of 32 hex digits: the first signs, both are accepted. `lbctl key
    new` makes it. A relative path starts at lb.yml's folder. Without a key no other node is accepted. Example:
    `cluster.key`."""
    key: Annotated[Literal["none"] | None, BeforeValidator(_none)] = None
    """`none` signs with a number that anybody can compute, in place of a key file: only for a network on which none but
    the nodes can send. Example: `none`."""
    static: tuple[NodeAddress, ...] = ()
    """Addresses of nodes that may be members before a router names them. This node's own among them is ignored.
    Example: `[10.0.0.11, 10.0.0.12]`."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.key and self.key_file is not None:
            raise fault("key", "contradicts key_file; give one of them")
        for i, address in enumerate(self.static):
            if address in self.static[:i]:
                raise fault(f"static[{i}]", f"{address} is listed twice", other=f"static[{self.static.index(address)}]")
        return self

    @property
    def key_warning(self) -> SettingError | None:
        """What a missing or public key leaves open; None if there is a key file."""
        if self.key:
            return SettingError(
                "members.key",
                f"is none: whoever can send to UDP port {self.port} can speak for a node; unless the nodes' network is "
                "closed, make a key with `lbctl key new`",
            )
        if self.key_file is None:
            missing = (
                "is missing: this node accepts no other; make a key with `lbctl key new`, and copy it to all nodes"
            )
            return SettingError("members.key_file", missing)
        return None
