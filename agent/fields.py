# SPDX-License-Identifier: Apache-2.0
"""The kinds of values that lb.yml knows: numbers in a range, ports, addresses, networks; how a wrong one is told."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address, ip_network
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from agent.model import Address, Network


def fault(field: str, message: str) -> PydanticCustomError:
    """A fault of a field below the section that is being checked ("" for the value itself)."""
    return PydanticCustomError("anylb", "{message}", {"message": message, "field": field})


def within(low: int, high: int) -> AfterValidator:
    """The value's range, as the message tells it."""

    def check(value: float) -> float:
        if not low <= value <= high:
            raise fault("", f"{value} is not in {low}-{high}")
        return value

    return AfterValidator(check)


def _port_or_any(value: object) -> object:
    if value == "any" or (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 65_535):
        return value
    raise fault("", f"{value!r} is not in 1-65535, nor 'any'")


def _address(value: object) -> object:
    try:
        return ip_address(str(value))  # a number would be an address to it: 3 is 0.0.0.3
    except ValueError:
        raise fault("", f"'{value}' is not an IP address") from None


def _network(value: object) -> object:
    try:
        return ip_network(str(value))
    except ValueError as error:
        why = ": it has bits set behind its length" if "host bits" in str(error) else ""
        raise fault("", f"'{value}' is not an IP network{why}") from None


Count = Annotated[int, Field(strict=True), within(1, 100)]
Weight = Annotated[int, Field(strict=True), within(0, 10_000)]
Port = Annotated[int, Field(strict=True), within(1, 65_535)]
PortOrAny = Annotated[int | Literal["any"], BeforeValidator(_port_or_any)]
Asn = Annotated[int, Field(strict=True), within(1, 4_294_967_294)]
Seconds = Annotated[float, Field(strict=True), within(0, 3600), Field(gt=0)]
V4Address = Annotated[IPv4Address, BeforeValidator(str)]  # 10 is not 0.0.0.10
AnyAddress = Annotated[Address, BeforeValidator(_address)]
AnyNetwork = Annotated[Network, BeforeValidator(_network)]
InterfaceName = Annotated[str, Field(min_length=1, max_length=15)]
