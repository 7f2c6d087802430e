# SPDX-License-Identifier: Apache-2.0
"""lb.yml's `metrics:`: where the agent serves its metrics and its health. Owns the schema."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated

from pydantic import BeforeValidator

from agent.address import Address
from agent.config.fields import Section, fault

OFF = "off"


def _listen(value: object) -> str:
    if value is False or value == OFF:  # an unquoted off is a boolean in YAML 1.1
        return OFF
    if not isinstance(value, str):
        raise fault("", f"{value!r} is no address with a port, as 127.0.0.1:9742, nor off")
    host, _, port = value.rpartition(":")
    try:
        address = ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        raise fault("", f"{value} is no address with a port, as 127.0.0.1:9742 or [::1]:9742, nor off") from None
    if (address.version == 6) != host.startswith("["):
        raise fault("", f"{value}: an IPv6 address is in brackets, as [::1]:9742")
    if not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65_535):
        raise fault("", f"{value}: the port is not in 1-65535")
    return value


class MetricsConfig(Section):
    """Where the agent serves `/metrics` for Prometheus and `/health`, over HTTP without a password."""

    listen: Annotated[str, BeforeValidator(_listen)] = "127.0.0.1:9742"
    """The address and port, by default reached from this machine only; `off`: none. Example: `10.0.0.11:9742`."""

    @property
    def endpoint(self) -> tuple[Address, int] | None:
        """The address and port to listen at; None: nowhere."""
        if self.listen == OFF:
            return None
        host, _, port = self.listen.rpartition(":")
        return ip_address(host.strip("[]")), int(port)
