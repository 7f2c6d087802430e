# SPDX-License-Identifier: Apache-2.0
"""lb.yml's `services[].health:`: one class for each type of check. Owns the schema, and rules within a check."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, PlainSerializer, Tag, WithJsonSchema, model_validator

from agent.config.fields import AnyAddress, Count, Port, Seconds, Section, Switch, fault

MAX_PAYLOAD = 1024
"""The most bytes that a check sends or looks for."""
MAX_STATUS = 599


def _payload(value: object) -> bytes:
    """Convert a text, or bytes as `{hex: "00 1f"}`."""
    if isinstance(value, dict) and list(value) == ["hex"] and isinstance(value["hex"], str):
        try:
            data = bytes.fromhex(value["hex"])
        except ValueError:
            raise fault("hex", f"'{value['hex']}' is not bytes in hex, as '00 1f'") from None
    elif isinstance(value, str):
        data = value.encode()
    else:
        raise fault("", "is neither a text in quotes nor {hex: '00 1f'}")
    if not 1 <= len(data) <= MAX_PAYLOAD:
        raise fault("", f"has {len(data)} bytes, not 1-{MAX_PAYLOAD}")
    return data


def _statuses(value: object) -> tuple[tuple[int, int], ...]:
    """Convert 200, "200-299" or a list of these into ranges, both ends included."""
    entries = value if isinstance(value, list) else [value]
    if not entries:
        raise fault("", "is empty; list at least one")
    return tuple(_status_range(f"[{i}]" if isinstance(value, list) else "", entry) for i, entry in enumerate(entries))


def _status_range(field: str, value: object) -> tuple[int, int]:
    found = None if isinstance(value, bool) else re.fullmatch(r"(\d{3})(?:-(\d{3}))?", str(value), re.ASCII)
    low, high = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 200 <= low <= high <= MAX_STATUS:
        raise fault(field, f"'{value}' is neither a status in 200-{MAX_STATUS} nor a range, as 200-299")
    return low, high


def _host(value: object) -> object:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9._~:\[\]-]{1,255}", value):
        raise fault("", f"{value!a} is not a host name, which has ASCII letters, digits, dots and hyphens")
    return value


def _server_name(value: object) -> object:
    labels = str(_host(value)).split(".")
    if not all(0 < len(label) < 64 for label in labels):
        raise fault("", f"'{value}' is not a host name: each part between dots has 1-63 characters")
    return value


def _command(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise fault("", "is not a list; write [/usr/bin/program, argument], or for a shell [/bin/sh, -c, '...']")
    for i, word in enumerate(value):
        if not isinstance(word, str):
            raise fault(f"[{i}]", f"{word!r} is not a string; put it in quotes")
        if "\0" in word:
            raise fault(f"[{i}]", f"{word!a} contains a NUL")
    if not value[0].startswith("/"):
        raise fault("[0]", f"'{value[0]}' does not start with /; give the whole path of the program")
    return tuple(value)


def _payload_text(data: bytes) -> str | dict[str, str]:
    """Return bytes as lb.yml has them: as text if they are printable, else in hex."""
    text = data.decode(errors="replace")
    return text if text.encode() == data and text.isprintable() else {"hex": data.hex(" ")}


def _status_texts(ranges: tuple[tuple[int, int], ...]) -> list[int | str]:
    return [low if low == high else f"{low}-{high}" for low, high in ranges]


_STATUS = {"anyOf": [{"type": "integer", "minimum": 200, "maximum": MAX_STATUS}, {"type": "string"}]}
Payload = Annotated[
    bytes,
    BeforeValidator(_payload),
    PlainSerializer(_payload_text, when_used="json"),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                {
                    "type": "object",
                    "properties": {"hex": {"type": "string"}},
                    "required": ["hex"],
                    "additionalProperties": False,
                },
            ]
        }
    ),
]
Statuses = Annotated[
    tuple[tuple[int, int], ...],
    BeforeValidator(_statuses),
    PlainSerializer(_status_texts, when_used="json"),
    WithJsonSchema({"anyOf": [*_STATUS["anyOf"], {"type": "array", "items": _STATUS, "minItems": 1}]}),
]
Host = Annotated[str, BeforeValidator(_host)]
ServerName = Annotated[str, BeforeValidator(_server_name)]


class CheckConfig(Section):
    """What every type of check has."""

    interval_s: Seconds = 1.0
    """The time between checks, in seconds. Example: `0.5`."""
    timeout_s: Seconds = 1.0
    """How long a check may take, in seconds; by default `interval_s`, 1 at most. Example: `0.5`."""
    fast_interval_s: Seconds | None = None
    """The interval while the last results contradict the current state, so that a change is certain sooner, in seconds.
    Example: `0.2`."""
    disable_file: Path | None = None
    """While this file exists the service takes no new connections here, whatever the checks return. Example:
    `/etc/web/maintenance`."""
    rise: Count = 2
    """How many successes in a row make the service healthy. Example: `1`."""
    fall: Count = 3
    """How many failures in a row make it unhealthy. Example: `2`."""

    @model_validator(mode="before")
    @classmethod
    def _default_timeout(cls, value: object) -> object:
        interval_s = value.get("interval_s") if isinstance(value, dict) else None
        if isinstance(value, dict) and isinstance(interval_s, int | float) and 0 < interval_s < 1:
            return {"timeout_s": interval_s, **value}
        return value

    @model_validator(mode="after")
    def _times(self) -> Self:
        if self.timeout_s > self.interval_s:
            why = f"{self.timeout_s:g} is longer than interval_s, {self.interval_s:g}; raise interval_s or lower it"
            raise fault("timeout_s", why)
        if self.fast_interval_s is not None and self.fast_interval_s > self.interval_s:
            raise fault("fast_interval_s", f"{self.fast_interval_s:g} is longer than interval_s, {self.interval_s:g}")
        if self.disable_file is not None and not self.disable_file.is_absolute():
            raise fault("disable_file", f"'{self.disable_file}' does not start with /")
        return self


class NetworkCheckConfig(CheckConfig):
    """A check over the network stack: through the VIP on lo, or through a loopback address that several VIPs share."""

    address: AnyAddress | None = None
    """The address that is asked: the VIP on lo by default, or a loopback address that several VIPs share. Example:
    `127.0.0.1`."""
    port: Port | None = None
    """The port that is asked, by default the service's own. Example: `8080`."""

    @model_validator(mode="after")
    def _loopback(self) -> Self:
        if self.address is not None and not self.address.is_loopback:
            why = "is not a loopback address; the file is the same on every node, and each checks its own service"
            raise fault("address", f"{self.address} {why}")
        return self


