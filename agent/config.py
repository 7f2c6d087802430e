# SPDX-License-Identifier: Apache-2.0
"""lb.yml: what an operator may write, checked in full before anything acts on it.

Owns the schema and the way from a file to a `Config`. Every error names file, line, column and field, as
`lb.yml:12:13: services[0].port: 70000 is not in 1-65535`. It touches nothing but the file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from agent.diagnosis import describe, reject_duplicates
from agent.errors import ConfigError
from bgp.community import service_id


def _error(field: str, message: str) -> PydanticCustomError:
    """A fault of a field below the section that is being checked ("" for the value itself)."""
    return PydanticCustomError("anylb", "{message}", {"message": message, "field": field})


def _within(low: int, high: int) -> AfterValidator:
    """The value's range, as the message tells it."""

    def check(value: float) -> float:
        if not low <= value <= high:
            raise _error("", f"{value} is not in {low}-{high}")
        return value

    return AfterValidator(check)


def _port_or_any(value: object) -> object:
    if value == "any" or (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 65_535):
        return value
    raise _error("", f"{value!r} is not in 1-65535, nor 'any'")


Count = Annotated[int, Field(strict=True), _within(1, 100)]
Weight = Annotated[int, Field(strict=True), _within(0, 10_000)]
Port = Annotated[int, Field(strict=True), _within(1, 65_535)]
Asn = Annotated[int, Field(strict=True), _within(1, 4_294_967_295)]
Seconds = Annotated[float, Field(strict=True), _within(0, 3600), Field(gt=0)]


class Section(BaseModel):
    """A mapping of lb.yml: no unknown keys, no values bent into another type, not changed once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class HealthConfig(Section):
    """How the local service is asked whether it serves. The check goes through the VIP on lo.

    `rise` good answers in a row make it healthy, `fall` bad ones unhealthy. `port` defaults to the service's own.
    """

    type: Literal["tcp", "http"] = "tcp"
    port: Port | None = None
    path: str = "/"
    interval_s: Seconds = 1.0
    timeout_s: Seconds = 1.0
    rise: Count = 2
    fall: Count = 3

    @model_validator(mode="after")
    def _path(self) -> Self:
        if not self.path.startswith("/"):
            raise _error("path", f"'{self.path}' does not begin with /")
        return self


class ServiceConfig(Section):
    """One VIP, protocol and port (or any port), and what checks its health on this node."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
    vip: IPv4Address
    protocol: Literal["tcp", "udp"]
    port: Annotated[int | Literal["any"], BeforeValidator(_port_or_any)]
    weight: Weight = 100
    # No default: only l2 exists so far, and a silent default would change meaning with the first tunnel.
    forward: Literal["l2"]
    health: HealthConfig = HealthConfig()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.vip.is_multicast or self.vip.is_loopback or self.vip.is_unspecified:
            raise _error("vip", f"{self.vip} cannot be a virtual IP; give a unicast address")
        if self.health.port is None and (self.port == "any" or self.protocol == "udp"):
            raise _error("health", "needs a port of its own: set health.port to a TCP port to ask")
        return self

    @property
    def port_number(self) -> int:
        """The port, 0 for any."""
        return 0 if self.port == "any" else self.port

    @property
    def health_port(self) -> int:
        """The TCP port that the health check connects to."""
        return self.health.port if self.health.port is not None else self.port_number


class NodeConfig(Section):
    """This node: the interface that XDP is attached to, and the address it is known by (else the interface's first)."""

    interface: Annotated[str, Field(min_length=1, max_length=15)]
    address: IPv4Address | None = None


class PeerConfig(Section):
    """A BGP router. `hold_time_s` bounds how long a silent death of this node blackholes its share of new flows."""

    address: IPv4Address
    asn: Annotated[Asn, Field(alias="as")]
    hold_time_s: Annotated[int, Field(strict=True), _within(3, 65_535)] = 9


