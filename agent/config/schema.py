# SPDX-License-Identifier: Apache-2.0
"""lb.yml: what an operator may write, checked in full before anything acts on it.

Owns the schema and the way from a file to a `Config`. Every error names file, line, column and field, as
`lb.yml:12:13: services[0].port: 70000 is not in 1-65535`. It touches nothing but the file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from ipaddress import IPv4Network, IPv6Address, ip_network
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)

from agent.config.bgp import AnnounceConfig, BgpConfig
from agent.config.diagnosis import describe, place, reject_duplicates
from agent.config.fields import (
    AnyAddress,
    AnyNetwork,
    Count,
    InterfaceName,
    Port,
    PortOrAny,
    Seconds,
    Section,
    Switch,
    V4Address,
    Weight,
    fault,
    within,
)
from agent.config.secret import read_password, read_secret
from agent.errors import ConfigError
from agent.model import TABLE_VERSIONS, Address, Network
from agent.table import epoch
from bgp.community import service_id


class HealthConfig(Section):
    """How the local service is asked whether it serves. The check goes through the VIP on lo.

    `rise` good answers in a row make it healthy, `fall` bad ones unhealthy. `port` defaults to the service's own.
    `fast_interval_s` is kept between answers that speak against the present state, so that a change is sure sooner.
    While `disable_file` exists the service takes no new connections here, whatever it answers.
    """

    type: Literal["tcp", "http"] = "tcp"
    port: Port | None = None
    path: str = "/"
    interval_s: Seconds = 1.0
    timeout_s: Seconds = 1.0
    fast_interval_s: Seconds | None = None
    disable_file: Path | None = None
    rise: Count = 2
    fall: Count = 3

    @model_validator(mode="after")
    def _path(self) -> Self:
        if not self.path.startswith("/"):
            raise fault("path", f"'{self.path}' does not begin with /")
        if self.fast_interval_s is not None and self.fast_interval_s > self.interval_s:
            raise fault("fast_interval_s", f"{self.fast_interval_s:g} is longer than interval_s, {self.interval_s:g}")
        if self.disable_file is not None and not self.disable_file.is_absolute():
            raise fault("disable_file", f"'{self.disable_file}' does not begin with /")
        return self


class ServiceConfig(Section):
    """One VIP, protocol and port (or any port), and what checks its health on this node.

    `affinity`: what of a packet decides its owner: all (5-tuple), or all but the client's port (3-tuple), or the two
    addresses alone (2-tuple). `forward`: how a packet reaches its owner. `hash`: how owners are chosen.
    `when_no_member`: whether packets go to this node's own kernel or nowhere while nobody serves. `when_unhealthy`:
    what becomes of the VIP when no member is healthy: all that are up take new connections as if they were, or every
    node withdraws it, so that another site can take over.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
    vip: AnyAddress
    protocol: Literal["tcp", "udp"]
    port: PortOrAny
    weight: Weight = 100
    affinity: Literal["5-tuple", "3-tuple", "2-tuple"] = "5-tuple"
    forward: Literal["l2", "ipip", "gue"] = "gue"
    hash: Literal["rendezvous", "maglev"] = "rendezvous"
    when_no_member: Literal["pass", "drop"] = "pass"
    when_unhealthy: Literal["fail_open", "withdraw"] = "fail_open"
    health: HealthConfig = HealthConfig()
    announce: AnnounceConfig | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        odd = self.vip.is_multicast or self.vip.is_loopback or self.vip.is_unspecified or self.vip.is_link_local
        odd |= self.vip.version == 4 and self.vip.is_reserved
        if odd or (isinstance(self.vip, IPv6Address) and self.vip.ipv4_mapped):
            raise fault("vip", f"{self.vip} cannot be a virtual IP; give a unicast address")
        if self.health.port is None and (self.port == "any" or self.protocol == "udp"):
            raise fault("health", "needs a port of its own: set health.port to a TCP port to ask")
        hop = self.announce.next_hop if self.announce else None
        if hop is not None and (hop.version != self.vip.version or hop == self.vip):
            raise fault("announce.next_hop", f"{hop} cannot be the next hop of {self.vip}")
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
    """This node: where XDP is attached, and the addresses that it is known by.

    `interface`, or several `interfaces` (two uplinks, VLAN devices, a bond's slaves); the node's IPv4 address is on the
    first, and is that one's first without `address`; so is `address6`, which only tunnels over IPv6 need. With
    `announce: false` the node is a member only: it owns flows and forwards, and the others announce the VIPs.
    """

    interface: InterfaceName | None = None
    interfaces: Annotated[tuple[InterfaceName, ...], Field(max_length=8)] = ()
    address: V4Address | None = None
    address6: IPv6Address | None = None
    announce: Switch = True

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.interface and self.interfaces:
            raise fault("interfaces", "stands beside interface; give one of them")
        if not self.names:
            raise fault("interface", "is missing")
        for i, name in enumerate(self.interfaces):
            if name in self.interfaces[:i]:
                raise fault(f"interfaces[{i}]", f"{name} is listed twice")
        if self.address6 and (self.address6.is_multicast or self.address6.is_link_local or self.address6.is_loopback):
            raise fault(
                "address6", f"{self.address6} cannot be the end of a tunnel; give a global or local unicast one"
            )
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The interfaces, however they are given."""
        return (self.interface,) if self.interface else self.interfaces


class MembersConfig(Section):
    """Which addresses nodes may have: identities of others are not believed, tunnels from others not opened.

    `outer` says which of a node's addresses tunnels run between. `probe_port` is the UDP port that nodes ask each other
    at, the same on all, when a router loses many of them at once.
    """

    allow: Annotated[tuple[AnyNetwork, ...], Field(min_length=1)]
    outer: Literal["ipv4", "ipv6"] = "ipv4"
    probe_port: Port = 4742


class XdpConfig(Section):
    """Where the data path attaches. `off` makes the node plain anycast: it announces, and forwards nothing."""

    # A bare off is a boolean to YAML 1.1; here it means what it says.
    mode: Annotated[
        Literal["auto", "native", "generic", "off"], BeforeValidator(lambda value: "off" if value is False else value)
    ] = "auto"


def _known(version: int) -> int:
    if version not in TABLE_VERSIONS:
        raise fault("", f"{version} is not known to this release; it knows {', '.join(map(str, TABLE_VERSIONS))}")
    return version


def _power_of_two(rows: int) -> int:
    if rows & (rows - 1):
        raise fault("", f"{rows} is not a power of two")
    return rows


Rows = Annotated[int, Field(strict=True), within(4096, 262_144), AfterValidator(_power_of_two)]
# A row has room for 8, but the walk through a chain of 8 may run out of hops (tests/proof/test_next_hop_walk.py).
Chain = Annotated[int, Field(strict=True), within(1, 7)]
TableVersion = Annotated[int, Field(strict=True), AfterValidator(_known)]


class PreviousConfig(Section):
    """What this cluster's table was before; what is absent is as it is now. `key_file: null`: there was no file."""

    rows: Rows | None = None
    chain: Chain | None = None
    version: TableVersion | None = None
    key_file: Path | None = None