class TcpCheckConfig(NetworkCheckConfig):
    """A connection is accepted, or the service sends what is expected."""

    type: Literal["tcp"] = "tcp"
    """A connection is accepted; with `expect`, the service sends this text. Example: `tcp`."""
    send: Payload | None = None
    r"""What is sent first: a text, or `{hex: "00 1f"}`. Example: `"PING\r\n"`."""
    expect: Payload | None = None
    """What the answer must contain. Example: `"PONG"`."""

    @model_validator(mode="after")
    def _answer(self) -> Self:
        if self.send is not None and self.expect is None:
            raise fault("send", "needs expect: without it the answer is not read")
        return self


class UdpCheckConfig(NetworkCheckConfig):
    """A datagram is answered."""

    type: Literal["udp"]
    """A datagram is answered. Example: `udp`."""
    send: Payload
    """What is sent: a text, or `{hex: "00 1f"}`. Example: `"ping"`."""
    expect: Payload | None = None
    """What the answer must contain; any answer by default. Example: `"pong"`."""


class HttpExpectConfig(Section):
    """What a response must have: one of these statuses, and this text in its body."""

    status: Statuses = ((200, 399),)
    """The statuses that count: numbers and ranges. Example: `[200, 204]`."""
    body: Annotated[str, Field(min_length=1, max_length=MAX_PAYLOAD)] | None = None
    """A text that the body must contain, within its first 64 KiB. Example: `ready`."""


