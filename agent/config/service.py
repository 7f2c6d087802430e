# SPDX-License-Identifier: Apache-2.0
"""lb.yml's `services:`: what is balanced, and how. Owns the schema, and rules within a service.

Health checks are health.py's.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from agent.address import Address
from agent.config.bgp import AnnounceConfig
from agent.config.fields import AnyAddress, PortOrAny, Section, Weight, fault, is_unicast
from agent.config.health import ExecCheckConfig, HealthConfig, TcpCheckConfig
from agent.config.instances import InstancesConfig
from agent.model import service_key
from bpf.layout.service import Affinity

AFFINITIES = {"5-tuple": Affinity.FIVE_TUPLE, "3-tuple": Affinity.THREE_TUPLE, "2-tuple": Affinity.TWO_TUPLE}


class ServiceConfig(Section):
    """One VIP, protocol and port (or any port), and its health check on this node.

    `affinity`: the fields that decide a packet's owner: all (5-tuple), all but the client's port (3-tuple), or the two
    addresses (2-tuple). `forward`: how a packet reaches its owner. `hash`: how owners are chosen. `when_no_member`:
    whether packets are passed to this node's kernel or dropped while no member takes them. `when_unhealthy`: when no
    member is healthy, either all that are up take new connections as if they were healthy (fail_open), or every node
    withdraws the VIP so that another site can take over (withdraw). `instances`: how connections are divided among
    several server processes of this node; without it the kernel divides them.
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
    health: HealthConfig = TcpCheckConfig()
    announce: AnnounceConfig | None = None
    instances: InstancesConfig | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.vip.is_link_local or not is_unicast(self.vip):
            raise fault("vip", f"{self.vip} cannot be a virtual IP; give a unicast address")
        self._check_health_port()
        if self.instances and self.port == "any":
            raise fault("instances", "is for services with one port, not with any")
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
