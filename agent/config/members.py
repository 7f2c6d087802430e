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
    """The prefixes of nodes' addresses: identities and tunnels from other addresses are ignored.

    `outer` is the family of tunnels' outer headers. `port` is the UDP port, the same on all nodes, on which nodes ask
    each other and exchange what they serve. Datagrams carry a code made with the cluster's key: `key_file` has one or
    two lines of 32 hex digits, of which the first signs and both are accepted. `key: none` signs with a public number
    instead, for a network on which nobody else can send. With neither, no other node is accepted. `static` lists
    addresses of nodes that may be members before a router names them; this node's own among them is ignored.
    """

    allow: Annotated[tuple[AnyNetwork, ...], Field(min_length=1)]
    outer: Literal["ipv4", "ipv6"] = "ipv4"
    port: Annotated[Port, AfterValidator(_free_port)] = 4742
    key_file: Path | None = None
    key: Annotated[Literal["none"] | None, BeforeValidator(_none)] = None
    static: tuple[NodeAddress, ...] = ()

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