class TableConfig(Section):
    """What decides a row. It must be the same on every node; the epoch in each identity tells when it is not.

    `key_file` holds the cluster's secret as 32 hex digits, so that nobody outside can tell which flows share a server.
    A relative path begins at lb.yml. Without it the key derives from the cluster's number, which others may guess.
    `version` is that of the way from members to rows, by default the newest that this release knows.

    `previous` is what the table was before: both are looked into for as long as it is given, and new flows go by the
    previous one until every live member has the new one.
    """

    rows: Rows = 65_536
    chain: Chain = 4
    version: TableVersion = TABLE_VERSIONS[-1]
    key_file: Path | None = None
    previous: PreviousConfig | None = None


class Config(Section):
    """The whole of lb.yml."""

    cluster: Annotated[int, Field(strict=True), within(1, 4_294_967_295)]
    node: NodeConfig
    services: Annotated[tuple[ServiceConfig, ...], Field(min_length=1, max_length=255)]
    bgp: BgpConfig
    members: MembersConfig
    xdp: XdpConfig = XdpConfig()
    table: TableConfig = TableConfig()
    deny: tuple[AnyNetwork, ...] = ()
    """Whose packets to VIPs are dropped; `lbctl deny` adds to these at run time."""

    _secret: bytes | None = PrivateAttr(default=None)
    _previous_secret: bytes | None = PrivateAttr(default=None)

    @field_validator("cluster")
    @classmethod
    def _reserved(cls, value: int) -> int:
        # RFC 8092 section 3: not to be used as the global administrator, which the cluster's number is.
        if value in (65_535, 4_294_967_295):
            raise fault("", f"{value} is reserved by RFC 8092; take another")
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
                    raise fault(f"services[{i}].{field}", f"is the same as that of {seen[key]}")
                seen[key] = f"services[{i}]"
            if service.vip in self.bgp.identity_prefix:
                raise fault(f"services[{i}].vip", f"{service.vip} lies in bgp.identity_prefix; that is for identities")
            if any(service.vip in allowed for allowed in self.members.allow):
                raise fault(f"services[{i}].vip", f"{service.vip} lies in members.allow; that is for nodes")
            if any(service.vip == peer.address for peer in self.bgp.peers):
                raise fault(f"services[{i}].vip", f"{service.vip} is a BGP peer's address")
            if self.bgp.allow and not any(service.vip in allowed for allowed in self.bgp.allow):
                raise fault(f"services[{i}].vip", f"{service.vip} lies in no network of bgp.allow")
            self._check_announce(i, service)
        self._check_tags()
        if self.node.address6 and not any(self.node.address6 in allowed for allowed in self.members.allow):
            raise fault("node.address6", f"{self.node.address6} lies in no network of members.allow")
        return self

    def _check_announce(self, i: int, service: ServiceConfig) -> None:
        said = service.announce
        if said is None:
            return
        for j, other in enumerate(self.services[:i]):
            if other.vip == service.vip and other.announce not in (None, said):
                raise fault(f"services[{i}].announce", f"differs from that of services[{j}] for the same VIP")
        for k, community in enumerate(said.large_communities):
            if community[0] == self.cluster:
                where = f"services[{i}].announce.large_communities[{k}]"
                raise fault(where, "begins with the cluster's number, as only identities do")

    def _check_tags(self) -> None:
        """Nodes are told apart by their tags, the low 16 bits of their addresses, and announced under them."""
        taken: list[tuple[range, IPv4Network]] = []
        for i, network in enumerate(self.members.allow):
            if not isinstance(network, IPv4Network):
                continue
            where = f"members.allow[{i}]"
            if network.prefixlen < 16:
                raise fault(where, f"{network} is larger than a /16: nodes in it could share their low 16 bits")
            if network.overlaps(self.bgp.identity_prefix):
                raise fault(where, f"{network} overlaps bgp.identity_prefix, which routers must not confuse with nodes")
            first = int(network.network_address) & 0xFFFF
            tags = range(first, first + network.num_addresses)
            for others, other in taken:
                if tags.start < others.stop and others.start < tags.stop and network != other:
                    raise fault(where, f"{network} and {other} hold nodes with the same low 16 bits")
            taken.append((tags, network))

    @property
    def vips(self) -> tuple[Address, ...]:
        """Every VIP once, in the order of the file."""
        return tuple(dict.fromkeys(service.vip for service in self.services))

    @property
    def allowed(self) -> tuple[Network, ...]:
        """Where the routes of VIPs may lie."""
        return self.bgp.allow or tuple(ip_network(vip) for vip in self.vips)

    def announce_of(self, vip: Address) -> AnnounceConfig:
        """What a VIP's routes carry."""
        said = (service.announce for service in self.services if service.vip == vip and service.announce)
        return next(said, AnnounceConfig())

    @property
    def hash_key(self) -> bytes:
        """The secret of the flow hash, 16 bytes, the same on every node of the cluster."""
        return self._secret or self._derived_key

    @property
    def previous_key(self) -> bytes | None:
        """The secret of the previous epoch's flow hash; None where there is no previous one."""
        if self.table.previous is None:
            return None
        if "key_file" not in self.table.previous.model_fields_set:
            return self.hash_key
        return self._previous_secret or self._derived_key

    @property
    def _derived_key(self) -> bytes:
        return hashlib.sha256(b"anylb flow hash %d" % self.cluster).digest()[:16]