class BgpConfig(Section):
    """The announcing side. `identity_prefix` is a /16: node 10.0.0.11 announces its low 16 bits there as a /32."""

    local_as: Asn
    router_id: IPv4Address | None = None
    identity_prefix: IPv4Network
    peers: Annotated[tuple[PeerConfig, ...], Field(min_length=1)]
    user: str = "nobody"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.identity_prefix.prefixlen != 16:
            raise _error("identity_prefix", f"{self.identity_prefix} is not a /16; a node's tag has 16 bits")
        addresses = [peer.address for peer in self.peers]
        for i, address in enumerate(addresses):
            if address in addresses[:i]:
                raise _error(f"peers[{i}].address", f"{address} is listed twice")
        return self


class MembersConfig(Section):
    """Whose identities are believed: node addresses outside `allow` are ignored."""

    allow: Annotated[tuple[IPv4Network, ...], Field(min_length=1)]


class XdpConfig(Section):
    """Where the data path attaches. `off` makes the node plain anycast: it announces, and forwards nothing."""

    # A bare off is a boolean to YAML 1.1; here it means what it says.
    mode: Annotated[
        Literal["auto", "native", "generic", "off"], BeforeValidator(lambda value: "off" if value is False else value)
    ] = "auto"


class TableConfig(Section):
    """What decides a row. It must be the same on every node; the epoch in each identity tells when it is not."""

    rows: Annotated[int, Field(strict=True), _within(4096, 262_144)] = 65_536
    chain: Annotated[int, Field(strict=True), _within(1, 8)] = 4

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.rows & (self.rows - 1):
            raise _error("rows", f"{self.rows} is not a power of two")
        return self


class Config(Section):
    """The whole of lb.yml."""

    cluster: Annotated[int, Field(strict=True), _within(1, 4_294_967_295)]
    node: NodeConfig
    services: Annotated[tuple[ServiceConfig, ...], Field(min_length=1, max_length=255)]
    bgp: BgpConfig
    members: MembersConfig
    xdp: XdpConfig = XdpConfig()
    table: TableConfig = TableConfig()

    @field_validator("cluster")
    @classmethod
    def _reserved(cls, value: int) -> int:
        # RFC 8092 section 3: not to be used as the global administrator, which the cluster's number is.
        if value in (65_535, 4_294_967_295):
            raise _error("", f"{value} is reserved by RFC 8092; take another")
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        seen: dict[Hashable, str] = {}
        for i, service in enumerate(self.services):
            for key, field in (
                (service.name, "name"),
                # Equal ids without equal services are possible in 28 bits: one in 50,000 with 100 services.
                (service_id(service.vip, service.protocol, service.port_number), "port"),
            ):
                if key in seen:
                    raise _error(f"services[{i}].{field}", f"is the same as that of {seen[key]}")
                seen[key] = f"services[{i}]"
            if service.vip in self.bgp.identity_prefix:
                raise _error(f"services[{i}].vip", f"{service.vip} lies in bgp.identity_prefix; that is for identities")
            if any(service.vip in allowed for allowed in self.members.allow):
                raise _error(f"services[{i}].vip", f"{service.vip} lies in members.allow; that is for nodes")
        return self

    @property
    def vips(self) -> tuple[IPv4Address, ...]:
        """Every VIP once, in the order of the file."""
        return tuple(dict.fromkeys(service.vip for service in self.services))

    @property
    def hash_key(self) -> bytes:
        """The secret of the flow hash, 16 bytes, the same on every node of the cluster."""
        return hashlib.sha256(b"anylb flow hash %d" % self.cluster).digest()[:16]


def load(path: Path) -> Config:
    """Read and check a file. Raises ConfigError, one line for each fault, none of them hidden behind another."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; write it as README.md shows") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8") from None
    return parse(text, str(path))


def parse(text: str, name: str) -> Config:
    """Check the text of a file called `name`. Raises ConfigError as `load` does. Pure."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is None:
            raise ConfigError(f"{name}:1:1: is empty; write it as README.md shows")
        reject_duplicates(root, name)
        data = yaml.load(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{mark.line + 1}:{mark.column + 1}" if mark else "1:1"
        raise ConfigError(f"{name}:{where}: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}:1:1: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{name}:1:1: is a {type(data).__name__}, not a mapping of settings")
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        raise ConfigError("\n".join(describe(root, name, error.errors(include_url=False)))) from None
