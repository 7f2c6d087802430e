# SPDX-License-Identifier: Apache-2.0
"""The types of lb.yml's values: numbers in a range, ports, addresses, networks; and the errors of wrong ones."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    PlainSerializer,
    WithJsonSchema,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

from agent.address import Address, Network
from agent.model import MAX_WEIGHT


class Section(BaseModel):
    """A mapping of lb.yml: no unknown keys, no conversion between types, immutable once read."""

    # Built when first used: that of the whole file builds all others within it, and most are never used alone. A start
    # of each daemon takes 40 ms less.
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, defer_build=True)


def fault(field: str, message: str, *, other: str = "") -> PydanticCustomError:
    """Return the error of a field below the section that is checked ("" for the value itself).

    `other` is a second field of the section, whose line the error names.
    """
    return PydanticCustomError("anylb", "{message}", {"message": message, "field": field, "other": other})


@dataclass(frozen=True)
class Within:
    """Check that a number is in a range, both ends included."""

    low: float
    high: float

    def __call__(self, value: float) -> float:
        """Return the value. Raises the error of one outside."""
        if not self.low <= value <= self.high:
            raise fault("", f"{value} is not in {self.low}-{self.high}")
        return value


@dataclass(frozen=True, slots=True)
class _Range(AfterValidator):
    """A validator for a range, which the JSON schema shows too."""

    func: Within

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(schema) | {"minimum": self.func.low, "maximum": self.func.high}


def within(low: float, high: float) -> AfterValidator:
    """Return a validator for a range, both ends included."""
    return _Range(Within(low, high))


def not_one_value(value: object) -> str | None:
    """Return what is wrong with a value where one text or number is wanted; None if it is one."""
    if value is None:
        return "is empty; give a value"
    if isinstance(value, list | tuple | dict | set):
        return f"is a {'mapping' if isinstance(value, dict) else 'list'}; give one value"
    return None


def _one_value(value: object) -> object:
    if why := not_one_value(value):
        raise fault("", why)
    return value


def given(value: object) -> object:
    """Return the value of an optional section. Raises the error of a key without one."""
    if value is None:
        raise fault("", "is empty; give its keys and values, or remove it")
    return value


def is_unicast(address: Address) -> bool:
    """Return whether packets can be sent to the address from another machine."""
    if address.is_multicast or address.is_loopback or address.is_unspecified:
        return False
    if isinstance(address, IPv6Address):
        return address.ipv4_mapped is None
    return not address.is_reserved and int(address) >> 24 != 0  # 240.0.0.0/4, 0.0.0.0/8


def _unicast(address: Address) -> Address:
    if not is_unicast(address):
        raise fault("", f"{address} is not a unicast address of another machine")
    return address


def _port_or_any(value: object) -> object:
    if value == "any" or (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 65_535):
        return value
    _one_value(value)
    raise fault("", f"{value!r} is neither in 1-65535 nor 'any'")


def _address(value: object) -> object:
    found = _zoned(value)
    if isinstance(found, IPv6Address) and found.scope_id is not None:
        raise fault("", f"'{value}' names an interface; only a BGP peer's address may")
    return found


def _zoned(value: object) -> Address:
    _one_value(value)
    try:
        return ip_address(str(value))  # ip_address(3) would be 0.0.0.3
    except ValueError:
        raise fault("", f"'{value}' is not an IP address") from None


def _peer_address(value: object) -> object:
    found = _zoned(value)
    if isinstance(found, IPv4Address):
        if not is_unicast(found) and not found.is_loopback:
            raise fault("", f"{found} cannot be a router's address")
        return found
    if found.scope_id is not None and not re.fullmatch(r"[A-Za-z0-9_.@-]{1,15}", found.scope_id):
        raise fault("", f"'{value}' has no valid interface after its %")
    if found.is_link_local and found.scope_id is None:
        raise fault("", f"{found} is link-local; add its interface, as '{found}%eth1'")
    if found.scope_id is not None and not found.is_link_local:
        raise fault("", f"'{value}' names an interface, but is not link-local")
    if found.ipv4_mapped or found.is_multicast:
        raise fault("", f"{found} cannot be a router's address")
    return found


def _community(value: object, parts: int, bits: int, example: str) -> tuple[int, ...]:
    if not isinstance(_one_value(value), str):
        raise fault("", f"{value!r} is not in quotes; write it as '{example}'")
    numbers = str(value).split(":")
    if len(numbers) != parts or not all(n.isascii() and n.isdigit() and int(n) < 1 << bits for n in numbers):
        raise fault("", f"'{value}' is not {parts} numbers of {bits} bits, as '{example}'")
    return tuple(map(int, numbers))


def as_network(value: object) -> Network:
    """Return a network from its text. Raises the error of any other value."""
    _one_value(value)
    try:
        return ip_network(str(value))
    except ValueError as error:
        why = ": it has bits set after its prefix length" if "host bits" in str(error) else ""
        raise fault("", f"'{value}' is not an IP network{why}") from None


Count = Annotated[int, Field(strict=True), within(1, 100)]
Weight = Annotated[int, Field(strict=True), within(0, MAX_WEIGHT)]
Port = Annotated[int, Field(strict=True), within(1, 65_535)]
PortOrAny = Annotated[
    int | Literal["any"],
    BeforeValidator(_port_or_any),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1, "maximum": 65_535}, {"const": "any"}]}),
]
Asn = Annotated[int, Field(strict=True), within(1, 4_294_967_294)]
Seconds = Annotated[float, Field(strict=True), within(0, 3600), Field(gt=0)]
# IPv4Address(10) would be 0.0.0.10.
V4Address = Annotated[IPv4Address, BeforeValidator(lambda value: str(value) if isinstance(value, int) else value)]
NodeAddress = Annotated[V4Address, AfterValidator(_unicast)]
AnyAddress = Annotated[Address, BeforeValidator(_address), WithJsonSchema({"type": "string"})]
UnicastAddress = Annotated[AnyAddress, AfterValidator(_unicast)]
AnyNetwork = Annotated[Network, BeforeValidator(as_network), WithJsonSchema({"type": "string"})]
PeerAddress = Annotated[Address, BeforeValidator(_peer_address), WithJsonSchema({"type": "string"})]
"""With its interface if it is link-local: fe80::1%eth1."""
_AS_TEXT = PlainSerializer(lambda numbers: ":".join(map(str, numbers)), when_used="json")
CommunityText = Annotated[
    tuple[int, int],
    BeforeValidator(lambda value: _community(value, 2, 16, "65000:100")),
    _AS_TEXT,
    WithJsonSchema({"type": "string", "pattern": r"^\d+:\d+$"}),
]
LargeCommunityText = Annotated[
    tuple[int, int, int],
    BeforeValidator(lambda value: _community(value, 3, 32, "65000:1:2")),
    _AS_TEXT,
    WithJsonSchema({"type": "string", "pattern": r"^\d+:\d+:\d+$"}),
]
Switch = Annotated[bool, Field(strict=True)]
InterfaceName = Annotated[str, Field(min_length=1, max_length=15)]