class HttpCheckConfig(NetworkCheckConfig):
    """A GET is answered as expected. Redirects are not followed."""

    type: Literal["http", "https"]
    """A GET over HTTP. Redirects are not followed. Example: `http`."""
    path: str = "/"
    """The path that is asked for. Example: `/up`."""
    host: Host | None = None
    """The Host header, by default address and port. Example: `www.example.com`."""
    expect: HttpExpectConfig = HttpExpectConfig()
    """What the response must have. Example: `{status: 200, body: ready}`."""

    @model_validator(mode="after")
    def _path(self) -> Self:
        if not self.path.startswith("/"):
            raise fault("path", f"'{self.path}' does not start with /")
        return self


class HttpsCheckConfig(HttpCheckConfig):
    """The same over TLS."""

    type: Literal["https"]
    """The same over TLS. Example: `https`."""
    server_name: ServerName | None = None
    """The name in SNI and in the certificate, by default that of `host`. Example: `www.example.com`."""
    verify: Switch = True
    """Whether the certificate must be valid. Example: `false`."""
    ca_file: Path | None = None
    """The certificates to trust, in PEM, by default the system's. Example: `/etc/ssl/web-ca.pem`."""

    @model_validator(mode="after")
    def _certificate(self) -> Self:
        if self.verify and self.name is None:
            raise fault("server_name", "is missing; give the name in the certificate, or set verify: false")
        if self.ca_file is not None and not self.verify:
            raise fault("ca_file", "is not used with verify: false; remove one of them")
        if self.ca_file is not None and not self.ca_file.is_absolute():
            raise fault("ca_file", f"'{self.ca_file}' does not start with /")
        if self.server_name is None and self.name is not None:
            _server_name(self.name)
        return self

    @property
    def name(self) -> str | None:
        """The server's name in TLS; None to send and to check none."""
        if self.server_name is not None or self.host is None:
            return self.server_name
        bracketed = re.fullmatch(r"\[(.*)\](?::\d*)?", self.host)
        return bracketed[1] if bracketed else self.host.partition(":")[0]


class ExecCheckConfig(CheckConfig):
    """A program, started without a shell as `user`: its exit status 0 is a success."""

    type: Literal["exec"]
    """A program's exit status is 0. Example: `exec`."""
    command: Annotated[tuple[str, ...], BeforeValidator(_command)]
    """The program and its arguments. No shell is involved. Example: `[/usr/bin/check-web, --fast]`."""
    user: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}$")]
    """The system user that it runs as. Example: `nagios`."""


_KINDS: dict[str, type[CheckConfig]] = {
    "tcp": TcpCheckConfig,
    "udp": UdpCheckConfig,
    "http": HttpCheckConfig,
    "https": HttpsCheckConfig,
    "exec": ExecCheckConfig,
}


def _type(value: object) -> str:
    return str(value.get("type", "tcp") if isinstance(value, dict) else getattr(value, "type", "tcp"))


def _known_keys(value: object) -> object:
    """Report an unknown type, and settings of another type, which pydantic would call unknown keys."""
    if not isinstance(value, dict):
        return value
    kind = _type(value)
    if kind not in _KINDS:
        raise fault("type", f"'{kind}' is not {', '.join(_KINDS)}")
    for key in value:
        others = [name for name, config in _KINDS.items() if key in config.model_fields]
        if others and kind not in others:
            raise fault(str(key), f"is for type {' or '.join(others)}, not {kind}")
    return value


HealthConfig = Annotated[
    Annotated[TcpCheckConfig, Tag("tcp")]
    | Annotated[UdpCheckConfig, Tag("udp")]
    | Annotated[HttpCheckConfig, Tag("http")]
    | Annotated[HttpsCheckConfig, Tag("https")]
    | Annotated[ExecCheckConfig, Tag("exec")],
    Discriminator(_type),
    BeforeValidator(_known_keys),
]
"""How the local service is checked, by `type`, tcp by default."""
