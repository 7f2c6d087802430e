# SPDX-License-Identifier: Apache-2.0
"""Reads tests/fixtures/*.yml: packets as data, layer by layer, and the world that they meet.

    - what: a description
      in: [layer: {field: value}, ...]   scapy's layers and fields; world.yml has the defaults
      cut: 40                            only so many bytes of it
      service: echo                      the service of the counters and the row; none: slot 0
      maps: {chain: [2, 3]}              what differs from the world of world.yml
      verdict: pass | drop | tx | redirect
      out: {to: 2, hop: 1}               forwarded by MAC, with a marker
           {opened: true}                the packet that a tunnel carried; `to` and `hop` may be added
           [layer: {field: value}, ...]  in full; `same` is the IP packet that came, `same: 504` its first bytes
      counted: [rx, forward_first]
      unserved: [rx, forward_fragment]   likewise, counted for no service
      never: [drop, to 3, ...]           verdicts, counters and next nodes that must not be

Owns reading only; the expected results in the files were decided by hand, not computed by the oracle.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import yaml
from scapy.fields import ByteField, IntField, LongField, MACField, ShortField, XIntField
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    ICMPv6ND_NS,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw
from support.oracle.echo import Echo
from support.oracle.world import Node, Row, Service, World
from support.proof.stage import ROWS
from support.proof.stage_sockets import Sockets

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C one is ten times faster
FOLDER = Path(__file__).parents[2] / "fixtures"
PROTOCOLS = {"tcp": 6, "udp": 17}


class EchoLayer(Packet):  # type: ignore[misc]
    """bpf/layout/echo.py has the diagram."""

    name = "echo"
    fields_desc = (
        XIntField("magic", 0x4C424543), ByteField("kind", 1), ByteField("flags", 0), ShortField("version", 1),
        IntField("cluster", 0), XIntField("heartbeat_age", 0), LongField("nonce", 0), LongField("boot", 0),
        IntField("epoch", 0), IntField("other_epoch", 0), XIntField("view", 0), XIntField("tables", 0),
        MACField("back", "00:00:00:00:00:00"), ByteField("encap", 0), ByteField("zero", 0), LongField("reserved", 0),
    )  # fmt: skip


LAYERS: dict[str, type[Packet]] = {
    "eth": Ether, "vlan": Dot1Q, "arp": ARP, "ip": IP, "ip6": IPv6, "tcp": TCP, "udp": UDP, "icmp": ICMP,
    "outer": IP, "outer6": IPv6, "gue": UDP, "unreachable6": ICMPv6DestUnreach, "too_big6": ICMPv6PacketTooBig,
    "time6": ICMPv6TimeExceeded, "parameter6": ICMPv6ParamProblem, "echo6": ICMPv6EchoRequest,
    "neighbor6": ICMPv6ND_NS,
    "hop_by_hop": IPv6ExtHdrHopByHop, "destination": IPv6ExtHdrDestOpt, "routing": IPv6ExtHdrRouting,
    "fragment6": IPv6ExtHdrFragment, "echo": EchoLayer,
}  # fmt: skip
NAMES = {
    "ESTABLISHED": Sockets.ESTABLISHED, "TIME_WAIT": Sockets.TIME_WAIT, "SYN_RECV": Sockets.SYN_RECV,
    "CONNECTED": Sockets.CONNECTED,
}  # fmt: skip
KEYS = {"what", "in", "cut", "maps", "service", "verdict", "out", "counted", "unserved", "never"}
MAPS = {
    "chain",
    "grace",
    "up",
    "no_mac",
    "silent",
    "awaited",
    "nodes",
    "deny",
    "drop_no_member",
    "class_e",
    "drop_other",
    "first",
    "vlans",
}


@dataclass(frozen=True)
class Fixture:
    name: str
    frame: bytes
    world: World
    verdict: str
    out: bytes
    counted: tuple[tuple[int, str], ...]
    never: tuple[str, ...]


def _load(path: Path) -> Any:
    return yaml.load(path.read_text(), _LOADER)  # noqa: S506 - a safe loader, see above


@cache
def _world_file() -> Any:
    return _load(FOLDER / "world.yml")


@cache
def base_world() -> World:
    """Return the world of world.yml."""
    data = _world_file()
    services = {
        (ip_address(entry["vip"]), PROTOCOLS[entry["protocol"]], entry["port"]): Service(
            entry["slot"], entry.get("up", True), entry.get("affinity", 5), entry.get("forward", "l2")
        )
        for entry in data["services"].values()
    }
    chain = _table(tuple(data["chain"]), False)
    tables = {entry["slot"]: chain for entry in data["services"].values() if entry.get("table", True)}
    nodes = {number: _node(entry) for number, entry in data["nodes"].items()}
    prefixes = tuple(ip_network(prefix) for prefix in data["prefixes"])
    secret = bytes.fromhex(data["secret"])
    echo = Echo(**{**data["echo"], "epochs": tuple(data["echo"]["epochs"])})
    known = {"prefixes": prefixes, "echo": echo, "vlans": {0, *data["vlans"]}}
    return World(data["mac"], data["me"], nodes, secret, services, tables, **known)


def _node(entry: dict[str, Any]) -> Node:
    addresses = {name: ip_address(entry[name]) for name in ("address", "address6")}
    return Node(entry["tag"], entry["mac"], **addresses)


@cache
def _table(chain: tuple[int, ...], grace: bool) -> list[Row]:
    return [Row(chain, grace)] * ROWS


@dataclass(frozen=True)
class Entry:
    """A fixture as its file has it. Its packets are built when a test wants them: every worker collects all entries."""

    name: str
    fields: dict[str, Any]

    def build(self) -> Fixture:
        """Return the fixture."""
        return _fixture(self.name, self.fields)


def entries() -> Iterator[Entry]:
    """Return the fixtures of all files."""
    for path in sorted(FOLDER.glob("*.yml")):
        if path.name != "world.yml":
            for entry in _load(path):
                yield Entry(f"{path.stem}: {entry['what']}", entry)


def _fixture(name: str, entry: dict[str, Any]) -> Fixture:
    try:
        assert not entry.keys() - KEYS, f"unknown: {entry.keys() - KEYS}"
        defaults = _world_file()["defaults"]
        pairs = [next(iter(layer.items())) if isinstance(layer, dict) else (layer, {}) for layer in entry["in"]]
        if pairs[0][0] != "eth":
            pairs.insert(0, ("eth", {}))
        frame = bytes(_stack(pairs, defaults))[: entry.get("cut")]
        before_ip = sum(kind in ("eth", "vlan") for kind, _ in pairs)
        carried = [kind in ("outer", "outer6", "gue") for kind, _ in pairs]
        inner = len(pairs) - carried[::-1].index(True) if any(carried) else before_ip
        came = bytes(_stack(pairs[inner:], defaults)) if inner < len(pairs) else b""
        slot = _world_file()["services"][entry["service"]]["slot"] if "service" in entry else 0
        world = _with_maps(base_world(), slot, entry.get("maps", {}))
        counted = tuple((slot, event) for event in entry["counted"])
        counted += tuple((0, event) for event in entry.get("unserved", ()))
        out = _out(frame, frame[12 : 8 + 4 * before_ip], came, entry.get("out"))
        return Fixture(name, frame, world, entry["verdict"], out, counted, tuple(entry["never"]))
    except Exception as error:
        error.add_note(f"in the fixture {name!r}")
        raise


def _with_maps(world: World, slot: int, maps: dict[str, Any]) -> World:
    assert not maps.keys() - MAPS, f"unknown: {maps.keys() - MAPS}"
    tables = dict(world.tables)
    if slot in tables:
        default = tables[slot][0]
        tables[slot] = _table(tuple(maps.get("chain", default.chain)), maps.get("grace", False))
    nodes = dict(world.nodes)
    for number in maps.get("no_mac", ()):
        nodes[number] = replace(nodes[number], mac=None)
    for number in maps.get("silent", ()):
        nodes[number] = replace(nodes[number], silent=True)
    for number in maps.get("awaited", ()):
        nodes[number] = replace(nodes[number], silent=True, awaited=True)
    for number, changes in maps.get("nodes", {}).items():
        nodes[number] = replace(nodes[number], **changes)
    changed = {name: maps[name] for name in ("up", "drop_no_member") if name in maps}
    services = {
        key: replace(service, **changed) if service.slot == slot else service for key, service in world.services.items()
    }
    denied = tuple(ip_network(prefix) for prefix in maps.get("deny", ()))
    switches = {name: maps[name] for name in ("class_e", "drop_other") if name in maps}
    first = {
        (ip_address(entry["client"]), ip_address(entry["vip"]), PROTOCOLS[entry["protocol"]], entry["id"]): (
            entry["sport"], entry["dport"], entry["opens"],
        )
        for entry in maps.get("first", ())
    }  # fmt: skip
    replaced = {"tables": tables, "nodes": nodes, "services": services, "denied": denied, "first_fragments": first}
    replaced["vlans"] = {0, *maps["vlans"]} if "vlans" in maps else world.vlans
    return replace(world, **replaced, **switches)


def _stack(pairs: list[tuple[str, Any]], defaults: dict[str, dict[str, Any]], same: bytes = b"") -> Packet:
    packet: Packet | None = None
    for kind, given in pairs:
        layer = Raw(same[: given or None]) if kind == "same" else _layer(kind, given, defaults)
        packet = layer if packet is None else packet / layer
    assert packet is not None
    return packet


def _layer(kind: str, given: Any, defaults: dict[str, dict[str, Any]]) -> Packet:
    if kind == "raw":
        return Raw(bytes.fromhex(given) if isinstance(given, str) else b"\xa5" * given)
    values = {**defaults.get(kind, {}), **(given or {})}
    if "marker" in values:
        hop, tag = values.pop("marker")
        values["src"] = f"02:4c:42:{hop:02x}:{tag >> 8:02x}:{tag & 0xFF:02x}"
    quote = values.pop("quote", None)
    if isinstance(values.get("options"), str):
        values["options"] = [IPOption(bytes.fromhex(values["options"]))]
    if isinstance(values.get("chksum"), str):
        del values["chksum"]
    values = {name: NAMES.get(value, value) if isinstance(value, str) else value for name, value in values.items()}
    layer = LAYERS[kind](**values)
    return layer / Raw(_quoted(quote)) if quote else layer


def _quoted(quote: dict[str, Any]) -> bytes:
    """Return the first bytes of a packet, as an ICMP error quotes it."""
    pairs = [next(iter(layer.items())) for layer in quote["of"]]
    return bytes(_stack(pairs, _world_file()["reply"]))[: quote.get("cut", 28)]


def _out(frame: bytes, tags: bytes, came: bytes, out: Any) -> bytes:
    """Return the expected frame. `tags` and `came`: the VLAN tags and the innermost IP packet that came."""
    if out is None:
        return frame
    if isinstance(out, list):
        pairs = [next(iter(layer.items())) if isinstance(layer, dict) else (layer, {}) for layer in out]
        return bytes(_stack(pairs, _world_file()["sent"], came))
    if out.get("opened"):
        frame = frame[:12] + tags + (b"\x86\xdd" if came[0] >> 4 == 6 else b"\x08\0") + came
    if "to" not in out:
        return frame
    nodes = _world_file()["nodes"]
    tag = nodes[_world_file()["me"]]["tag"]
    marker = bytes([2, 0x4C, 0x42, out["hop"], tag >> 8, tag & 0xFF])
    return bytes.fromhex(nodes[out["to"]]["mac"].replace(":", "")) + marker + frame[12:]
