# SPDX-License-Identifier: Apache-2.0
"""Reads tests/fixtures/*.yml: packets as data, layer by layer, and the world that they meet.

    - what: a description
      in: [layer: {field: value}, ...]   scapy's layers and fields; Ethernet, addresses and ports have defaults
      cut: 40                            only so many bytes of it
      maps: {chain: [2, 3]}              what differs from the world of world.yml
      verdict: pass | drop | tx
      out: {to: 2, hop: 1}               how it leaves, if it is forwarded
      counted: [rx, forward_first]       under the fixture's service
      never: [drop, to 3, ...]           verdicts, counters and next nodes that must not be

Owns reading only; what is in the files was decided by hand, not computed by the oracle.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import yaml
from oracle_headers import Flow
from oracle_packets import Node, Row, Service, World
from proof_stage import ROWS, Sockets
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

FOLDER = Path(__file__).parents[1] / "fixtures"
PROTOCOLS = {"tcp": 6, "udp": 17, "icmp": 1}
LAYERS: dict[str, type[Packet]] = {
    "eth": Ether, "vlan": Dot1Q, "arp": ARP, "ip": IP, "ip6": IPv6, "tcp": TCP, "udp": UDP, "icmp": ICMP, "raw": Raw,
}  # fmt: skip
NAMES = {
    "ESTABLISHED": Sockets.ESTABLISHED, "TIME_WAIT": Sockets.TIME_WAIT, "SYN_RECV": Sockets.SYN_RECV,
    "CONNECTED": Sockets.CONNECTED,
}  # fmt: skip


@dataclass(frozen=True)
class Fixture:
    name: str
    frame: bytes
    world: World
    slot: int
    verdict: str
    out: bytes
    counted: tuple[tuple[int, str], ...]
    never: tuple[str, ...]


@cache
def _world_file() -> Any:
    return yaml.safe_load((FOLDER / "world.yml").read_text())


def base_world(sockets: dict[Flow, str] | None = None) -> World:
    """The world of world.yml."""
    data = _world_file()
    services = {
        (ip_address(entry["vip"]), PROTOCOLS[entry["protocol"]], entry["port"]): _service(entry)
        for entry in data["services"].values()
    }
    chain = _table(tuple(data["chain"]), False)
    tables = {entry["slot"]: chain for entry in data["services"].values() if entry.get("table", True)}
    nodes = {number: Node(entry["tag"], entry["mac"]) for number, entry in data["nodes"].items()}
    return World(data["mac"], data["me"], nodes, bytes.fromhex(data["secret"]), services, tables, sockets or {})


@cache
def _table(chain: tuple[int, ...], grace: bool) -> list[Row]:
    return [Row(chain, grace)] * ROWS


def _service(entry: dict[str, Any]) -> Service:
    return Service(entry["slot"], entry.get("up", True), entry.get("affinity", 5))


def fixtures() -> Iterator[Fixture]:
    """All fixtures of all files."""
    for path in sorted(FOLDER.glob("*.yml")):
        if path.name != "world.yml":
            for entry in yaml.safe_load(path.read_text()):
                yield _fixture(f"{path.stem}: {entry['what']}", entry)


def _fixture(name: str, entry: dict[str, Any]) -> Fixture:
    try:
        unknown = entry.keys() - {"what", "in", "cut", "maps", "service", "verdict", "out", "counted", "never"}
        assert not unknown, f"unknown: {unknown}"
        frame = bytes(_packet(entry["in"]))[: entry.get("cut")]
        slot = _world_file()["services"][entry["service"]]["slot"] if "service" in entry else 0
        world = _with_maps(base_world(), slot, entry.get("maps", {}))
        counted = tuple((slot, event) for event in entry["counted"])
        return Fixture(name, frame, world, slot, entry["verdict"], _out(frame, entry.get("out")), counted,
                       tuple(entry["never"]))  # fmt: skip
    except Exception as error:
        error.add_note(f"in the fixture {name!r}")
        raise


def _with_maps(world: World, slot: int, maps: dict[str, Any]) -> World:
    unknown = maps.keys() - {"chain", "grace", "up", "no_mac"}
    assert not unknown, f"unknown: {unknown}"
    tables = dict(world.tables)
    if slot in tables:
        default = tables[slot][0]
        tables[slot] = _table(tuple(maps.get("chain", default.chain)), maps.get("grace", False))
    nodes = {
        number: replace(node, mac=None) if number in maps.get("no_mac", ()) else node
        for number, node in world.nodes.items()
    }
    services = {
        key: replace(service, up=maps.get("up", service.up)) if service.slot == slot else service
        for key, service in world.services.items()
    }
    return replace(world, tables=tables, nodes=nodes, services=services)


def _packet(layers: list[Any]) -> Packet:
    """Stack layers; those of the outermost packet have the world's addresses unless they say otherwise."""
    data = _world_file()
    pairs = [next(iter(layer.items())) if isinstance(layer, dict) else (layer, {}) for layer in layers]
    if pairs[0][0] != "eth":
        pairs.insert(0, ("eth", {}))
    packet: Packet | None = None
    for kind, given in pairs:
        layer = _layer(kind, given, data["defaults"])
        packet = layer if packet is None else packet / layer
    assert packet is not None
    return packet


def _layer(kind: str, given: Any, defaults: dict[str, dict[str, Any]]) -> Packet:
    if kind == "raw":
        load = bytes.fromhex(given) if isinstance(given, str) else b"\xa5" * given
        return Raw(load)
    values = {**defaults.get(kind, {}), **(given or {})}
    if kind == "eth" and "marker" in values:
        hop, tag = values.pop("marker")
        values["src"] = f"02:4c:42:{hop:02x}:{tag >> 8:02x}:{tag & 0xFF:02x}"
    quote = values.pop("quote", None)
    options = values.get("options")
    if isinstance(options, str):
        values["options"] = []
    values = {name: NAMES.get(value, value) if isinstance(value, str) else value for name, value in values.items()}
    layer = LAYERS[kind](**values)
    if isinstance(options, str):
        layer = _with_options(layer, bytes.fromhex(options))
    if quote:
        layer /= Raw(_quoted(quote))
    return layer


def _with_options(layer: Packet, options: bytes) -> Packet:
    layer.options = [IPOption(options)]
    return layer


def _quoted(quote: dict[str, Any]) -> bytes:
    """The first bytes of a packet, as an ICMP error quotes it."""
    layers = [_layer(*next(iter(layer.items())), _world_file()["reply"]) for layer in quote["of"]]
    packet = layers[0]
    for layer in layers[1:]:
        packet /= layer
    return bytes(packet)[: quote.get("cut", 28)]


def _out(frame: bytes, out: dict[str, Any] | None) -> bytes:
    if out is None:
        return frame
    nodes = _world_file()["nodes"]
    tag = nodes[_world_file()["me"]]["tag"]
    marker = bytes([2, 0x4C, 0x42, out["hop"], tag >> 8, tag & 0xFF])
    return bytes.fromhex(nodes[out["to"]]["mac"].replace(":", "")) + marker + frame[12:]
