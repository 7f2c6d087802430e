# SPDX-License-Identifier: Apache-2.0
"""lb.yml's `services:`: what is balanced, how, and its health check. Owns the schema, and rules within a service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from agent.config.bgp import AnnounceConfig
from agent.config.fields import AnyAddress, Count, Port, PortOrAny, Seconds, Section, Weight, fault, is_unicast


class HealthConfig(Section):
    """How the local service is checked, through the VIP on lo.

    `rise` successes in a row make it healthy, `fall` failures unhealthy. `port` defaults to the service's own.
    `fast_interval_s` is the interval while the last results contradict the current state, so that a change is certain
    sooner. While `disable_file` exists the service takes no new connections here, whatever the checks return.
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
            raise fault("path", f"'{self.path}' does not start with /")
        if self.fast_interval_s is not None and self.fast_interval_s > self.interval_s:
            raise fault("fast_interval_s", f"{self.fast_interval_s:g} is longer than interval_s, {self.interval_s:g}")
        if self.disable_file is not None and not self.disable_file.is_absolute():
            raise fault("disable_file", f"'{self.disable_file}' does not start with /")
        return self


class ServiceConfig(Section):
    """One VIP, protocol and port (or any port), and its health check on this node.

    `affinity`: the fields that decide a packet's owner: all (5-tuple), all but the client's port (3-tuple), or the two
    addresses (2-tuple). `forward`: how a packet reaches its owner. `hash`: how owners are chosen. `when_no_member`:
    whether packets are passed to this node's kernel or dropped while no member takes them. `when_unhealthy`: when no
    member is healthy, either all that are up take new connections as if they were healthy (fail_open), or every node
    withdraws the VIP so that another site can take over (withdraw).
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
        if self.vip.is_link_local or not is_unicast(self.vip):
            raise fault("vip", f"{self.vip} cannot be a virtual IP; give a unicast address")
        if self.health.port is None and (self.port == "any" or self.protocol == "udp"):
            raise fault("health", "needs a port of its own: set health.port to a TCP port")
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