def load(path: Path) -> Config:
    """Read and check a file. Raises ConfigError, one line for each fault; those between sections come last."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; write it as README.md shows") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8") from None
    config = parse(text, str(path))
    table, root = config.table, yaml.compose(text, Loader=yaml.SafeLoader)
    assert root is not None  # parse took it
    if table.key_file is not None:
        config._secret = read_secret(path.parent / table.key_file, place(root, str(path), "table", "key_file"))
    if table.previous is None:
        return config
    if table.previous.key_file is not None:
        where = place(root, str(path), "table", "previous", "key_file")
        config._previous_secret = read_secret(path.parent / table.previous.key_file, where)
    numbers = [one.number for one in epoch.supported(config)]
    if numbers[0] == numbers[1]:
        where = place(root, str(path), "table", "previous")
        raise ConfigError(f"{where}: is the same as the table now; say in it what was different, or leave it out")
    return config


def passwords(path: Path, config: Config) -> dict[str, bytes]:
    """The MD5 passwords of the peers that have one, by `PeerConfig.name`. Only the speaker needs them, so `load` does
    not read them. Raises ConfigError, without a word of what is in a file.
    """
    found = {}
    for i, peer in enumerate(config.bgp.peers):
        if peer.password_file is not None:
            root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
            assert root is not None  # it was read
            where = place(root, str(path), "bgp", "peers", i, "password_file")
            found[peer.name] = read_password(path.parent / peer.password_file, where)
    return found


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
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date such as 2024-13-45
        raise ConfigError(f"{name}:1:1: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ConfigError(f"{name}:1:1: is nested too deeply") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{name}:1:1: is a {type(data).__name__}, not a mapping of settings")
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        raise ConfigError("\n".join(describe(root, name, error.errors(include_url=False)))) from None
