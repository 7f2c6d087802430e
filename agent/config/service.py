# SPDX-License-Identifier: Apache-2.0
"""lb.yml's `services:`: what is balanced, and how. Owns the schema, and rules within a service.

Health checks are health.py's.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from agent.address import Address, endpoint
from agent.config import nat
from agent.config.bgp import AnnounceConfig
from agent.config.fields import AnyAddress, PortOrAny, Section, Weight, fault, is_unicast
from agent.config.health import ExecCheckConfig, HealthConfig, TcpCheckConfig
from agent.config.instances import InstancesConfig, Target
from agent.config.nat import BackendConfig, Balance, OnDown
from agent.model import service_key
from bpf.layout.service import Affinity

AFFINITIES = {"5-tuple": Affinity.FIVE_TUPLE, "3-tuple": Affinity.THREE_TUPLE, "2-tuple": Affinity.TWO_TUPLE}
_ONLY_NAT = ("balance", "on_down", "backends")
_ONLY_DSR = {"weight": "nat.weight", "forward": "nat.forward", "hash": "", "when_no_member": "", "instances": ""}
"""The keys without a meaning for NAT, and the key to set instead."""


class ServiceConfig(Section):
    """One VIP, protocol and port (or any port), its servers and their health check."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
    """The name in `lbctl` and in metrics: lower-case letters, digits, `-` and `_`. Example: `web`."""
    vip: AnyAddress
    """The virtual IP, which clients connect to. Example: `192.0.2.10`."""
    protocol: Literal["tcp", "udp"]
    """The protocol. One VIP may have services of both. Example: `tcp`."""
    port: PortOrAny
    """The port that clients connect to, or all ports of the VIP and protocol that no other service has. Example:
    `443`."""
    weight: Weight = 100
    """This node's share of new connections, relative to other nodes' weights; 0: none. Example: `50`."""
    affinity: Literal["5-tuple", "3-tuple", "2-tuple"] = "5-tuple"
    """The fields that decide a packet's owner: all (`5-tuple`), all but the client's port (`3-tuple`), or the two
    addresses (`2-tuple`). Example: `3-tuple`."""
    forward: Literal["l2", "ipip", "gue"] = "gue"
    """How a packet reaches its owner: `l2` by MAC address, if all nodes share a segment; `ipip` or `gue` (UDP) in a
    tunnel, across routers too. Example: `l2`."""
    hash: Literal["rendezvous", "maglev"] = "rendezvous"
    """How owners are chosen. `rendezvous` moves the fewest connections. `maglev` has more even shares (the largest is
    2 % above the mean with 64 nodes of equal weight, 6 to 8 % with `rendezvous`), moves more of them, and needs a
    line in lb.yml ([version](releases.md#the-version-of-the-table)). Example: `maglev`."""
    when_no_member: Literal["pass", "drop"] = "pass"
    """Whether packets pass to this node's kernel or are dropped while no member takes them. Example: `drop`."""
    when_unhealthy: Literal["fail_open", "withdraw"] = "fail_open"
    """When no member is healthy, all that are up take new connections as if they were healthy (`fail_open`), or every
    node withdraws the VIP, so that another site can take over (`withdraw`). Example: `withdraw`."""
    health: HealthConfig = TcpCheckConfig()
    """How this node checks its own server. See [health checks](health.md). Example: `{type: http, port: 8080, path:
    /up}`."""
    announce: AnnounceConfig | None = None
    """Attributes of the VIP's routes. Example: `{med: 50}`."""
    instances: InstancesConfig | None = None
    """How connections are divided among several server processes of this node. See [instances](instances.md). Example:
    `{policy: standby, match: {unit: "web@*.service"}}`."""
    mode: Literal["dsr", "nat"] = "dsr"
    """Whether the nodes serve it themselves and answer directly (`dsr`), or backends without an agent do (`nat`). See
    [NAT](nat.md). Example: `nat`."""
    balance: Balance = "hash"
    """How a new session's backend is chosen: by the fields of `affinity` (`hash`), in turn (`round_robin`), the one
    with the fewest sessions for its weight (`least_connections`), or in turn in proportion to weights (`weighted`).
    Example: `least_connections`."""
    on_down: OnDown = "reset"
    """Whether sessions of a backend that went down are reset or kept. Example: `keep`."""
    backends: Annotated[tuple[BackendConfig, ...], Field(max_length=nat.MAX_BACKENDS_OF_SERVICE)] = ()
    """The servers of `mode: nat`. Example: `[{address: 10.9.0.11, port: 8443}]`."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.vip.is_link_local or not is_unicast(self.vip):
            raise fault("vip", f"{self.vip} cannot be a virtual IP; give a unicast address")
        self._check_mode()
        self._check_health_port()
        if self.instances:
            self._check_steer(self.instances)
        hop = self.announce.next_hop if self.announce else None
        if hop is not None and (hop.version != self.vip.version or hop == self.vip):
            raise fault("announce.next_hop", f"{hop} cannot be the next hop of {self.vip}")
        return self

    @property
    def port_number(self) -> int:
        """The port, 0 for any."""
        return 0 if self.port == "any" else self.port

    @property
    def key(self) -> str:
        """The name of the service that is the same on every node."""
        return service_key(self.vip, self.protocol, self.port_number)

    @property
    def steer(self) -> Target | Literal["auto"] | None:
        """Where its servers listen instead; None: on its own port."""
        return self.instances.steer if self.instances else None

    @property
    def pool(self) -> str:
        """The name of the port that its instances share, as `tcp/443`: services of one name have the same servers."""
        if self.steer == "auto":
            return f"{self.protocol}/{self.port_number}/auto"
        return f"{self.protocol}/{self.steer.port if self.steer else self.port_number}"

    def _check_steer(self, instances: InstancesConfig) -> None:
        steer = instances.steer
        if steer is None:
            if self.port == "any":
                raise fault("instances", "is for services with one port; for any, set instances.steer to the servers'")
            return
        if self.protocol == "udp":
            instead = "have it listen on all addresses, on the service's port, and remove steer"
            raise fault(
                "instances.steer", f"is for protocol tcp: a UDP server would answer from its own port; {instead}"
            )
        if steer == "auto":
            return
        if steer.address.version != self.vip.version:
            instead = f"give the IPv{self.vip.version} address and port of the servers"
            raise fault("instances.steer", f"{steer} gets no connections to {self.vip}; {instead}")
        if steer == (self.vip, self.port):
            raise fault("instances.steer", f"{steer} is the service itself; remove it")

    def _check_mode(self) -> None:
        if self.mode == "dsr":
            for name in _ONLY_NAT:
                if name in self.model_fields_set:
                    raise fault(name, "is for mode nat; remove it, or set mode: nat")
            return
        for name, instead in _ONLY_DSR.items():
            if name in self.model_fields_set:
                step = f"set {instead} for all NAT services" if instead else "remove it"
                raise fault(name, f"is for mode dsr, not nat; {step}")
        if self.port == "any":
            raise fault("port", "is any, but a NAT service has one port; give it, or use mode dsr")
        if isinstance(self.health, ExecCheckConfig):
            raise fault("health.type", "exec cannot check a backend from here; use tcp, udp, http or https")
        for name in ("address", "disable_file"):
            if getattr(self.health, name) is not None:
                raise fault(f"health.{name}", "is for mode dsr: each backend is asked at its own address; remove it")
        self._check_backends()

    def _check_backends(self) -> None:
        if not self.backends:
            raise fault("backends", "is missing; list the servers, as {address: 10.9.0.11, port: 8443}")
        seen: dict[tuple[Address, int], int] = {}
        for i, backend in enumerate(self.backends):
            where = f"backends[{i}]"
            if backend.address.version != self.vip.version:
                differs = f"{backend.address} is of a different family than the VIP, {self.vip}"
                raise fault(f"{where}.address", f"{differs}; give its IPv{self.vip.version} address")
            first = seen.setdefault((backend.address, backend.port), i)
            if first != i:
                named = endpoint(backend.address, backend.port)
                raise fault(where, f"{named} is listed twice; remove one", other=f"backends[{first}]")
            if backend.address.is_link_local:
                raise fault(f"{where}.address", f"{backend.address} is link-local; give an address that is routed")

    def _check_health_port(self) -> None:
        check = self.health
        if isinstance(check, ExecCheckConfig) or check.port is not None:
            return
        protocol = "udp" if check.type == "udp" else "tcp"
        if self.port == "any" or self.protocol != protocol:
            raise fault("health", f"needs a port of its own: set health.port to a {protocol.upper()} port")

    @property
    def health_target(self) -> tuple[Address, int] | None:
        """The address and port that the health check asks; None for a program."""
        if isinstance(self.health, ExecCheckConfig):
            return None
        return self.health.address or self.vip, self.health.port or self.port_number
